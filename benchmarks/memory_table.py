"""Peak memory of a training step: n_docs × context length × batch, for base and large.

    python benchmarks/memory_table.py [--sizes base large] [--dtypes fp32 bf16] [--n_docs 5 10]
        [--lengths 128 256] [--batch_sizes 1 4 8] [--device D]

Each cell is a forward and backward of ours (bench_train.py) in a process of its own: GB of weights
and gradients, which bf16 autocast keeps in fp32, plus what the step takes above them. AdamW keeps
as much again as weights and gradients together. A cell that did not fit says so. Prints the table
in Markdown, then one JSON line.
"""

import argparse
import json
import subprocess
import sys
from itertools import product
from typing import Any

import side_by_side
import torch


def make_parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", nargs="+", default=["base", "large"], choices=side_by_side.SHAPES
    )
    parser.add_argument(
        "--dtypes", nargs="+", default=["fp32", "bf16"], choices=side_by_side.DTYPES
    )
    parser.add_argument("--n_docs", nargs="+", type=int, default=[5, 10])
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 256], help="of contexts")
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    # What it calls itself with, for one cell: the JSON of the arguments of bench_train.py.
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    return parser


def measure_cell(options: dict[str, Any]) -> dict[str, Any]:
    """Memory of one step, in this process."""
    import bench_train

    length = options.pop("length")
    # A synthetic context is a passage, a question of ten tokens, and two marks.
    side_by_side.SYNTHETIC_LENGTH = length - 12
    bench_train.MAX_COMBINED_LENGTH = length
    side_by_side.use_threads(None)
    found: dict[str, Any] = bench_train.measure_memory(argparse.Namespace(**options))
    return found


def measure_apart(options: dict[str, Any]) -> float | None:
    """GB of one step in a process of its own; None where it did not fit."""
    words = [sys.executable, __file__, "--cell", json.dumps(options)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        # The kernel kills a process that the memory is too small for.
        if done.returncode == -9 or "out of memory" in done.stderr.lower():
            return None
        raise SystemExit(f"{options} failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return float(found["weights_and_gradients_mb"] + found["above_mb"]) / 1000


def main() -> None:
    args = make_parser().parse_args()
    if args.cell:
        side_by_side.finish(measure_cell(json.loads(args.cell)))
        return
    columns = list(product(args.sizes, args.dtypes))
    print("| n_docs | context | batch | " + " | ".join(f"{s}, {d}" for s, d in columns) + " |")
    print("|" + "---|" * (3 + len(columns)))
    cells = []
    for n_docs, length, batch_size in product(args.n_docs, args.lengths, args.batch_sizes):
        row = []
        for size, dtype in columns:
            options = {
                "size": size,
                "dtype": dtype,
                "n_docs": n_docs,
                "length": length,
                "batch_size": batch_size,
                "device": args.device,
                "head": "rag_sequence",
                "seed": 0,
                "text": None,
                "memory_of": "ours",
            }
            row.append(measure_apart(options))
            cells.append({**options, "gb": row[-1]})
        shown = " | ".join("does not fit" if gb is None else f"{gb:.1f} GB" for gb in row)
        print(f"| {n_docs} | {length} | {batch_size} | {shown} |", flush=True)
    side_by_side.finish({"benchmark": "memory", "cells": cells, **side_by_side.facts(args.device)})


if __name__ == "__main__":
    main()
