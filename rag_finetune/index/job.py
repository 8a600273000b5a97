"""One process's part in building an index: plan, encode its share of the blocks, put together."""

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers.utils.logging import tqdm

from rag_finetune.encoders import encode
from rag_finetune.encoders.encode import TokenIds
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.files import read_text, write_json
from rag_finetune.index.blocks import VectorFile
from rag_finetune.index.corpus import COLUMNS, open_passages, write_passages, write_with_vectors
from rag_finetune.index.dense import build_dense, require_type
from rag_finetune.index.estimate import estimate_need, format_bytes, format_seconds, require_disk
from rag_finetune.index.manifest import Manifest, file_sizes, library_versions
from rag_finetune.index.plan import Plan, load_plan
from rag_finetune.index.processes import World
from rag_finetune.index.store import CONTEXT_ENCODER, DENSE, PASSAGES
from rag_finetune.index.work import clear, sync, sync_tree

TEXTS = "passages.arrow"
DENSE_RECORD = "dense.json"
FOLDER = "index"  # what will be published


@dataclass
class IndexJob:
    """What one process does in a work folder; the first one does what is done once.

    Attributes:
        work: the work folder.
        encoder: the context encoder.
        index_type: as `build_index` takes it.
        dtype: what the network shall compute in; that of the first process's plan holds for all.
        world: the processes that share the work.
        progress: whether the first process shows bars and estimates.
    """

    work: Path
    encoder: TextEncoder
    index_type: str
    dtype: str
    world: World
    progress: bool

    def __post_init__(self) -> None:
        """Take the fingerprint, which fails for a tokenizer that has none."""
        self.fingerprint = self.encoder.fingerprint()
        self.shown = self.progress and self.world.is_main

    def prepare(self, passages: Dataset | Iterable[Mapping[str, Any]]) -> None:
        """Write the passages down, find what is finished already, and plan the rest.

        Raises:
            ValueError: there are no passages, or one is malformed.
            OSError: the disk is too small, or cannot be written.
        """
        if isinstance(passages, Dataset):
            passages = passages.select_columns(list(COLUMNS)).with_format(None)
        off = not self.shown
        with tqdm(passages, desc="Reading passages", unit=" passages", disable=off) as bar:
            corpus = write_passages(bar, self.work / TEXTS)
        if not corpus.n_passages:
            raise ValueError("An index needs at least one passage, found none.")
        self._say(f"{corpus.n_documents:,} documents, {corpus.n_passages:,} passages.")
        if self.world.size > 1:
            self._say(f"{self.world.size} processes share the encoding.")
        plan = Plan(
            passages=corpus.digest,
            encoder=self.fingerprint,
            dtype=self.dtype,
            batching=[
                encode.TEXTS_PER_BLOCK,
                encode.tokens_per_batch(self.encoder.model),
                encode.ENOUGH_TOKENS,
            ],
            n_passages=corpus.n_passages,
            n_documents=corpus.n_documents,
            dimension=self.encoder.dimension,
            todo=[],
        )
        self._take_up(plan)

    def plan(self) -> Plan:
        """The plan that the first process has made.

        Raises:
            ValueError: it is not there, or another encoder's: the processes do not share one
                folder, or have not loaded the same encoder.
        """
        plan = load_plan(self.work)
        if plan is None or plan.encoder != self.fingerprint:
            raise ValueError(
                f"{self.work}: process {self.world.rank} expected the plan of process 0 for the "
                f"encoder {self.fingerprint:.12}, found {plan.encoder[:12] if plan else 'none'}. "
                "All processes must see one output folder and load one encoder."
            )
        return plan

    def vectors(self, plan: Plan) -> VectorFile:
        """The file that all processes write their blocks to."""
        shape = (plan.n_passages, plan.dimension)
        return VectorFile(self.work, shape, plan.batching[0], plan.key)

    def encode(self, plan: Plan) -> None:
        """Encode this process's share of the blocks: neighbours, so that it reads in one go.

        Raises:
            ValueError: a vector is not finite.
            OSError: the disk is full.
        """
        passages, vectors = open_passages(self.work / TEXTS), self.vectors(plan)
        share = np.array_split(np.array(plan.todo, dtype=int), self.world.size)[self.world.rank]
        rows = [vectors.rows_of(number) for number in share.tolist()]
        total = sum(part.stop - part.start for part in rows)
        label = "Encoding passages" + (f" (1 of {self.world.size})" if self.world.size > 1 else "")
        start = time.monotonic()
        with tqdm(total=total, desc=label, unit=" passages", disable=not self.shown) as bar:
            blocks = encode.read_ahead(
                share.tolist(), lambda n: self._read_block(passages, vectors, n)
            )
            for done, block in enumerate(blocks, start=1):
                self._encode_block(*block, plan.dtype, vectors, bar.update)
                if done == 1 and len(rows) > 1:
                    part = rows[0]
                    rest = (time.monotonic() - start) * (total / (part.stop - part.start) - 1)
                    if self.shown:  # above the bar, not behind it
                        bar.write(f"Encoding the rest takes about {format_seconds(rest)}.")

    def check(self, plan: Plan, locate: Callable[[list[str]], Mapping[str, str]] | None) -> None:
        """See that every block is there, and warn of the passages that are too long.

        Raises:
            ValueError: a block is missing.
        """
        vectors = self.vectors(plan)
        blocks = vectors.finished()
        missing = sorted(set(range(vectors.n_blocks)) - set(blocks))
        if missing:
            raise ValueError(
                f"{self.work}: {len(missing)} of {vectors.n_blocks} blocks are missing or damaged, "
                f"the first is block {missing[0]}. Do all processes write to one disk? The same "
                "command encodes them again."
            )
        count = sum(block.n_cut for block in blocks.values())
        documents = [name for number in sorted(blocks) for name in blocks[number].cut][:5]
        if count:
            places = locate(documents) if locate else {}
            names = ", ".join(places.get(name, f'document "{name}"') for name in documents)
            warnings.warn(
                f"{count:,} of {plan.n_passages:,} passages reach {self.encoder.max_length} "
                "tokens, the most that is encoded: what follows has no part in their vectors. "
                f"They are in {names}{', …' if count > len(documents) else ''}.",
                stacklevel=3,
            )

    def finish(self, plan: Plan, about: dict[str, Any]) -> Path:
        """Make the whole index folder, inside the work folder.

        Args:
            plan: all of whose blocks are finished.
            about: what the manifest says of how the passages were cut.

        Returns:
            The folder; all of it is on the disk.

        Raises:
            ValueError: the index type does not fit these vectors.
            OSError: the disk is full, or the like.
        """
        vectors, folder = self.vectors(plan).read(), self.work / FOLDER
        folder.mkdir()
        dense = self._build_dense(plan, vectors)
        write_with_vectors(open_passages(self.work / TEXTS), vectors, folder / PASSAGES)
        if self.encoder.local:
            self.encoder.save(folder / CONTEXT_ENCODER)
        (self.work / DENSE).rename(folder / DENSE)
        sync_tree(folder)
        manifest = Manifest(
            encoder=self._describe_encoder(),
            fingerprint=plan.encoder,
            dimension=plan.dimension,
            n_passages=plan.n_passages,
            n_documents=plan.n_documents,
            dtype=plan.dtype,
            index_type=self.index_type,
            **dense,
            **about,
            file_sizes=file_sizes(folder),
            library_versions=library_versions(),
        )
        manifest.save(folder)
        sync_tree(folder)
        return folder

    def _say(self, line: str) -> None:
        if self.shown:
            print(line, flush=True)

    def _take_up(self, plan: Plan) -> None:
        """Keep the finished blocks of an earlier try with the same plan; clear any other."""
        earlier = load_plan(self.work)
        if earlier is not None and earlier.key != plan.key:
            why = plan.difference(earlier)
            self._say(f"{self.work}: holds work with other inputs ({why}): starting anew.")
            clear(self.work)
        shutil.rmtree(self.work / FOLDER, ignore_errors=True)  # made anew, and its room is needed
        vectors = self.vectors(plan)
        done, n_blocks = vectors.finished(), vectors.n_blocks
        if done:
            self._say(f"resuming: {len(done):,} of {n_blocks:,} blocks are there.")
        self._require_room(plan, len(done) / n_blocks)
        vectors.reserve()
        replace(plan, todo=[n for n in range(n_blocks) if n not in done]).save(self.work)

    def _require_room(self, plan: Plan, share_done: float) -> None:
        """Say what the index will take, and raise where the disk is too small."""
        factory = require_type(self.index_type, plan.n_passages, plan.dimension)
        text_bytes = (self.work / TEXTS).stat().st_size
        need = estimate_need(self.encoder, plan.n_passages, text_bytes, share_done, factory)
        path = self.work / DENSE  # of an earlier try: kept, or replaced by this one
        disk = max(0, need.disk - (path.stat().st_size if path.is_file() else 0))
        self._say(
            f"Needs about {format_bytes(disk)} of disk and {format_bytes(need.memory)} of memory."
        )
        require_disk(self.work, disk)

    def _read_block(
        self, passages: Dataset, vectors: VectorFile, number: int
    ) -> tuple[int, Mapping[str, list[str]], list[TokenIds]]:
        """The number of a block, its passages, and their token ids."""
        rows = passages[vectors.rows_of(number)]
        return number, rows, encode.tokenize_block(self.encoder, rows["text"], rows["title"])

    def _encode_block(
        self,
        number: int,
        rows: Mapping[str, list[str]],
        token_ids: list[TokenIds],
        dtype: str,
        vectors: VectorFile,
        advance: Callable[[int], object],
    ) -> None:
        found, cut = encode.encode_block(
            self.encoder,
            rows["text"],
            rows["title"],
            token_ids=token_ids,
            dtype=dtype,
            advance=advance,
        )
        _require_finite(found, rows["id"])
        vectors.write(number, found, [rows["document_id"][row] for row in cut], self.world.rank)

    def _build_dense(self, plan: Plan, vectors: np.ndarray) -> dict[str, Any]:
        """Write the FAISS file, unless an earlier try has; what the manifest says of it."""
        record, inputs = self.work / DENSE_RECORD, [plan.key, self.index_type]
        if record.is_file() and (self.work / DENSE).is_file():
            with suppress(ValueError, TypeError, KeyError):  # damaged, or of another version
                earlier: dict[str, Any] = json.loads(read_text(record))
                if earlier["inputs"] == inputs:
                    return dict(earlier["dense"])
        record.unlink(missing_ok=True)
        dense = build_dense(vectors, self.work / DENSE, self.index_type, progress=self.shown)
        sync(self.work / DENSE)
        found = {
            "faiss_factory": dense.faiss_factory,
            "search_parameters": dense.search_parameters,
            "measured_recall": dense.measured_recall,
        }
        write_json(record, {"inputs": inputs, "dense": found})
        return found

    def _describe_encoder(self) -> dict[str, Any]:
        encoder = self.encoder
        return {"name": encoder.name, "revision": encoder.revision, **encoder.settings()}


def _require_finite(vectors: np.ndarray, ids: list[str]) -> None:
    """Raise where a passage has a vector that no search would ever find."""
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if wrong.size:
        raise ValueError(
            f"{wrong.size} of {len(vectors)} passages have a vector that is not finite, the first "
            f'is "{ids[int(wrong[0])]}". Are the weights of the context encoder damaged?'
        )
