"""What benchmarks share: sides timed in turn, memory in a process of its own, one JSON line last.

Needs torch and transformers only, so that it runs on a bare GPU machine.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# width, encoder and decoder layers, heads of the generator; width, layers, heads of DPR
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"generator": (64, 2, 4), "encoder": (64, 2, 4), "vocabulary": 1000},
    "base": {"generator": (768, 6, 12), "encoder": (768, 12, 12), "vocabulary": 50265},
    "large": {"generator": (1024, 12, 16), "encoder": (768, 12, 12), "vocabulary": 50265},
}
SYNTHETIC_LENGTH = 115  # BART tokens of a passage of 100 words
PAD, BOS, EOS = 1, 0, 2
Result = TypeVar("Result")
VERSIONS = ("torch", "transformers", "numpy", "datasets", "faiss-cpu", "sentence-transformers")


def make_parser(description: str, *, has_network: bool = True) -> argparse.ArgumentParser:
    """The flags that every benchmark has; --device and --dtype only where a network computes."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--size", choices=SHAPES, default="tiny")
    if has_network:
        parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16: under autocast")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side")
    parser.add_argument("--threads", type=int, help="of torch; default: every core")
    parser.add_argument("--seed", type=int, default=0)
    # What a benchmark calls itself with, to measure one side's memory.
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    return parser


def use_threads(count: int | None) -> None:
    """Give torch so many threads; by default one for every core that the process may use."""
    torch.set_num_threads(count or len(os.sched_getaffinity(0)))


def command(*words: object) -> None:
    """Run a command of rag-finetune; end where it fails."""
    from rag_finetune.__main__ import main

    code = main([str(word) for word in words])
    if code:
        raise SystemExit(code)


# ---- Time ----


def synchronize(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], object], device: str = "cpu") -> float:
    """Wall-clock time of one call."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def alternate(
    sides: dict[str, Callable[[], object]], repeats: int, device: str = "cpu", warmups: int = 1
) -> dict[str, Any]:
    """Time calls in turn: first all sides warm up, then each runs once a round.

    Args:
        sides: what to time, by name; with "ours" and "plain", their ratio is given too.
        repeats: timed runs of each.
        device: whose work counts.
        warmups: untimed runs of each.

    Returns:
        `seconds`, the median of each side; `all_seconds`; `ratio`, plain ÷ ours.
    """
    if repeats < 1:
        raise SystemExit(f"--repeats must be at least 1, found {repeats}.")
    for _ in range(warmups):
        for call in sides.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        names = list(sides)
        for name in names if number % 2 else reversed(names):  # neither is always the first
            times[name].append(seconds_of(sides[name], device))
    medians = {name: statistics.median(found) for name, found in times.items()}
    result: dict[str, Any] = {
        "seconds": {name: round(value, 5) for name, value in medians.items()},
        "all_seconds": {name: [round(v, 5) for v in found] for name, found in times.items()},
    }
    if {"ours", "plain"} <= set(sides):
        ratio = medians["plain"] / medians["ours"]
        result["ratio"] = float(f"{ratio:.4g}")  # digits, not decimals: toy sizes go far below 1
    return result


def with_operations(call: Callable[[], Result]) -> tuple[Result, int]:
    """What a call gives, and the floating-point operations of its matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = call()
    return result, counter.get_total_flops()


# ---- Memory ----


