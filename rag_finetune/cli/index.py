"""`rag-finetune index`: passages → index folder."""

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import best_device, require_positive
from rag_finetune.cli.lexical_flags import add_lexical_flags, lexical_kinds
from rag_finetune.cli.parsing import add_bool, make_parser, parse
from rag_finetune.data.formats import FORMATS

if TYPE_CHECKING:
    from rag_finetune.encoders.text_encoder import TextEncoder
    from rag_finetune.index.lexical_parts import Kinds
    from rag_finetune.index.processes import World

MANIFEST = "manifest.json"
# What says how passages are read, cut and encoded.
OF_PASSAGES = (
    *("passages_format", "passage_words", "overlap"),
    *("context_encoder", "max_length", "dtype"),
)
EPILOG = """A build that was stopped goes on where it was when the same command is given again.
Several processes share the work:
  accelerate launch --multi_gpu --num_processes 2 --mixed_precision no -m rag_finetune index …"""


def make_index_parser() -> argparse.ArgumentParser:
    """The flags of `index`."""
    parser = make_parser("index", "Cut passages, encode them, and write an index folder.", EPILOG)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--passages",
        nargs="+",
        metavar="FILE",
        help="documents, in files; not needed where --lexical adds words to a finished index",
    )
    source.add_argument(
        "--from_questions", metavar="FILE", help="questions that bring their passages along"
    )
    parser.add_argument(
        "--context_encoder",
        help="folder or Hub name of a context encoder; without it the index is of words only",
    )
    parser.add_argument("--output_dir", required=True, help="the index folder to make")
    _add_reading(parser)
    _add_encoding(parser)
    parser.add_argument(
        "--index_type",
        default="auto",
        help="auto (exact up to a million passages), flat, hnsw, sq8, ivf_pq, or a FAISS factory "
        "string",
    )
    add_lexical_flags(parser)
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--passages_format", choices=FORMATS, help="of --passages; default: told by the files"
    )
    parser.add_argument("--qa_format", help="of --from_questions; default: told by the file")
    parser.add_argument(
        "--passage_words",
        type=int,
        default=100,
        help="words a passage at most; 0 keeps documents whole",
    )
    parser.add_argument(
        "--overlap", type=int, default=0, help="words that neighbouring passages share"
    )


def _add_encoding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pooling", choices=("cls", "mean"), help="default: what is known of the encoder"
    )
    add_bool(parser, "normalize", None, "bring vectors to length 1; default: as for --pooling")
    parser.add_argument(
        "--passage_prefix", help="what stands before every passage; default: as for --pooling"
    )
    parser.add_argument(
        "--max_length", type=int, default=256, help="tokens of a passage that are encoded"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "auto"),
        default="float32",
        help="what the encoder computes in; bfloat16 is faster on GPUs and on processors with AMX "
        "or AVX512-BF16, slower on all others, and auto tells them apart; the vectors are stored "
        "in float32",
    )


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = make_index_parser()
    args = parse(parser, argv)
    require_positive(args, "max_length")
    if args.passages_format if args.from_questions else args.qa_format:
        raise ValueError(
            "--passages_format goes with --passages, --qa_format with --from_questions. Leave out "
            "the other."
        )

    is_there = bool(args.lexical) and (Path(args.output_dir) / MANIFEST).is_file()
    if not (args.passages or args.from_questions):
        if not is_there:
            inside = Path(args.output_dir) / "index"
            hint = f"did you mean {inside}" if (inside / MANIFEST).is_file() else "this is none"
            parser.error(
                "one of the arguments --passages --from_questions is required; only --lexical can "
                "do without, where --output_dir is a finished index"
                + (f": {hint}" if args.lexical else "")
            )
        for flag in OF_PASSAGES:
            if getattr(args, flag) != parser.get_default(flag):
                parser.error(f"--{flag} goes with --passages; the words are of those in the index")
    kinds = lexical_kinds(args)

    from rag_finetune.index.lexical import require_lexical
    from rag_finetune.index.processes import join_world

    for kind in kinds:
        require_lexical(kind, args.language)
    world = join_world()
    if args.context_encoder and not is_there:
        _build_dense(args, world)
    if world.is_main and kinds:
        if is_there or args.context_encoder:
            _add_lexical(args, kinds, is_there)
        else:
            _build_words(args, kinds)
    world.leave()
    return 0


def _build_dense(args: argparse.Namespace, world: "World") -> None:
    """Make the index folder of vectors."""
    from rag_finetune.encoders.prefix import with_prefix
    from rag_finetune.index.build import build_index
    from rag_finetune.index.work import require_target

    _say_of_gpus(world.size)
    if world.is_main:
        require_target(Path(args.output_dir))
        _open_source(args, None)  # what is wrong with the paths shows before an encoder is loaded
    encoder = _load_encoder(args)
    network: Any = encoder.model
    network.to(world.device or best_device())
    # Without the prefix, which would count as tokens of every piece.
    passages, locate = _open_source(args, with_prefix(encoder.tokenizer, ""))
    with notes_shown(args.debug, "index"):
        index = build_index(
            passages,
            encoder,
            args.output_dir,
            passage_words=args.passage_words,
            overlap=args.overlap,
            index_type=args.index_type,
            dtype=args.dtype,
            locate=locate,
            world=world,
            progress=True,
        )
    if world.is_main:
        print(index_summary(args.output_dir, index.manifest))


