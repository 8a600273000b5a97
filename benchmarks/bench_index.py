"""Indexing passages: ours against the plain loop over a DPR context encoder.

    python benchmarks/bench_index.py [--size tiny|base|large] [--device D] [--dtype fp32|bf16]
        [--text FILE] [--passages N]

Ours is `build_index`, from passages to the finished folder, in --dtype. The plain loop only
encodes: in file order, 16 passages a batch, padded to the longest, fp32, on as many threads. Both
have the same encoder with random weights and the same tokenizer. Checked is that the vectors are
equal (fp32, 1e-4 of their length); under bf16 the share of equal neighbours is told. Prints one
JSON line last.
"""

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side
import torch
from transformers import DPRConfig, DPRContextEncoder, PreTrainedTokenizerFast

from rag_finetune.encoders.encode import tokens_per_batch
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.build import build_index

DATA = Path(__file__).parents[1] / "data"
BATCH_SIZE = 16
NEIGHBOURS = 5
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def build_encoder(args: Any) -> TextEncoder:
    """A DPR context encoder with random weights."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.tokenizer)
    width, layers, heads = side_by_side.SHAPES[args.size]["encoder"]
    torch.manual_seed(args.seed)
    config = DPRConfig(
        vocab_size=max(30522, len(tokenizer)),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    model = DPRContextEncoder._from_config(config, attn_implementation="sdpa")
    return TextEncoder(model.eval().to(args.device), tokenizer, max_length=256, name="random")


def build_passages(args: Any, encoder: TextEncoder) -> list[dict[str, str]]:
    """Lines of a file, or random words of the tokenizer's vocabulary: 20 to 100 a passage."""
    draw = random.Random(args.seed)
    if args.text is not None:
        lines = [line.strip() for line in args.text.read_text(encoding="utf-8").splitlines()]
        texts = [line for line in lines if line][: args.passages]
        if len(texts) < args.passages:
            raise SystemExit(f"{args.text}: expected {args.passages} lines, found {len(texts)}.")
    else:
        words = sorted(word.strip("Ġ") for word in encoder.tokenizer.get_vocab())
        words = [word for word in words if word.isalpha()]
        texts = [
            " ".join(draw.choices(words, k=draw.randint(20, 100))) for _ in range(args.passages)
        ]
    return [
        {"id": str(row), "document_id": str(row), "title": "", "text": text}
        for row, text in enumerate(texts)
    ]


@torch.inference_mode()
def plain(encoder: TextEncoder, passages: list[dict[str, str]]) -> np.ndarray:
    """Vectors by the plain loop, shape (n, dim)."""
    found = []
    for start in range(0, len(passages), BATCH_SIZE):
        batch = encoder.tokenizer(
            [passage["text"] for passage in passages[start : start + BATCH_SIZE]],
            truncation=True,
            max_length=encoder.max_length,
            padding="longest",
            return_tensors="pt",
        ).to(encoder.model.device)
        found.append(encoder.model(**batch).pooler_output.float().cpu().numpy())
    return np.concatenate(found)


def ours(args: Any, encoder: TextEncoder, passages: list[dict[str, str]]) -> np.ndarray:
    """Vectors of a finished index folder, shape (n, dim)."""
    with tempfile.TemporaryDirectory() as folder:
        index = build_index(iter(passages), encoder, Path(folder) / "i", dtype=DTYPES[args.dtype])
        return index.vectors_at(np.arange(len(passages)))


def sides_of(args: Any) -> tuple[TextEncoder, dict[str, Callable[[], np.ndarray]]]:
    """The encoder, and a call of each side."""
    encoder = build_encoder(args)
    passages = build_passages(args, encoder)
    return encoder, {
        "ours": lambda: ours(args, encoder, passages),
        "plain": lambda: plain(encoder, passages),
    }


def measure_memory(args: Any) -> dict[str, Any]:
    """What one side takes above weights and passages."""
    call = sides_of(args)[1][args.memory_of]
    with side_by_side.PeakMemory(args.device) as peak:
        call()
    return {"above_mb": side_by_side.megabytes(peak.above)}


def compare(args: Any, found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """How far vectors are apart; raises where fp32 is too far."""
    length = float(np.linalg.norm(expected, axis=1).max())
    apart = float(np.linalg.norm(found - expected, axis=1).max()) / length
    if args.dtype == "fp32" and not apart <= 1e-4:
        raise SystemExit(f"The vectors are {apart:.1e} of their length apart, at most 1e-4.")
    count = min(NEIGHBOURS, len(expected))
    near = [np.argsort(-(x @ x.T), axis=1, kind="stable")[:, :count] for x in (found, expected)]
    same = [len(set(a) & set(b)) / count for a, b in zip(*near, strict=True)]
    return {"vectors_apart": apart, "equal_neighbours": float(np.mean(same))}


def measure(args: Any) -> dict[str, Any]:
    """Everything that the line of JSON holds."""
    memory = {
        side: side_by_side.in_own_process(__file__, [*args.words, "--memory_of", side])
        for side in ("ours", "plain")
    }
    encoder, sides = sides_of(args)
    operations, vectors = {}, {}
    for name, call in sides.items():
        vectors[name], operations[name] = side_by_side.with_operations(call)
    equal = compare(args, vectors["ours"], vectors["plain"])
    timed = side_by_side.alternate(sides, args.repeats, args.device, warmups=0)  # warm by now
    rates = {
        "ours": side_by_side.matrix_rate(args.device, side_by_side.DTYPES[args.dtype]),
        "plain": side_by_side.matrix_rate(args.device, torch.float32),
    }
    seconds = timed["seconds"]
    return {
        "benchmark": "index",
        **timed,
        "equal": equal,
        "memory": memory,
        "memory_ratio": round(memory["ours"]["above_mb"] / memory["plain"]["above_mb"], 3),
        "passages_per_second": {n: round(args.passages / s, 1) for n, s in seconds.items()},
        "gflop": {name: round(count / 1e9, 1) for name, count in operations.items()},
        "matrix_rate_gflops": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
        "share_of_matrix_rate": {
            name: round(operations[name] / seconds[name] / rates[name], 3) for name in sides
        },
        "sizes": {
            "size": args.size,
            "dtype": args.dtype,
            "passages": args.passages,
            "texts": "synthetic" if args.text is None else args.text.name,
            "tokens_per_batch": tokens_per_batch(encoder.model),
            "dimension": encoder.dimension,
            "repeats": args.repeats,
        },
        **side_by_side.facts(args.device),
    }


def main() -> None:
    assert __doc__ is not None
    parser = side_by_side.make_parser(__doc__)
    parser.add_argument("--passages", type=int, default=600)
    parser.add_argument("--text", type=Path, help="real passages, one a line; default: synthetic")
    parser.add_argument("--tokenizer", type=Path, default=DATA / "starter/context_encoder")
    args = parser.parse_args()
    args.words = sys.argv[1:]
    side_by_side.use_threads(args.threads)
    side_by_side.finish(measure_memory(args) if args.memory_of else measure(args))


if __name__ == "__main__":
    main()
