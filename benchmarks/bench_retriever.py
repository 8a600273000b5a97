"""Retriever training: ours against sentence-transformers' trainer, from one encoder on one file.

    pip install --no-deps sentence-transformers scikit-learn scipy joblib threadpoolctl narwhals
    python benchmarks/bench_retriever.py --encoder M --data FOLDER [--seeds 1 2 3] [--threads 2]

FOLDER holds passages.tsv, train.json and dev.json; all passages are the index. Both sides get the
same pairs of question and first gold passage, in-batch negatives, cosine over 0.05, AdamW, a
linear schedule without warm-up, and float32, or autocast (`--dtype bf16`). A time is that of
everything from texts to a trained model, tokenising included; loading and evaluation are not. The
ratio is the mean over seeds whose two sides ran on like machines: of seconds where nothing else
ran (`--timed`), and of processor seconds. Both are measured by our exact search over all passages.
`--sides plain ours mined --mined FILE` also trains ours on FILE, as `mine-negatives` writes it,
with its hard negatives; `--max_steps 8 --times_only` times few steps. Runs in the `--output` file
are not done again, so that a long comparison can be made in parts. Prints one JSON line last.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import side_by_side
import torch

SHOWN = ("recall@1", "recall@5", "recall@20", "mrr@10", "ndcg@10")


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", required=True, help="a sentence-transformers folder")
    parser.add_argument("--data", required=True, help="folder of passages and questions")
    parser.add_argument("--mined", help="training questions with mined hard negatives, as DPR")
    parser.add_argument("--n_negatives", type=int, default=1, help="of --mined, a question")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=-1)
    parser.add_argument("--learning_rate", type=float, default=2e-5)
    parser.add_argument("--max_length", type=int, default=256)
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16"), default="fp32", help="bf16: both sides under autocast"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", default=["plain", "ours"])
    parser.add_argument("--options", nargs="*", default=[], help="more of ours: name=value")
    parser.add_argument("--timed", action="store_true", help="nothing else runs: times count")
    parser.add_argument("--times_only", action="store_true", help="measure no retrieval")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no run that takes longer")
    parser.add_argument("--output", help="a file to keep runs in; those that it has are not redone")
    args = parser.parse_args()
    if "mined" in args.sides and not args.mined:
        parser.error("--sides mined trains on --mined FILE: give it")
    return args


def shared_arguments(args: argparse.Namespace, folder: str, seed: int) -> dict[str, Any]:
    """Training arguments that are the same on both sides."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": args.batch_size,
        "num_train_epochs": args.epochs,
        "max_steps": args.max_steps,
        "learning_rate": args.learning_rate,
        "warmup_steps": 0,
        "seed": seed,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_steps": 1000,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
        "bf16": args.dtype == "bf16",
    }


def train_plain(
    args: argparse.Namespace, data: Any, seed: int, folder: str
) -> tuple[dict[str, float], Any]:
    """Seconds and trained encoders of sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(args.encoder, device="cpu")
    model.max_seq_length = args.max_length
    start = clocks()
    texts = {row["id"]: f"{row['title']} {row['text']}".strip() for row in data.passages}
    pairs = Dataset.from_dict(
        {
            "anchor": list(data.train["question"]),
            "positive": [texts[golds[0]] for golds in data.train["positive_ids"]],
        }
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**shared_arguments(args, folder, seed)),
        train_dataset=pairs,
        loss=MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    seconds = since(start)
    encoders = load_pair(args)
    for encoder in encoders:  # the weights that were trained, in our reading of the same folder
        taken = encoder.model.inner.load_state_dict(model[0].auto_model.state_dict(), strict=False)
        if taken.missing_keys:
            raise RuntimeError(f"weights of another name: {taken.missing_keys[0]}")
    return seconds, encoders


def load_pair(args: argparse.Namespace) -> tuple[Any, Any]:
    """Question and context encoder as ours loads them."""
    from rag_finetune.encoders.load import load_context_encoder, load_question_encoder

    length = args.max_length
    return load_question_encoder(args.encoder, length), load_context_encoder(args.encoder, length)


def train_mined(
    args: argparse.Namespace, data: Any, seed: int, folder: str
) -> tuple[dict[str, float], Any]:
    """Seconds and trained encoders of ours, with mined negatives."""
    return train_ours(args, data, seed, folder, args.n_negatives)


def train_ours(
    args: argparse.Namespace, data: Any, seed: int, folder: str, count: int = 0
) -> tuple[dict[str, float], Any]:
    """Seconds and trained encoders of ours."""
    from rag_finetune.training.biencoder import tie
    from rag_finetune.training.retriever_arguments import RetrieverTrainingArguments
    from rag_finetune.training.retriever_data import RetrieverExamples
    from rag_finetune.training.retriever_trainer import RetrieverTrainer

    more = {name: json.loads(value) for name, _, value in (o.partition("=") for o in args.options)}
    torch.manual_seed(seed)
    encoders = load_pair(args)
    tie(*encoders)
    start = clocks()
    arguments = RetrieverTrainingArguments(**{**shared_arguments(args, folder, seed), **more})
    train, mined = (data.mined_train, data.mined) if count else (data.train, None)
    examples = RetrieverExamples(train, data.passages, mined, n_negatives=count, seed=seed)
    trainer = RetrieverTrainer(*encoders, arguments, examples, tied=True)
    trainer.train()
    return since(start), encoders


def clocks() -> dict[str, float]:
    """What passes by, and what this process is given of its processors."""
    return {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}


def since(start: dict[str, float]) -> dict[str, float]:
    """How far both clocks have gone."""
    return {name: now - start[name] for name, now in clocks().items()}


def machine_of(result: dict[str, Any]) -> str:
    """A name that only machines of like speed share."""
    machine = result["machine"]
    return ", ".join([machine["processor"], f"{machine['cores']} cores", *machine["bf16"]])


class Data:
    """Passages and questions, read once."""

    def __init__(self, folder: Path, mined: str | None) -> None:
        from rag_finetune.data.passages import load_passages
        from rag_finetune.data.qa import load_questions
        from rag_finetune.index.gold import Passages, resolve_positives
        from rag_finetune.training.retriever_data import load_mined

        self.passages = load_passages(folder / "passages.tsv", 0)
        source = Passages(self.passages, folder)
        self.train = resolve_positives(load_questions(folder / "train.json"), source)
        self.dev = resolve_positives(load_questions(folder / "dev.json"), source)
        self.mined_train = self.mined = None
        if mined:
            self.mined_train = resolve_positives(load_questions(mined), source)
            self.mined = load_mined(mined, len(self.mined_train))


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and spread of each figure over the seeds; of seconds over the timed runs alone."""
    timed = [row["seconds"] for row in rows if row["timed"]]
    values = {name: [row[name] for row in rows if name in row] for name in (*SHOWN, "cpu_seconds")}
    values = {name: found for name, found in (values | {"seconds": timed}).items() if found}
    return {
        name: {
            "mean": round(statistics.mean(found), 4),
            "spread": round(max(found) - min(found), 4),
            "runs": len(found),
        }
        for name, found in values.items()
    }


