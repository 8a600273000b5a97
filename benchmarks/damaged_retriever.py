"""Can the generator alone mend a damaged retriever? The starter model on the chemical elements.

Noise is added to the weights of the starter's question encoder until recall@5 on the test is
below 0.6. Then the question encoder alone is trained by what the generator thinks of passages
(`rag-finetune train --retriever_loss lsr --likelihood_weight 0`), without gold passages; the
generator is held against its bits from before. The last line is JSON.

    python benchmarks/damaged_retriever.py --output_dir runs/damaged

What follows -- goes to `rag-finetune train` (with --decoder to `train-causal`) and wins over what
stands here, as in

    python benchmarks/damaged_retriever.py --output_dir runs/damaged -- --retriever_loss emdr2

--decoder names a decoder-only generator to judge in place of the starter's. With --fedrag_python,
the Python of an environment that has FedRAG, that package's trainer gets the same parts to train
on (`fedrag_retriever.py`); it has a prompt of its own.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from side_by_side import command

from rag_finetune.data.qa import load_questions
from rag_finetune.encoders.dpr import bert_from_dpr
from rag_finetune.encoders.load import load_question_encoder
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.evaluation.retrieval_only import evaluate_retrieval
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.rag.generation import question_encoder_of

DATA = Path(__file__).resolve().parents[1] / "data"
SETTINGS = ("steps", "batch_size", "n_docs", "learning_rate")
FIGURES = ("recall@1", "recall@5", "recall@10", "mrr@10", "distinct_passages", "doc_entropy")
TRAINING = """
--trainable question_encoder --likelihood_weight 0
--warmup_steps 20 --max_target_length 48 --logging_steps 20 --eval_strategy no --save_strategy no
--probe false --disable_tqdm true --report_to none
"""
LOSS = ("--retriever_loss", "lsr", "--lsr_direction", "lm_retriever")  # unless another is named


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", required=True, help="a new folder for all that is made")
    parser.add_argument("--starter", default=str(DATA / "starter"), help="folder of three networks")
    parser.add_argument(
        "--data", default=str(DATA / "elements"), help="passages.tsv, train.json, …"
    )
    parser.add_argument("--below", type=float, default=0.6, help="recall@5 of the damaged encoder")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--decoder", help="a decoder-only generator, to judge passages")
    parser.add_argument("--prompt_template", help="its prompt")
    parser.add_argument("--fedrag_python", help="train by FedRAG: its environment's Python")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--n_docs", type=int, default=20)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    return parser


def damage(
    encoder: TextEncoder, index: PassageIndex, questions: Any, below: float, seed: int
) -> float:
    """Add noise to an encoder's weights, more and more, until recall@5 is below a bound.

    Returns:
        The noise's standard deviation, as a share of that of each matrix.
    """
    network: Any = encoder.model
    matrices = [p for p in network.parameters() if p.ndim > 1 and p.std() > 0]
    sound = [p.detach().clone() for p in matrices]
    draw = torch.Generator().manual_seed(seed)
    noise = [torch.randn(p.shape, generator=draw) * p.std() for p in sound]
    for step in range(1, 101):
        with torch.no_grad():
            for p, before, off in zip(matrices, sound, noise, strict=True):
                p.copy_(before + 0.05 * step * off)
        if figures(encoder, index, questions)["recall@5"] < below:
            return 0.05 * step
    raise SystemExit("recall@5 stays above the bound whatever the noise: is this the right index?")


def figures(encoder: TextEncoder, index: PassageIndex, questions: Any) -> dict[str, float]:
    """Retrieval on questions."""
    found = evaluate_retrieval(encoder, index, questions).metrics
    return {name: round(found[name], 4) for name in FIGURES}


def train(args: Any, training: list[str], index: PassageIndex, test: Any) -> dict[str, Any]:
    """Mend the question encoder in --output_dir; seconds, figures, and whether it moved alone."""
    output, generator = Path(args.output_dir), args.decoder or Path(args.starter) / "generator"
    more = ["--prompt_template", args.prompt_template] if args.prompt_template else []
    command(
        *("assemble", "--question_encoder", output / "question_encoder", "--generator", generator),
        *("--index", output / "index", "--output_dir", output / "assembled", *more),
        *([] if args.decoder else ["--questions", Path(args.data) / "train.json"]),
    )
    command(
        *(("train-causal" if args.decoder else "train"), "--index", output / "index"),
        *("--model_name_or_path", output / "assembled", "--output_dir", output / "model"),
        *("--train_file", Path(args.data) / "train.json", "--max_steps", args.steps),
        *("--per_device_train_batch_size", args.batch_size, "--n_docs", args.n_docs),
        *("--learning_rate", args.learning_rate, *TRAINING.split()),
        *([] if "--retriever_loss" in training else LOSS),
        *training,
    )
    found = json.loads((output / "model" / "train_results.json").read_text(encoding="utf-8"))
    report: dict[str, Any] = {
        "trainer": "rag-finetune",
        "seconds": round(found["train_runtime"], 1),
    }
    before = load_rag(output / "assembled", with_index=False).model.generator.state_dict()
    trained = load_rag(output / "model")
    report["trained"] = figures(question_encoder_of(trained, 128), index, test)
    after = trained.model.generator.state_dict()
    report["generator_untouched"] = all(torch.equal(before[name], after[name]) for name in before)
    return report


def name_tokenizer_as_before(folder: Path) -> None:
    """Give a tokenizer's class the name that Transformers 4 knows it by."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings), encoding="utf-8")