def _build_words(args: argparse.Namespace, kinds: "Kinds") -> None:
    """Make an index folder without vectors."""
    from rag_finetune.index.lexical_parts import build_word_index

    passages, _ = _open_source(args, None)
    cut = {"passage_words": args.passage_words, "overlap": args.overlap}
    index = build_word_index(passages, args.output_dir, kinds, progress=True, **cut)
    print(index_summary(args.output_dir, index.manifest))


def _add_lexical(args: argparse.Namespace, kinds: "Kinds", was_there: bool) -> None:
    """Add what is asked for to an index; one that was there must be of the passages given."""
    from rag_finetune.encoders.prefix import with_prefix
    from rag_finetune.index.lexical_parts import add_lexical, require_same_passages
    from rag_finetune.index.manifest import require_equal
    from rag_finetune.index.store import open_index

    index = open_index(args.output_dir)
    if was_there and (args.passages or args.from_questions):
        tokenizer = None
        if args.context_encoder:
            encoder = _load_encoder(args)
            tokenizer = with_prefix(encoder.tokenizer, "")
            remedy = "Vectors cannot be added or replaced: choose another --output_dir."
            wanted, held = encoder.fingerprint(), index.manifest.fingerprint or "no vectors"
            require_equal(index.folder, "fingerprint of the vectors", wanted, held, remedy)
        passages, _ = _open_source(args, tokenizer)
        require_same_passages(index, passages)
    before = index.manifest.lexical
    built = add_lexical(index, kinds)
    if not built:
        print(f"Nothing to add: the index has {' and '.join(kinds)} already.")
    for done, names in (
        ("added", [kind for kind in built if kind not in before]),
        ("replaced by one of other settings", [kind for kind in built if kind in before]),
    ):
        if names:
            print(f"{args.output_dir}: {' and '.join(names)} {done}.")


def _load_encoder(args: argparse.Namespace) -> "TextEncoder":
    """The context encoder that the flags describe."""
    from rag_finetune.encoders.load import load_context_encoder

    return load_context_encoder(
        args.context_encoder,
        args.max_length,
        pooling=args.pooling,
        normalize=args.normalize,
        prefix=args.passage_prefix,
    )


def _say_of_gpus(processes: int) -> None:
    """Print the line that uses all GPUs where one of several is used."""
    import torch

    count = torch.accelerator.device_count()
    if count > 1 == processes:
        print(
            f"{count} GPUs are here, one is used. For all of them: accelerate launch --multi_gpu "
            f"--num_processes {count} -m rag_finetune index …"
        )


def _open_source(
    args: argparse.Namespace, tokenizer: Any
) -> tuple[Iterator[dict[str, str]], Callable[[list[str]], Mapping[str, str]] | None]:
    """The passages, and what tells where a document stands; nothing is read yet."""
    from rag_finetune.data.contexts import iter_context_passages
    from rag_finetune.data.passages import iter_passages, locate_documents

    if args.from_questions:
        contexts = iter_context_passages(
            args.from_questions,
            args.passage_words,
            overlap=args.overlap,
            tokenizer=tokenizer,
            qa_format=args.qa_format,
        )
        return contexts, None
    named = {"passages_format": args.passages_format}
    passages = iter_passages(
        args.passages, args.passage_words, overlap=args.overlap, tokenizer=tokenizer, **named
    )
    return passages, functools.partial(locate_documents, args.passages, **named)


@contextmanager
def notes_shown(debug: bool, command: str) -> Iterator[None]:
    """Print the notes of an exception, such as where the work so far is kept."""
    try:
        yield
    except BaseException as error:
        if not debug:  # a traceback shows them
            for note in getattr(error, "__notes__", []):
                print(f"rag-finetune {command}: {note}", file=sys.stderr)
        raise


def index_summary(folder: str, manifest: Any) -> str:
    """One line about a finished index."""
    if not manifest.has_vectors:
        kinds = " and ".join(manifest.lexical)
        return f"{folder}: index of words ({kinds}) of {manifest.n_passages:,} passages."
    exact = manifest.faiss_factory == "Flat"
    kind = "exact index" if exact else f"{manifest.faiss_factory} index"
    found = "" if exact else f", recall {manifest.measured_recall:.3f} against exact search"
    return (
        f"{folder}: {kind} of {manifest.n_passages:,} passages, dimension {manifest.dimension}, "
        f"encoder {manifest.encoder['name']} ({manifest.fingerprint:.12}){found}."
    )