def result_of(args: argparse.Namespace, runs: list[dict[str, Any]], before: Any) -> dict[str, Any]:
    """What is known so far."""
    sides = {
        side: summary(rows)
        for side in TRAINERS
        if (rows := [row for row in runs if row["side"] == side])
    }
    names = (
        "n_negatives",
        "batch_size",
        "epochs",
        "max_steps",
        "learning_rate",
        "max_length",
        "threads",
        "dtype",
    )
    result = {
        "benchmark": "retriever",
        "untrained": {name: round(before[name], 4) for name in before if name in SHOWN},
        **sides,
        "settings": {name: getattr(args, name) for name in (*names, "options", "mined")},
        **side_by_side.facts(),
        "runs": runs,
    }
    for name, measure in (("time_ratio", "seconds"), ("cpu_time_ratio", "cpu_seconds")):
        ratios = ratios_of(runs, measure)
        if ratios:
            result[name] = {"mean": round(statistics.mean(ratios), 3), "of": ratios}
    return result


def ratios_of(runs: list[dict[str, Any]], measure: str) -> list[float]:
    """Our time as a share of theirs, by seed, where both sides ran on like machines."""
    times = {
        side: {
            (row["seed"], row["machine"]): row[measure]
            for row in runs
            if row["side"] == side and "machine" in row and measure in row
            if row["timed"] or measure != "seconds"
        }
        for side in ("ours", "plain")
    }
    both = sorted(times["ours"].keys() & times["plain"].keys())
    return [round(times["ours"][key] / times["plain"][key], 3) for key in both]


def main() -> None:
    """Train, measure and print."""
    args = parse()
    torch.set_num_threads(args.threads)
    from rag_finetune.training.retriever_evaluation import retrieval_figures

    folder, started = Path(args.data), time.monotonic()
    data = Data(folder, args.mined)
    output = Path(args.output) if args.output else None
    known = json.loads(output.read_text(encoding="utf-8")) if output and output.exists() else {}
    runs: list[dict[str, Any]] = known.get("runs", [])
    before: dict[str, float] = known.get("untrained", {})
    if not before and not args.times_only:
        before = retrieval_figures(*load_pair(args), data.dev, data.passages)
    longest: dict[str, float] = {}
    result = result_of(args, runs, before)
    for seed in args.seeds:
        for side in args.sides if seed % 2 else args.sides[::-1]:
            done = any((row["side"], row["seed"]) == (side, seed) for row in runs)
            left = args.minutes * 60 - (time.monotonic() - started)
            if done or left < longest.get(side, 0.0):
                continue
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as scratch:
                seconds, encoders = TRAINERS[side](args, data, seed, scratch)
            figures = {}
            if not args.times_only:
                figures = retrieval_figures(*encoders, data.dev, data.passages)
            longest[side] = time.monotonic() - begun
            row = {"side": side, "seed": seed, "timed": args.timed, "machine": machine_of(result)}
            row["questions"] = len(data.mined_train if side == "mined" else data.train)
            row |= {name: round(value, 2) for name, value in seconds.items()}
            runs.append(row | {name: round(figures[name], 4) for name in figures if name in SHOWN})
            print(runs[-1], flush=True)
            result = result_of(args, runs, before)
            if output:
                output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    side_by_side.finish(result)


TRAINERS: dict[str, Callable[..., tuple[float, Any]]] = {
    "plain": train_plain,
    "ours": train_ours,
    "mined": train_mined,
}

if __name__ == "__main__":
    main()
