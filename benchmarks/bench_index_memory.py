"""Private memory while an index is built and opened, by the number of passages.

    python benchmarks/bench_index_memory.py [--small 20000] [--large 200000] [--folder DIR]

Passages are synthetic, about 20 words each; the encoder is a tiny DPR of dimension 64, drawn at
random. Each build runs in a process of its own whose `Anonymous:` (smaps_rollup: memory that it
shares with nobody and no file backs) is read every 20 ms. Prints one JSON line last.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WORDS = [first + last for first in "bdfgklmnprst" for last in ("a", "en", "il", "or", "us")]
DIMENSION = 64


def anonymous() -> float:
    """Anonymous memory of this process, in MB."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/smaps_rollup has no Anonymous: line")


class Peak(threading.Thread):
    """Reads anonymous memory until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.over = 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.highest = max(self.highest, anonymous())


def write_passages(path: Path, count: int) -> None:
    draw = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            text = " ".join(draw.choices(WORDS, k=draw.randint(10, 30)))
            file.write(json.dumps({"id": str(number), "title": "", "text": text}) + "\n")


def save_encoder(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import DPRConfig, DPRContextEncoder, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, sep_token="[SEP]", **special)
    torch.manual_seed(0)
    config = DPRConfig(
        vocab_size=len(vocabulary),
        hidden_size=DIMENSION,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * DIMENSION,
        max_position_embeddings=64,
    )
    DPRContextEncoder(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)


def build(folder: Path, count: int) -> dict[str, float]:
    """Build an index of `count` passages through the command, in this process."""
    from rag_finetune.__main__ import main

    words = ["--passages", folder / f"{count}.jsonl", "--context_encoder", folder / "encoder"]
    words += ["--output_dir", folder / f"index-{count}", "--passage_words", "0"]
    peak, start = Peak(), time.monotonic()
    peak.start()
    if main(["index", *map(str, words)]):
        raise SystemExit("the build failed")
    seconds = time.monotonic() - start
    peak.over.set()
    peak.join()
    return {"peak_anonymous_mb": round(peak.highest, 1), "seconds": round(seconds, 1)}


def open_once(folder: Path, count: int) -> dict[str, float]:
    """Open the index, search it and read what was found."""
    import numpy as np

    from rag_finetune.index.store import open_index

    before, start = anonymous(), time.monotonic()
    index = open_index(folder / f"index-{count}")
    seconds, opened = time.monotonic() - start, anonymous()
    _, rows = index.search(np.ones((4, DIMENSION), dtype=np.float32), 5)
    index.gather(rows)
    return {
        "open_anonymous_mb": round(opened - before, 1),
        "open_and_search_anonymous_mb": round(anonymous() - before, 1),
        "open_seconds": round(seconds, 3),
    }


def apart(step: str, folder: Path, count: int) -> dict[str, float]:
    """Run one step in a process of its own."""
    words = [sys.executable, __file__, "--step", step, "--folder", folder, "--large", count]
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{step} {count} failed: {done.stdout[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(folder: Path, small: int, large: int) -> dict[str, object]:
    save_encoder(folder / "encoder")
    builds = {}
    for count in (small, large):
        write_passages(folder / f"{count}.jsonl", count)
        builds[count] = apart("build", folder, count)
    ratio = builds[large]["peak_anonymous_mb"] / builds[small]["peak_anonymous_mb"]
    opened = apart("open", folder, large)
    return {"build": builds, "memory_ratio": round(ratio, 3), "open": opened}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--large", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--step", choices=("build", "open"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step = build if args.step == "build" else open_once
        print(json.dumps(step(args.folder, args.large)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(json.dumps(measure(Path(folder), args.small, args.large)))


if __name__ == "__main__":
    main()