def resident_bytes(field: str = "VmRSS") -> int:
    """A field of /proc/self/status: VmRSS, VmHWM (its highest), RssAnon, …, in bytes."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    if match is None:
        raise OSError(f"/proc/self/status has no {field}: line")
    return int(match[1]) * 1024


class PeakMemory:
    """Memory that a block of code takes above what was held when it began, in bytes.

    On a CUDA device what torch's allocator handed out; else what the process holds resident.

    with PeakMemory(device) as peak:
        step()
    print(peak.before, peak.above)
    """

    def __init__(self, device: str = "cpu") -> None:
        self.is_cuda = torch.device(device).type == "cuda"
        self.before = self.above = 0

    def __enter__(self) -> "PeakMemory":
        if self.is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
            self.before = resident_bytes()
        return self

    def __exit__(self, *error: object) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() if self.is_cuda else resident_bytes("VmHWM")
        self.above = peak - self.before


def in_own_process(script: str, words: Sequence[object]) -> dict[str, Any]:
    """Run a script, and read the JSON of its last line."""
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stdout[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def megabytes(count: float) -> float:
    """Bytes in MB, rounded."""
    return round(count / 1e6, 1)


# ---- What was run on ----


def facts(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads, accelerator, and versions of what is installed."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    machine: dict[str, Any] = {
        "processor": name[1] if name else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "bf16": sorted({flag for flag in ("amx_bf16", "avx512_bf16") if f" {flag}" in text}),
    }
    if torch.device(device).type == "cuda":
        machine["accelerator"] = torch.cuda.get_device_name()
    versions = {"python": platform.python_version()}
    for package in VERSIONS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"machine": machine, "versions": versions}


def matrix_rate(device: str, dtype: torch.dtype, size: int | None = None) -> float:
    """Floating-point operations a second of a large square product, the best of five."""
    size = size or (8192 if torch.device(device).type == "cuda" else 1024)
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    best = min(seconds_of(lambda: left @ right, device) for _ in range(6))
    return 2 * size**3 / best


def finish(result: dict[str, Any]) -> None:
    """Print the one line of JSON that ends a benchmark."""
    sys.stdout.flush()
    print(json.dumps(result), flush=True)


# ---- What is run: models with random weights, and given contexts and scores ----


def build_rag(size: str, head: str = "rag_sequence", seed: int = 0, **options: Any) -> Any:
    """A RAG model of DPR and BART with random weights, sdpa attention, no retriever.

    Args:
        size: a key of SHAPES.
        head: "rag_sequence" or "rag_token".
        seed: of the weights.
        **options: of `RagConfig`: n_docs, max_combined_length, …
    """
    from transformers import (
        BartConfig,
        DPRConfig,
        RagConfig,
        RagSequenceForGeneration,
        RagTokenForGeneration,
    )

    torch.manual_seed(seed)
    shape = SHAPES[size]
    width, layers, heads = shape["encoder"]
    question_encoder = DPRConfig(
        vocab_size=min(30522, shape["vocabulary"]),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    width, layers, heads = shape["generator"]
    generator = BartConfig(
        vocab_size=shape["vocabulary"],
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=EOS,
    )
    config = RagConfig.from_question_encoder_generator_configs(
        question_encoder, generator, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, **options
    )
    config._attn_implementation = "sdpa"
    kind = {"rag_sequence": RagSequenceForGeneration, "rag_token": RagTokenForGeneration}[head]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(config)


def pad_rows(rows: Sequence[Sequence[int]], pad: int, length: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and mask, shape (rows, longest or `length`), padded on the right."""
    length = max([length, *map(len, rows)])
    ids = torch.full((len(rows), length), pad)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(length) < lengths.unsqueeze(1)).long()


def synthetic_contexts(count: int, vocabulary: int, draw: random.Random) -> list[list[int]]:
    """Random contexts of passages of 100 words: about 115 tokens and a question of 12."""
    return [
        [BOS, *(draw.randrange(4, vocabulary) for _ in range(length)), EOS]
        for length in (SYNTHETIC_LENGTH + 10 for _ in range(count))
    ]


def text_contexts(
    path: Path, count: int, vocabulary: int, tokenizer: str | Path, draw: random.Random
) -> list[list[int]]:
    """Contexts of the lines of a file, one passage a line, as a tokenizer cuts them.

    Args:
        path: text, one passage a line.
        count: lines to draw.
        vocabulary: ids are taken modulo this, so that they fit a model with random weights.
        tokenizer: a folder with a tokenizer.json.
        draw: chooses the lines.
    """
    from transformers import PreTrainedTokenizerFast

    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    if len(lines) < count:
        raise SystemExit(f"{path}: expected at least {count} lines of text, found {len(lines)}.")
    cut = PreTrainedTokenizerFast(tokenizer_file=str(Path(tokenizer) / "tokenizer.json"))
    found = cut(draw.sample(lines, count), add_special_tokens=False)["input_ids"]
    return [[BOS, *(4 + token % (vocabulary - 4) for token in row), EOS] for row in found]
