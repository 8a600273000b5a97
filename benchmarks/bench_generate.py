"""Decoding from given contexts and scores: ours against plain Transformers.

    python benchmarks/bench_generate.py [--size tiny|base|large] [--device D] [--dtype fp32|bf16]
        [--head rag_sequence|rag_token] [--spread] [--text FILE] [--plain_contexts shipped|trimmed]

Both run the same model with random weights (see side_by_side.py) on the same contexts. Ours decodes
the questions together; plain Transformers gets one question at a time, its contexts padded to
max_combined_length, as its retriever ships them, and the attention mask that its RAG-Sequence
search would leave out. With `--plain_contexts trimmed` somebody has cut them to the longest of the
question before, which Transformers does not. RAG-Sequence is thorough. With BART's own spread of
weights the passages of a question lead to much the same candidates; with --spread each passage
leads to its own. Checked is that both give the same sequences (fp32); under bf16 the share of equal
ones is told. Prints one JSON line last: `arithmetic_ratio` is how many times as many floating-point
operations plain Transformers takes, and `share_of_arithmetic_ratio` the part of it that `ratio`
reaches. Needs neither faiss nor datasets.
"""

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import side_by_side
import torch
from torch import Tensor

from rag_finetune.rag.decoding import decode
from rag_finetune.rag.scoring import Contexts

DATA = Path(__file__).parents[1] / "data"
MAX_COMBINED_LENGTH = 300


def build_model(args: Any) -> Any:
    """The model of both sides, in evaluation mode."""
    model = side_by_side.build_rag(args.size, args.head, args.seed, n_docs=args.n_docs).eval()
    if args.spread:  # BART's 0.02 makes next to nothing of what a context says
        torch.manual_seed(args.seed)
        for parameter in model.rag.generator.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=2 / model.config.generator.d_model**0.5)
    return model.to(args.device)


def build_inputs(args: Any, model: Any) -> Contexts:
    """Contexts of all questions, on the device."""
    draw = random.Random(args.seed)
    count, vocabulary = args.batch_size * args.n_docs, model.config.generator.vocab_size
    if args.text is None:
        rows = side_by_side.synthetic_contexts(count, vocabulary, draw)
    else:
        rows = side_by_side.text_contexts(args.text, count, vocabulary, args.tokenizer, draw)
    ids, mask = side_by_side.pad_rows([row[:MAX_COMBINED_LENGTH] for row in rows], side_by_side.PAD)
    generator = torch.Generator().manual_seed(args.seed)
    scores = torch.randn(args.batch_size, args.n_docs, generator=generator)
    return Contexts(*(tensor.to(args.device) for tensor in (ids, mask, scores)))


def options_of(args: Any) -> dict[str, Any]:
    """What both sides generate with."""
    return {
        "num_beams": args.num_beams,
        "max_length": args.new_tokens + 1,
        "forced_bos_token_id": side_by_side.BOS,
    }


@contextlib.contextmanager
def with_mask(generator: Any) -> Iterator[None]:
    """RagSequence's generate hands the generator no attention mask: hand it over."""
    generate = generator.generate

    def mended(input_ids: Tensor, **options: Any) -> Any:
        mask = (input_ids != side_by_side.PAD).long()
        return generate(input_ids, **{**options, "attention_mask": mask})

    generator.generate = mended
    try:
        yield
    finally:
        del generator.generate


def padded_to(length: int, rows: Tensor, value: int) -> Tensor:
    """Rows of so many tokens: padded on the right, or without padding that they had."""
    return torch.nn.functional.pad(rows, (0, length - rows.shape[1]), value=value)


def plain(args: Any, model: Any, contexts: Contexts) -> list[list[int]]:
    """Plain Transformers' best sequence of each question, one question at a time."""
    found = []
    for row in range(args.batch_size):
        rows = slice(row * args.n_docs, (row + 1) * args.n_docs)
        longest = int(contexts.attention_mask[rows].sum(-1).max())
        length = MAX_COMBINED_LENGTH if args.plain_contexts == "shipped" else longest
        inputs = {
            "context_input_ids": padded_to(length, contexts.input_ids[rows], side_by_side.PAD),
            "context_attention_mask": padded_to(length, contexts.attention_mask[rows], 0),
            "doc_scores": contexts.doc_scores[row : row + 1],
            "n_docs": args.n_docs,
        }
        mended = with_mask(model.rag.generator) if args.head == "rag_sequence" else None
        with torch.no_grad(), mended or contextlib.nullcontext():
            found += model.generate(**inputs, **options_of(args)).tolist()
    return found


def ours(args: Any, model: Any, contexts: Contexts) -> list[list[int]]:
    """Our best sequence of each question."""
    found: list[list[int]] = decode(model, contexts, **options_of(args)).sequences.tolist()
    return found


