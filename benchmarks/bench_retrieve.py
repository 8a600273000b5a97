"""Opening an index and searching it: ours against datasets and FAISS as they come.

    python benchmarks/bench_retrieve.py [--size tiny|base|large] [--passages N] [--folder DIR]

The index is exact, of random vectors, built in blocks (tiny: 2,000 of 64 numbers; base: 100,000 of
768; large: 1,000,000 of 768, 10 GB of disk while it is built). --folder keeps it for another run.
Ours is `open_index`, `search` and `gather`; plain is `load_from_disk`, `load_faiss_index`,
`search_batch` and a look-up of the rows of each question, as RagRetriever has them, with FAISS as
it is set when imported. Opening is measured in a process of its own: seconds, imports aside, and
the memory that belongs to that process alone, before and after a batch of searches; what is only
imported at the first opening counts there. `again` is what the index alone takes: the same process
opens and searches it once more. Checked is that both find the same rows. Prints one JSON line last.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import side_by_side
import torch
from datasets import load_from_disk
from transformers import DPRConfig, DPRContextEncoder, PreTrainedTokenizerFast

SETTINGS = (
    "distance_compute_blas_threshold",
    "distance_compute_blas_query_bs",
    "distance_compute_blas_database_bs",
)
FAISS_PLAIN = {name: getattr(faiss.cvar, name) for name in SETTINGS}

from rag_finetune.encoders.text_encoder import TextEncoder  # noqa: E402
from rag_finetune.index.build import build_index  # noqa: E402
from rag_finetune.index.store import open_index  # noqa: E402

FAISS_OURS = {name: getattr(faiss.cvar, name) for name in SETTINGS}
DATA = Path(__file__).parents[1] / "data"
VECTORS = {"tiny": (2_000, 64), "base": (100_000, 768), "large": (1_000_000, 768)}


class RandomEncoder(TextEncoder):
    """Gives every text a random vector."""

    def tokenize(self, texts: list[str], titles: list[str]) -> list[dict[str, list[int]]]:
        return [{"input_ids": [int(text.split()[1])]} for text in texts]

    def forward(self, batch: list[dict[str, list[int]]]) -> np.ndarray:
        draw = np.random.default_rng(batch[0]["input_ids"][0])
        return draw.standard_normal((len(batch), self.dimension), dtype=np.float32)


def build_folder(args: Any, folder: Path) -> None:
    """An exact index of random vectors, with passages of 100 words."""
    config = DPRConfig(
        vocab_size=10,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        projection_dim=args.dimension,
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(DATA / "starter/context_encoder")
    encoder = RandomEncoder(DPRContextEncoder(config), tokenizer, 256, name="random")
    words = " ".join(f"word{number}" for number in range(98))

    def passages() -> Iterator[dict[str, str]]:
        for row in range(args.passages):
            text = f"passage {row} {words}"
            yield {"id": str(row), "document_id": str(row), "title": f"title {row}", "text": text}

    build_index(passages(), encoder, folder, index_type="flat")


def set_faiss(settings: dict[str, int]) -> None:
    for name, value in settings.items():
        setattr(faiss.cvar, name, value)


def open_ours(args: Any, folder: Path) -> Callable[[np.ndarray], Any]:
    """Open the index; what it gives answers a batch of questions."""
    index = open_index(folder)

    def search(questions: np.ndarray) -> tuple[np.ndarray, Any]:
        set_faiss(FAISS_OURS)
        _, rows = index.search(questions, args.n_docs)
        return rows, index.gather(rows)

    return search


def open_plain(args: Any, folder: Path) -> Callable[[np.ndarray], Any]:
    """Open the same files with datasets; what it gives answers a batch of questions."""
    dataset = load_from_disk(str(folder / "passages")).with_format("numpy")
    dataset.load_faiss_index("embeddings", str(folder / "dense.faiss"))

    def search(questions: np.ndarray) -> tuple[np.ndarray, Any]:
        set_faiss(FAISS_PLAIN)
        _, rows = dataset.search_batch("embeddings", questions, args.n_docs)
        return np.asarray(rows), [dataset[[int(row) for row in found]] for found in rows]

    return search


OPEN = {"ours": open_ours, "plain": open_plain}


def draw_questions(args: Any) -> np.ndarray:
    """Random questions, shape (batch_size, dimension)."""
    draw = np.random.default_rng(args.seed + 1)
    return draw.standard_normal((args.batch_size, args.dimension), dtype=np.float32)


def measure_memory(args: Any) -> dict[str, Any]:
    """One side in a process of its own: seconds to open, and anonymous memory."""
    before, start = side_by_side.resident_bytes("RssAnon"), time.perf_counter()
    search = OPEN[args.memory_of](args, args.folder)
    seconds, opened = time.perf_counter() - start, side_by_side.resident_bytes("RssAnon")
    with side_by_side.PeakMemory() as peak:
        found = search(draw_questions(args))
    after = side_by_side.resident_bytes("RssAnon")
    again = OPEN[args.memory_of](args, args.folder)
    found = [found, again(draw_questions(args))]
    twice = side_by_side.resident_bytes("RssAnon")
    del found, search
    return {
        "open_seconds": round(seconds, 4),
        "open_anonymous_mb": side_by_side.megabytes(opened - before),
        "search_anonymous_mb": side_by_side.megabytes(after - before),
        "search_resident_mb": side_by_side.megabytes(peak.above),  # with pages of the files
        "again_anonymous_mb": side_by_side.megabytes(twice - after),
    }


def measure(args: Any) -> dict[str, Any]:
    """Everything that the line of JSON holds."""
    if not args.folder.exists():
        print(f"Building {args.passages:,} × {args.dimension} …", file=sys.stderr)
        build_folder(args, args.folder)
    words = [*args.words, "--folder", args.folder]
    apart = {
        side: [
            side_by_side.in_own_process(__file__, [*words, "--memory_of", side])
            for _ in range(args.repeats)
        ]
        for side in OPEN
    }
    medians = {
        side: {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
        for side, runs in apart.items()
    }
    questions = draw_questions(args)
    searches = {name: opened(args, args.folder) for name, opened in OPEN.items()}
    rows = {name: search(questions)[0] for name, search in searches.items()}
    if not np.array_equal(rows["ours"], rows["plain"]):
        row = int(np.flatnonzero((rows["ours"] != rows["plain"]).any(1))[0])
        raise SystemExit(
            f"The sides find other rows for question {row}: ours {rows['ours'][row].tolist()}, "
            f"plain {rows['plain'][row].tolist()}."
        )
    sides = {name: lambda search=search: search(questions) for name, search in searches.items()}
    return {
        "benchmark": "retrieve",
        **side_by_side.alternate(sides, args.repeats),
        "open_ratio": round(medians["plain"]["open_seconds"] / medians["ours"]["open_seconds"], 1),
        "equal_rows": True,
        "memory": medians,
        "sizes": {
            "size": args.size,
            "passages": args.passages,
            "dimension": args.dimension,
            "batch_size": args.batch_size,
            "n_docs": args.n_docs,
            "repeats": args.repeats,
        },
        **side_by_side.facts(),
    }


def main() -> None:
    assert __doc__ is not None
    parser = side_by_side.make_parser(__doc__, has_network=False)
    parser.add_argument("--passages", type=int, help="vectors; default: as --size says")
    parser.add_argument("--batch_size", type=int, default=32, help="questions of a batch")
    parser.add_argument("--n_docs", type=int, default=5, help="passages a question")
    parser.add_argument("--folder", type=Path, help="the index to use, or to make and keep")
    args = parser.parse_args()
    args.words = sys.argv[1:]
    count, args.dimension = VECTORS[args.size]
    args.passages = args.passages or count
    side_by_side.use_threads(args.threads)
    faiss.omp_set_num_threads(torch.get_num_threads())
    if args.memory_of:
        side_by_side.finish(measure_memory(args))
        return
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or Path(temporary) / "index"
        side_by_side.finish(measure(args))


if __name__ == "__main__":
    main()
