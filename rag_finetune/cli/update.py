"""`rag-finetune update`: documents that come to an index, change or go."""

import argparse
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_finetune.cli.flags import best_device
from rag_finetune.cli.index import index_summary, notes_shown
from rag_finetune.cli.parsing import make_parser, parse
from rag_finetune.data.formats import FORMATS
from rag_finetune.files import read_lines

EPILOG = """Only documents that come are encoded, by the index's own encoder, and cut as the others
were. Until the new version is whole the old one is searched, also where the command is killed;
the same command then goes on. Documents are added and replaced whole; --remove takes their ids,
and those of single passages, as id#2."""


def make_update_parser() -> argparse.ArgumentParser:
    """The flags of `update`."""
    parser = make_parser("update", "Bring an index up to date in its folder.", EPILOG)
    parser.add_argument("--index", required=True, help="index folder")
    parser.add_argument("--add", nargs="+", metavar="FILE", help="documents that are new")
    parser.add_argument(
        "--replace",
        nargs="+",
        metavar="FILE",
        help="documents that stand in place of those with the same ids",
    )
    parser.add_argument(
        "--remove",
        nargs="+",
        metavar="ID|FILE",
        help="ids of documents or passages, or files with an id a line",
    )
    parser.add_argument(
        "--passages_format", choices=FORMATS, help="of the documents; default: told by the files"
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    parser = make_update_parser()
    args = parse(parser, argv)
    if not (args.add or args.replace or args.remove):
        parser.error("give --add, --replace or --remove")
    require_one_process("update")

    from rag_finetune.index.manifest import load_manifest
    from rag_finetune.index.update import load_own_encoder, update_index

    manifest = load_manifest(Path(args.index))
    remove = _read_ids(args.index, args.remove or [])
    inputs: dict[str, Any] = {}
    if args.add or args.replace:
        inputs = _open_sources(args, manifest, None)  # what is wrong with the paths shows first
    if inputs and manifest.has_vectors:
        encoder = load_own_encoder(args.index)
        network: Any = encoder.model
        network.to(best_device())
        inputs = {"encoder": encoder, **_open_sources(args, manifest, encoder.tokenizer)}
    with notes_shown(args.debug, "update"):
        index = update_index(args.index, remove=remove, progress=True, **inputs)
    print(index_summary(args.index, index.manifest))
    if index.manifest.tombstones:
        print(
            f"{index.manifest.tombstones:,} vectors in its FAISS file are of passages that are "
            "gone. No search of ours returns them; plain RagRetriever refuses the index until it "
            f"is compacted: rag-finetune compact --index {args.index}"
        )
    return 0


def require_one_process(command: str) -> None:
    """Raise where a launcher has started several processes, which would wait for each other.

    Raises:
        ValueError: WORLD_SIZE is above 1.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {command} is the work of one process. "
            f"Start it by itself: rag-finetune {command} …"
        )


def _open_sources(args: argparse.Namespace, manifest: Any, tokenizer: Any) -> dict[str, Any]:
    """The passages that are added and that replace, and what tells where a document stands."""
    from rag_finetune.data.passages import iter_passages, locate_documents
    from rag_finetune.encoders.prefix import with_prefix

    named = {"passages_format": args.passages_format}
    if tokenizer is not None:
        tokenizer = with_prefix(tokenizer, "")  # which would count as tokens of every piece
    given = {name: paths for name in ("add", "replace") if (paths := getattr(args, name))}
    passages = {
        name: iter_passages(
            paths,
            manifest.passage_words,
            overlap=manifest.overlap,
            tokenizer=tokenizer,
            **named,
        )
        for name, paths in given.items()
    }
    finders = [functools.partial(locate_documents, paths, **named) for paths in given.values()]
    return {"locate": _together(finders), **passages}


def _together(
    finders: Sequence[Callable[[list[str]], Mapping[str, str]]],
) -> Callable[[list[str]], Mapping[str, str]]:
    """One that finds documents in any of several sources."""

    def locate(documents: list[str]) -> Mapping[str, str]:
        places: dict[str, str] = {}
        for find in finders:
            places |= find(documents)
        return places

    return locate


def _read_ids(folder: str, words: list[str]) -> list[str]:
    """Ids, from the command line and from files; a word that is an id of the index is no file."""
    from rag_finetune.index.changes import ids_of
    from rag_finetune.index.store import open_index

    files = {word for word in words if Path(word).is_file()}
    if files:
        files -= ids_of(open_index(folder).passages, files)
    ids = [word for word in words if word not in files]
    for name in sorted(files):
        ids += [line for raw in read_lines(name) if (line := raw.strip())]
    return ids
