"""The passages of an index encoded anew, by another context encoder: a new index beside the old.

Run as a program (`python -m rag_finetune.index.reencode INDEX ENCODER TARGET`) it is what training
starts in the background: it ends when its standard input does, which is when training ends.
"""

import os
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.encoders.pooled import register
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.build import build_index
from rag_finetune.index.lexical_parts import add_lexical
from rag_finetune.index.manifest import load_manifest
from rag_finetune.index.processes import World
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.index.work import publish, require_target


def reencode_index(
    source: PassageIndex, encoder: TextEncoder, target: str | Path, *, world: World | None = None
) -> PassageIndex:
    """Write an index of the same passages, in their order, with another encoder's vectors.

    Type, data type of the network, indexes by words and the way of retrieval are the old index's;
    of one without vectors, its words alone. An approximate one is searched with at least the
    old one's effort, which may have been tuned. The folder appears, complete, in one step.

    Args:
        source: the old index, opened; it stays as it is.
        encoder: the context encoder; encodes in evaluation mode, and is left as it was.
        target: the folder to make; must not exist or be empty.
        world: where several processes each call this with the same arguments and share the work.

    Returns:
        The new index, opened.

    Raises:
        FileExistsError: the folder exists and holds something.
        BlockingIOError: another process is writing it.
        ValueError: the encoder gives vectors that are not finite.
        OSError: the disk is too small, or cannot be written.
    """
    target, world, old = Path(target), world or World(), source.manifest
    if world.is_main:
        require_target(target)
    encoded = target.with_name(f".{target.name}.encoded")
    if world.is_main and encoded.is_dir():
        shutil.rmtree(encoded)  # a kill left it
    index = build_index(
        source.passages,
        encoder,
        encoded,
        passage_words=old.passage_words,
        overlap=old.overlap,
        index_type=old.index_type if old.has_vectors else "auto",
        dtype=old.dtype,
        world=world,
    )
    world.wait()  # until all have opened it, under the name that it is about to lose
    if world.is_main:
        if old.lexical:
            add_lexical(index, old.lexical)
        new = load_manifest(encoded)
        effort = {
            name: max(value, old.search_parameters.get(name, value))
            for name, value in new.search_parameters.items()
        }
        way = old.retrieval if old.has_vectors else {}  # of words: there was no other
        replace(new, retrieval=way, search_parameters=effort).save(encoded)
        publish(encoded, target)
    world.wait()
    return open_index(target)


def main(argv: list[str]) -> int:
    """Encode the passages of one index into another, on this machine's accelerator if it has one.

    Args:
        argv: the index, the folder of the context encoder, the index to make.
    """
    source, folder, target = argv
    threading.Thread(target=_end_with_parent, daemon=True).start()
    register()
    index = open_index(source)
    encoder = load_context_encoder(folder, index.manifest.encoder["max_length"])
    network: Any = encoder.model
    network.to(torch.accelerator.current_accelerator() or torch.device("cpu"))
    reencode_index(index, encoder, target)
    return 0


def _end_with_parent() -> None:
    """End this process once whoever started it has ended, however that was."""
    # Not through sys.stdin, whose lock Python wants for itself when it ends.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
