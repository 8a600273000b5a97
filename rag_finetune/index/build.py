"""Build an index folder: passages in; vectors, passages, FAISS file and manifest out."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from datasets import Dataset

from rag_finetune.encoders.encode import DTYPES, best_dtype
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.job import IndexJob
from rag_finetune.index.processes import World
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.index.work import (
    claimed_work,
    publish,
    require_target,
    require_vacant,
    work_folder,
)


def build_index(
    passages: Dataset | Iterable[Mapping[str, Any]],
    encoder: TextEncoder,
    output_dir: str | Path,
    *,
    passage_words: int = 0,
    overlap: int = 0,
    index_type: str = "auto",
    dtype: str = "float32",
    locate: Callable[[list[str]], Mapping[str, str]] | None = None,
    world: World | None = None,
    progress: bool = False,
) -> PassageIndex:
    """Encode passages and write the index folder, in memory that does not grow with them.

    The work happens in `.NAME.building` beside the folder, which appears, complete, in one step.
    What a kill or an error leaves there is taken up by the next call with the same passages,
    encoder, dtype and kind of device: finished blocks are not encoded again, and give the same
    bits.

    Args:
        passages: with the strings id, document_id, title and text, none empty but the title; a
            dataset, or an iterator, which is read once.
        encoder: the context encoder.
        output_dir: the folder to make; must not exist or be empty. A link is followed.
        passage_words: how the passages were cut, for the manifest.
        overlap: words that neighbouring passages share, for the manifest.
        index_type: "auto", "flat", "hnsw", "sq8", "ivf_pq" or a FAISS factory string.
        dtype: what the network computes in, "float32", "bfloat16", or "auto" for bfloat16 where the
            device of the encoder has units for it; vectors are float32 always.
        locate: says where documents of given ids stand, to name those that are too long.
        world: from `join_world`, where several processes each call this with the same arguments
            and share the work; only the first reads `passages`.
        progress: show a bar, and print estimates.

    Returns:
        The opened index.

    Raises:
        FileExistsError: the folder exists and holds something.
        BlockingIOError: another process is building it.
        ValueError: there are no passages, one is malformed, or the encoder gives vectors that are
            not finite.
        OSError: the disk is too small, or cannot be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f'dtype must be {" or ".join(DTYPES)}, found "{dtype}".')
    if dtype == "auto":
        dtype = best_dtype(encoder.model.device)
    target, world = Path(output_dir), world or World()
    if world.is_main:
        require_target(target)
    job = IndexJob(work_folder(target), encoder, index_type, dtype, world, progress)
    with claimed_work(target) if world.is_main else nullcontext():
        if world.is_main:
            require_vacant(target)  # another builder may have ended while this one began
            job.prepare(passages)
        world.wait()
        plan = job.plan()
        job.encode(plan)
        world.wait()
        if world.is_main:
            job.check(plan, locate)
            publish(job.finish(plan, {"passage_words": passage_words, "overlap": overlap}), target)
        world.wait()
    return open_index(target)
