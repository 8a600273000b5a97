"""Index types side by side: recall@5 of questions, speed, bytes a passage, time to build.

Each type is built over the same vectors by `rag_finetune.index.dense.build_dense`, opened with the
search parameters that it chose, and asked all questions in batches. Recall is held against an
exact search; "estimated" is what build_dense measures without knowing the questions, and writes
into the manifest. Times are medians, in seconds of one core, so that other work on the machine and
the number of threads change them little; the last line is JSON.

The table in the README is of 60,000 passages of SQuAD cut into windows of 12 words and encoded with
a MiniLM encoder, and of 1,828 questions:

    OMP_NUM_THREADS=1 python benchmarks/bench_index_types.py \
        --vectors passages.npy --questions questions.npy
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rag_finetune.index.dense import build_dense
from rag_finetune.index.dense_search import open_dense, search_dense
from rag_finetune.index.recall import RecallSample

TYPES = ("flat", "hnsw", "sq8", "ivf_pq")
COLUMNS = (
    ("type", "index_type", "{}"),
    ("FAISS", "faiss_factory", "{}"),
    ("searched with", "searched_with", "{}"),
    ("recall@5", "recall", "{:.3f}"),
    ("estimated", "estimated_recall", "{:.3f}"),
    ("questions a CPU s", "questions_per_cpu_second", "{:,.0f}"),
    ("bytes a passage", "bytes_a_passage", "{:,.0f}"),
    ("build, CPU s", "build_cpu_seconds", "{:.1f}"),
)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", help=".npy, (n, dim) float32; synthetic clusters without it")
    parser.add_argument("--questions", help=".npy, (questions, dim) float32; needed with --vectors")
    parser.add_argument("--types", nargs="+", default=TYPES, help="names or FAISS factory strings")
    parser.add_argument("--n", type=int, default=20_000, help="synthetic vectors")
    parser.add_argument("--dim", type=int, default=64, help="of synthetic vectors")
    parser.add_argument("--batch", type=int, default=64, help="questions asked at once")
    parser.add_argument("--repetitions", type=int, default=3, help="at least 3 for a median")
    parser.add_argument("--output", help="also write the JSON into this file")
    return parser


def load_or_draw(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """The vectors and questions of the files, or clusters with questions of the same clusters."""
    if bool(args.vectors) != bool(args.questions):
        raise SystemExit("--vectors and --questions go together")
    if args.vectors:
        return np.load(args.vectors, mmap_mode="r"), np.load(args.questions)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(args.n // 100 + 1, args.dim))
    rows = centres[rng.integers(len(centres), size=args.n + 1000)]
    drawn = (rows + 0.5 * rng.normal(size=rows.shape)).astype(np.float32)
    return drawn[:-1000], drawn[-1000:]


def measure(
    index_type: str, sample: RecallSample, vectors: np.ndarray, args: Any, folder: str
) -> dict[str, Any]:
    """One row of the table."""
    path, builds, searches = Path(folder) / "dense.faiss", [], []
    for _ in range(args.repetitions):
        start = time.process_time()
        built = build_dense(vectors, path, index_type)
        builds.append(time.process_time() - start)
    index = open_dense(path, built.search_parameters)
    blocks = np.array_split(sample.questions, -(-len(sample.questions) // args.batch))
    found = np.concatenate([search_dense(index, block, sample.k)[1] for block in blocks])
    for _ in range(args.repetitions):
        start = time.process_time()
        for block in blocks:
            search_dense(index, block, sample.k)
        searches.append(len(sample.questions) / (time.process_time() - start))
    return {
        "index_type": index_type,
        "faiss_factory": built.faiss_factory,
        "searched_with": " ".join(f"{k} {v}" for k, v in built.search_parameters.items()),
        "recall": sample.recall(found),
        "estimated_recall": built.measured_recall,
        "questions_per_cpu_second": statistics.median(searches),
        "bytes_a_passage": path.stat().st_size / len(vectors),
        "build_cpu_seconds": statistics.median(builds),
    }


def main() -> None:
    args = make_parser().parse_args()
    vectors, questions = load_or_draw(args)
    sample = RecallSample(vectors, questions)
    rows = []
    print("| " + " | ".join(title for title, _, _ in COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for index_type in args.types:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("once")
            rows.append(measure(index_type, sample, vectors, args, folder))
        cells = (form.format(rows[-1][key]) for _, key, form in COLUMNS)
        print("| " + " | ".join(cells) + " |", flush=True)
    result = {
        "benchmark": "index_types",
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        },
        "versions": {name: version(name) for name in ("faiss-cpu", "numpy", "rag-finetune")},
        "data": os.path.basename(args.vectors or "") or "synthetic clusters",
        "vectors": len(vectors),
        "dimension": vectors.shape[1],
        "questions": len(questions),
        "batch": args.batch,
        "repetitions": args.repetitions,
        "rows": rows,
    }
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
