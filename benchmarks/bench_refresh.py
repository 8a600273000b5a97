"""What a refresh of the index in the background costs the training that goes on meanwhile.

    python benchmarks/bench_refresh.py --output_dir runs/refresh [--steps 300] [--threads 1]
    python benchmarks/bench_refresh.py --output_dir runs/refresh --model_name_or_path M \\
        --index I --train_file F

One run with `--trainable context_encoder`: every so many steps a process of its own begins to
encode all passages anew, so that steps beside it and steps without it alternate. A step's time is
that from its end back to the end of the one before, so that saving the encoder and changing to the
new index count as steps beside it. By default the starter model on the chemical elements, which is
joined first. Prints one JSON line last: medians, means, and by what share steps beside it are
slower.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import side_by_side
from side_by_side import command
from transformers import TrainerCallback

ROOT = Path(__file__).resolve().parents[1]
ELEMENTS, STARTER = ROOT / "data" / "elements", ROOT / "data" / "starter"
WARM_UP = 5  # steps that do not count


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="a new folder")
    parser.add_argument("--model_name_or_path", help="a checkpoint; default: one is made")
    parser.add_argument("--index", help="its index")
    parser.add_argument("--train_file", default=str(ELEMENTS / "train.json"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--refresh_steps", type=int, default=30, help="from one to the next")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--n_docs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of training; the rest encode")
    return parser.parse_args()


class Clock(TrainerCallback):
    """Notes how long each step took, and whether a refresh ran beside it."""

    def __init__(self) -> None:
        self.refresh: Any = None  # the trainer's, whose callback is called before this one
        self.times: dict[str, list[float]] = {"beside": [], "without": []}
        self.snapshots: set[int] = set()  # steps at which a refresh began
        self.breaks = False  # whether there were steps without one after the first
        self._last, self._was_running = 0.0, False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The refresh has had its turn at the end of this step."""
        now, is_running = time.perf_counter(), self.refresh._building is not None
        if is_running:
            self.snapshots.add(self.refresh._snapshot_step)
        if state.global_step > WARM_UP:
            name = "beside" if is_running or self._was_running else "without"
            self.times[name].append(now - self._last)
            self.breaks |= name == "without" and bool(self.snapshots)
        self._last, self._was_running = now, is_running


def joined(output: Path) -> tuple[str, str]:
    """The starter's networks with an index of the elements."""
    index, assembled = output / "index", output / "assembled"
    of = ["--passages", ELEMENTS / "passages.tsv", "--output_dir", index]
    command("index", *of, "--context_encoder", STARTER / "context_encoder")
    parts = [
        "--question_encoder",
        STARTER / "question_encoder",
        "--generator",
        STARTER / "generator",
    ]
    of = ["--index", index, "--questions", ELEMENTS / "train.json", "--output_dir", assembled]
    command("assemble", *parts, *of)
    return str(assembled), str(index)


def main() -> None:
    """Train, and tell steps beside a refresh from the others."""
    args = parse()
    # The process that encodes takes the cores that these leave.
    side_by_side.use_threads(args.threads)
    from rag_finetune.data.qa import load_questions
    from rag_finetune.rag.checkpoint import load_rag
    from rag_finetune.training.arguments import RagTrainingArguments
    from rag_finetune.training.rag_trainer import RagTrainer

    checkpoint, index = args.model_name_or_path, args.index
    if checkpoint is None:
        checkpoint, index = joined(args.output_dir)
    clock = Clock()
    arguments = RagTrainingArguments(
        output_dir=str(args.output_dir / "run"),
        trainable=["context_encoder"],
        index_refresh="background",
        index_refresh_steps=args.refresh_steps,
        n_docs=args.n_docs,
        per_device_train_batch_size=args.batch_size,
        max_steps=args.steps,
        eval_strategy="no",
        save_strategy="no",
        logging_steps=args.steps,
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
    )
    trainer = RagTrainer(
        load_rag(checkpoint, index=index), arguments, load_questions(args.train_file)
    )
    clock.refresh = trainer.refresh
    trainer.add_callback(clock)
    trainer.train()
    print(json.dumps(result_of(clock, args)))


def result_of(clock: Clock, args: argparse.Namespace) -> dict[str, Any]:
    """What is reported."""
    if not clock.snapshots:
        raise SystemExit("No refresh began: lower --refresh_steps, or raise --steps.")
    if not clock.breaks:
        raise SystemExit("One refresh followed the other: raise --refresh_steps.")
    found = {
        name: {
            "steps": len(seconds),
            "median": round(statistics.median(seconds), 4),
            "mean": round(statistics.mean(seconds), 4),
        }
        for name, seconds in clock.times.items()
    }
    beside, without = found["beside"], found["without"]
    names = ("steps", "refresh_steps", "batch_size", "n_docs", "threads")
    return {
        "benchmark": "refresh",
        **found,
        "refreshes": len(clock.snapshots),
        "slower_by_median": round(beside["median"] / without["median"] - 1, 3),
        "slower_by_mean": round(beside["mean"] / without["mean"] - 1, 3),
        "sizes": {name: getattr(args, name) for name in names},
        "cores": os.cpu_count(),
        **side_by_side.facts(),
    }


if __name__ == "__main__":
    main()