def train_fedrag(args: Any, encoder: TextEncoder, index: PassageIndex) -> dict[str, Any]:
    """Train a DPR question encoder in place by FedRAG; seconds, and how many tensors moved."""
    folder, bert = Path(args.output_dir) / "fedrag", bert_from_dpr(encoder.model)
    bert.save_pretrained(folder / "encoder")
    encoder.tokenizer.save_pretrained(folder / "encoder")
    shutil.copytree(args.decoder, folder / "generator")
    for part in ("encoder", "generator"):
        name_tokenizer_as_before(folder / part)
    questions = load_questions(Path(args.data) / "train.json")
    settings = {name: getattr(args, name) for name in SETTINGS}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    files = {
        "passages": [
            {"id": p["id"], "text": f"{p['title']}\n{p['text']}", "vector": p["embeddings"]}
            for p in index.passages
        ],
        "questions": [{"query": q["question"], "response": q["answers"][0]} for q in questions],
    }
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    script = Path(__file__).with_name("fedrag_retriever.py")
    subprocess.run([args.fedrag_python, str(script), str(folder)], check=True)
    trained = torch.load(folder / "trained.pt", weights_only=True)
    before = bert.state_dict()
    moved = sum(not torch.equal(before[name], trained[name]) for name in before)
    with torch.no_grad():  # into the weights that the encoder shares; a new pooler stays behind
        for name, tensor in before.items():
            tensor.copy_(trained[name])
    report: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return report | {"tensors_moved": f"{moved} of {len(before)}"}


def main() -> None:
    """Damage, train, measure."""
    argv = sys.argv[1:]
    end = argv.index("--") if "--" in argv else len(argv)
    parser, training = make_parser(), argv[end + 1 :]
    args = parser.parse_args(argv[:end])
    if args.fedrag_python and not args.decoder:
        parser.error("FedRAG takes a decoder-only generator: --decoder FOLDER.")
    if args.fedrag_python and (args.prompt_template or training):
        parser.error("FedRAG's trainer takes no --prompt_template, and nothing behind --.")
    output, starter, data = Path(args.output_dir), Path(args.starter), Path(args.data)
    output.mkdir(parents=True)
    command(
        *("index", "--passages", data / "passages.tsv", "--output_dir", output / "index"),
        *("--context_encoder", starter / "context_encoder"),
    )
    index, test = open_index(output / "index"), load_questions(data / "test.json")
    encoder = load_question_encoder(str(starter / "question_encoder"))
    settings = {name: getattr(args, name) for name in ("seed", *SETTINGS)}
    report: dict[str, Any] = {"benchmark": "damaged_retriever", **settings}
    report["sound"] = figures(encoder, index, test)
    report["noise"] = round(damage(encoder, index, test, args.below, args.seed), 2)
    report["damaged"] = figures(encoder, index, test)
    if args.fedrag_python:
        report |= train_fedrag(args, encoder, index)
        report["trained"] = figures(encoder, index, test)
    else:
        encoder.save(output / "question_encoder")
        report |= train(args, training, index, test)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
