"""What each loss, and a context encoder that learns, adds to the likelihood for retrieval.

    python benchmarks/joint_losses.py --encoder M --data FOLDER --output_dir runs/joint

FOLDER holds passages.tsv, train.json and dev.json, the questions with gold passages; all passages
are the index. M is a sentence encoder, for questions and passages alike; the generator is the
starter's unless one is named. Four models are trained from one start for so many epochs: by the
likelihood alone, then with `contrastive`, `lsr` and the context encoder added one after the other.
What is reported is retrieval on dev.json, from the index that training leaves. A way that has been
trained in --output_dir, by the same flags, is not trained again. Prints a table, and one JSON line
last.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import side_by_side
from side_by_side import command

STARTER = Path(__file__).resolve().parents[1] / "data" / "starter" / "generator"
FIGURES = ("recall@1", "recall@5", "recall@20", "mrr@10")
BOTH = ["question_encoder", "generator"]
# What is trained, and by which losses beside the likelihood.
WAYS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "likelihood": (BOTH, ()),
    "+ contrastive": (BOTH, ("contrastive",)),
    "+ lsr": (BOTH, ("contrastive", "lsr")),
    "+ context encoder": (["context_encoder", *BOTH], ("contrastive", "lsr")),
}


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", required=True, help="folder or Hub name")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--generator", default=str(STARTER))
    parser.add_argument("--scale", type=float, default=20, help="of inner products in p(z|x)")
    parser.add_argument("--max_combined_length", type=int, default=300, help="tokens of a context")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--n_docs", type=int, default=5)
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="of the generator")
    parser.add_argument("--learning_rate_encoders", type=float, default=2e-5)
    parser.add_argument("--contrastive", type=float, default=4, help="weight of this loss")
    parser.add_argument("--contrastive_negatives", choices=("all", "in_batch"), default="all")
    parser.add_argument("--lsr", type=float, default=0.2, help="weight of this one, per token")
    parser.add_argument("--refresh_steps", type=int, default=30)
    parser.add_argument("--ways", type=int, nargs="+", default=[0, 1, 2, 3], help="0 to 3")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def start(args: argparse.Namespace) -> Path:
    """The model that all begin with, and its index, made if they are not there."""
    output, questions = args.output_dir, args.data / "train.json"
    if not (output / "index").is_dir():
        of = ["--passages", args.data / "passages.tsv", "--passage_words", 0]
        command("index", *of, "--context_encoder", args.encoder, "--output_dir", output / "index")
    if not (output / "assembled").is_dir():
        parts = ["--question_encoder", args.encoder, "--generator", args.generator]
        of = ["--index", output / "index", "--scale", args.scale, "--questions", questions]
        of += ["--max_combined_length", args.max_combined_length]
        command("assemble", *parts, *of, "--output_dir", output / "assembled")
    return Path(output / "assembled")


def train(way: str, args: argparse.Namespace) -> tuple[Path, float]:
    """Train one way; its folder, and the seconds that it took."""
    trainable, losses = WAYS[way]
    folder = args.output_dir / way.replace("+ ", "with ").replace(" ", "_")
    more: list[Any] = ["--learning_rate_question_encoder", args.learning_rate_encoders]
    if losses:
        weights = (f"{name}:{getattr(args, name)}" for name in losses)
        more += ["--retriever_loss", ",".join(weights)]
        more += ["--contrastive_negatives", args.contrastive_negatives]
    if "lsr" in losses:
        more += ["--lm_likelihood", "per_token"]
    if "context_encoder" in trainable:
        more += ["--learning_rate_context_encoder", args.learning_rate_encoders]
        more += ["--index_refresh", "blocking", "--index_refresh_steps", args.refresh_steps]
    results = folder / "train_results.json"
    if not results.is_file():
        shutil.rmtree(folder, ignore_errors=True)  # what was not finished
        command(
            *("train", "--model_name_or_path", args.output_dir / "assembled"),
            *("--index", args.output_dir / "index", "--output_dir", folder, *more),
            *("--train_file", args.data / "train.json", "--validation_split", 0),
            *("--trainable", *trainable, "--n_docs", args.n_docs, "--seed", args.seed),
            *("--num_train_epochs", args.epochs, "--learning_rate", args.learning_rate),
            *("--per_device_train_batch_size", args.batch_size, "--logging_steps", 10),
            *("--save_strategy", "no", "--disable_tqdm", "true", "--report_to", "none"),
        )
    return folder, float(json.loads(results.read_text(encoding="utf-8"))["train_runtime"])


def figures(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Retrieval on dev.json."""
    output = folder.with_name(f"{folder.name}_figures")
    if not (output / "metrics.json").is_file():
        of = ["--eval_file", args.data / "dev.json", "--retrieval_only"]
        command("evaluate", "--model_name_or_path", folder, *of, "--output_dir", output)
    found = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    return {name: round(found[name], 4) for name in FIGURES}


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on; written into the folder, which is for these alone."""
    names = (
        "scale",
        "max_combined_length",
        "epochs",
        "batch_size",
        "n_docs",
        "learning_rate",
        "learning_rate_encoders",
        "contrastive",
        "contrastive_negatives",
        "lsr",
    )
    settings = {name: getattr(args, name) for name in (*names, "refresh_steps", "seed")}
    path = args.output_dir / "settings.json"
    if path.is_file() and settings | json.loads(path.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{path}: was made by other flags. Choose another --output_dir.")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
    return settings


def main() -> None:
    """Train, measure, print."""
    args = parse()
    side_by_side.use_threads(args.threads)
    settings = settings_of(args)
    found: dict[str, Any] = {"untrained": figures(start(args), args)}
    for way in [list(WAYS)[number] for number in args.ways]:
        folder, seconds = train(way, args)
        found[way] = figures(folder, args) | {"seconds": round(seconds, 1)}
    print(f"{'':18}" + "".join(f"{name:>11}" for name in FIGURES))
    for way, row in found.items():
        print(f"{way:18}" + "".join(f"{row[name]:11.4f}" for name in FIGURES))
    result = {"benchmark": "joint_losses", **found, "settings": settings}
    print(json.dumps(result | side_by_side.facts()))


if __name__ == "__main__":
    main()