def sides_of(args: Any, model: Any, contexts: Contexts) -> dict[str, Callable[[], list[list[int]]]]:
    """A call of each side."""
    dtype = side_by_side.DTYPES[args.dtype]

    def run(side: Callable[..., list[list[int]]]) -> list[list[int]]:
        with torch.autocast(args.device, dtype=dtype, enabled=args.dtype != "fp32"):
            return side(args, model, contexts)

    return {"ours": lambda: run(ours), "plain": lambda: run(plain)}


def trimmed(sequences: list[list[int]]) -> list[list[int]]:
    """Sequences without padding."""
    return [[token for token in ids if token != side_by_side.PAD] for ids in sequences]


def measure_memory(args: Any) -> dict[str, Any]:
    """What one side takes above weights and inputs."""
    model = build_model(args)
    call = sides_of(args, model, build_inputs(args, model))[args.memory_of]
    with side_by_side.PeakMemory(args.device) as peak:
        call()
    return {"above_mb": side_by_side.megabytes(peak.above)}


def candidates_of(args: Any, model: Any, contexts: Contexts) -> float:
    """Different candidates of a question, on average."""
    most = args.num_beams * (args.n_docs if args.head == "rag_sequence" else 1)
    every = decode(model, contexts, num_return_sequences=most, **options_of(args))
    return len(every.sequences) / args.batch_size


def measure(args: Any) -> dict[str, Any]:
    """Everything that the line of JSON holds."""
    memory = {
        side: side_by_side.in_own_process(__file__, [*args.words, "--memory_of", side])
        for side in ("ours", "plain")
    }
    model = build_model(args)
    contexts = build_inputs(args, model)
    sides = sides_of(args, model, contexts)
    found, operations = {}, {}
    for name, call in sides.items():
        sequences, operations[name] = side_by_side.with_operations(call)
        found[name] = trimmed(sequences)
    equal = sum(a == b for a, b in zip(found["ours"], found["plain"], strict=True))
    if args.dtype == "fp32" and equal < args.batch_size:
        row = next(i for i in range(args.batch_size) if found["ours"][i] != found["plain"][i])
        raise SystemExit(
            f"The sides differ in {args.batch_size - equal} of {args.batch_size} questions, first "
            f"in {row}: ours {found['ours'][row]}, plain {found['plain'][row]}."
        )
    timed = side_by_side.alternate(sides, args.repeats, args.device, warmups=0)  # warm by now
    rate = side_by_side.matrix_rate(args.device, side_by_side.DTYPES[args.dtype])
    arithmetic = operations["plain"] / operations["ours"]
    tokens = int(contexts.attention_mask.sum())
    return {
        "benchmark": "generate",
        "head": args.head,
        **timed,
        "arithmetic_ratio": round(arithmetic, 3),
        "share_of_arithmetic_ratio": round(timed["ratio"] / arithmetic, 3),
        "equal_sequences": f"{equal} of {args.batch_size}",
        "candidates_per_question": round(candidates_of(args, model, contexts), 2),
        "memory": memory,
        "memory_ratio": round(memory["ours"]["above_mb"] / memory["plain"]["above_mb"], 3),
        "gflop": {name: round(count / 1e9, 1) for name, count in operations.items()},
        "matrix_rate_gflops": round(rate / 1e9, 1),
        "share_of_matrix_rate": {
            name: round(operations[name] / seconds / rate, 3)
            for name, seconds in timed["seconds"].items()
        },
        "sizes": {
            "size": args.size,
            "dtype": args.dtype,
            "batch_size": args.batch_size,
            "n_docs": args.n_docs,
            "num_beams": args.num_beams,
            "new_tokens": args.new_tokens,
            "spread": args.spread,
            "contexts": "synthetic" if args.text is None else args.text.name,
            "context_length": round(tokens / len(contexts.attention_mask), 1),
            "plain_contexts": args.plain_contexts,
            "repeats": args.repeats,
        },
        **side_by_side.facts(args.device),
    }


def main() -> None:
    assert __doc__ is not None
    parser = side_by_side.make_parser(__doc__)
    parser.add_argument("--head", choices=("rag_sequence", "rag_token"), default="rag_sequence")
    parser.add_argument("--batch_size", type=int, default=8, help="questions that ours decodes")
    parser.add_argument("--n_docs", type=int, default=5, help="passages a question")
    parser.add_argument("--num_beams", type=int, default=4)
    parser.add_argument("--new_tokens", type=int, default=10, help="tokens of an answer, at most")
    parser.add_argument(
        "--spread", action="store_true", help="weights with which passages lead to their own words"
    )
    parser.add_argument("--text", type=Path, help="real passages, one a line; default: synthetic")
    parser.add_argument(
        "--plain_contexts",
        choices=("shipped", "trimmed"),
        default="shipped",
        help="to plain Transformers: padded to max_combined_length, or to the question's longest",
    )
    parser.add_argument(
        "--tokenizer", type=Path, default=DATA / "starter/generator", help="cuts --text"
    )
    args = parser.parse_args()
    args.words = sys.argv[1:]
    side_by_side.use_threads(args.threads)
    side_by_side.finish(measure_memory(args) if args.memory_of else measure(args))


if __name__ == "__main__":
    main()
