"""The passages of an index as token ids, made once and kept in its folder.

Every passage is held to its ids on a whole context when the cache is made. One whose ids depend on
the question has none there, and is tokenised with each question.
"""

import hashlib
import json
import os
import time
import uuid
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import tqdm

from rag_finetune.encoders.prefix import tokenizer_state
from rag_finetune.index.store import PassageIndex
from rag_finetune.index.versions import TOKENS
from rag_finetune.index.work import sync
from rag_finetune.retrieval.context_parts import (
    ANCHOR,
    JoinedError,
    Template,
    require_parted,
    tokenize_heads,
    tokenize_tails,
)

VERSION = 1  # of the file and of how its ids are made; a part of its name
END = np.dtype("<i8")  # where a passage's ids end
ROWS_PER_BLOCK = 1_000
BAR_AFTER = 3.0  # seconds
UNCLEAN = 0.1  # share of the first block at which a cache is not worth its making
ABANDONED = 86_400.0  # seconds since the last write to a file in the making


class TokenCache:
    """The ids of an index's passages, mapped from a file."""

    def __init__(self, ends: np.ndarray, ids: np.ndarray) -> None:
        """Take the parts of a file: ends (n + 1,) from 0, ids of all passages in a row."""
        self._ends, self._ids = ends, ids

    def contexts(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[int],
        tails: Sequence[str],
        limit: int,
    ) -> list[list[int] | None]:
        """Token ids of contexts.

        Args:
            tokenizer: the one that the cache was made with.
            rows: the passage of each context; −1 for none.
            tails: the question's part of each, from `doc_sep` on.
            limit: tokens of a context; the end of the passage gives way.

        Returns:
            Of each context the very ids that tokenising it gives; None where it must be tokenised.
        """
        distinct = list(dict.fromkeys(tails))
        known = dict(zip(distinct, tokenize_tails(tokenizer, distinct), strict=True))
        contexts: list[list[int] | None] = []
        for row, text in zip(rows, tails, strict=True):
            head, tail = self._head(row), known[text]
            if head and tail is not None and limit >= tail.lead + len(tail.ids):
                contexts.append(head[: limit - len(tail.ids)] + tail.ids)
            else:
                contexts.append(None)
        return contexts

    def _head(self, row: int) -> list[int]:
        """The ids of a passage's part; empty where there are none."""
        if row < 0:
            return []
        ids: list[int] = self._ids[self._ends[row] : self._ends[row + 1]].tolist()
        return ids


def quick_state(tokenizer: PreTrainedTokenizerBase) -> tuple[int | bool, ...]:
    """What tells whether tokens, special tokens or a language were changed since; quick to take."""
    added, split = len(tokenizer.get_added_vocab()), tokenizer.split_special_tokens
    return len(tokenizer), added, split, *tokenizer(ANCHOR)["input_ids"]


def load_token_cache(
    index: PassageIndex,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    *,
    make: bool,
) -> TokenCache | None:
    """Open the token cache of an index.

    It appears under its name when it is complete, and is never replaced. Of several processes that
    make it, each works for itself, and all use the file of the first to end.

    Args:
        index: the opened index.
        tokenizer: of the generator; a fast one.
        template: how contexts are put together.
        make: make it where there is none; memory does not grow with the passages.

    Returns:
        The cache; None where there is none, with a warning where it cannot be read or made: the
        folder does not allow it, or passages cannot be tokenised apart from questions.
    """
    folder = index.folder / TOKENS
    try:
        if not make and not folder.is_dir():
            return None
        job = _Job(index, tokenizer, template)
        cache = job.open()
        if cache is None and make:
            job.make()
            cache = job.open()
        return cache
    except (OSError, JoinedError) as error:
        reason = getattr(error, "strerror", None) or error
    warnings.warn(
        f"{folder}: no token cache ({reason}): passages are tokenised with each question, which "
        "gives the same results and takes longer.",
        stacklevel=3,
    )
    return None


class _Job:
    """The file of one index, tokenizer and template."""

    def __init__(
        self, index: PassageIndex, tokenizer: PreTrainedTokenizerBase, template: Template
    ) -> None:
        self._index, self._tokenizer, self._template = index, tokenizer, template
        sources = [
            VERSION,
            version("tokenizers"),
            tokenizer_state(tokenizer),
            tokenizer.split_special_tokens,  # no part of its state
            template,
            index.passages._fingerprint,  # no two builds share it
        ]
        key = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()
        self.path = index.folder / TOKENS / f"{key[:32]}.bin"
        largest = max(tokenizer.get_vocab().values(), default=0)
        self._dtype = np.dtype("<u2" if largest < 2**16 else "<u4")
        self._ids_start = END.itemsize * (len(index) + 1)

    def open(self) -> TokenCache | None:
        """The cache in the file; None where there is none.

        Raises:
            OSError: it cannot be read, or is damaged.
        """
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return None
        if size >= self._ids_start:
            mapped = np.asarray(np.memmap(self.path, mode="r"))
            ends, ids = mapped[: self._ids_start].view(END), mapped[self._ids_start :]
            is_rising = ends[0] == 0 and bool((ends[1:] >= ends[:-1]).all())
            if is_rising and len(ids) == self._dtype.itemsize * int(ends[-1]):
                return TokenCache(ends, ids.view(self._dtype))
        raise OSError(f"{self.path.name} is damaged: delete it, and it is made anew")

    def make(self) -> None:
        """Write the file under another name first.

        Raises:
            OSError: it cannot be written.
            JoinedError: passages cannot be tokenised apart from questions.
        """
        require_parted(self._tokenizer, self._template)
        self.path.parent.mkdir(exist_ok=True)
        _sweep(self.path.parent)
        staged = self.path.with_name(f".{self.path.name}.partial-{uuid.uuid4().hex}")
        try:
            self._write(staged)
            sync(staged)
            try:
                os.link(staged, self.path)  # never over a file that a process may have mapped
            except OSError:  # there is one, or the file system has no links
                if not self.path.exists():
                    os.rename(staged, self.path)
        finally:
            staged.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        """Write where each passage's ids end, (n + 1,) int64 from 0, and behind that the ids."""
        count, total = len(self._index), 0
        bar = tqdm(total=count, desc="Tokenising", unit=" passages", delay=BAR_AFTER)
        with open(path, "wb") as file, bar:
            file.truncate(self._ids_start)
            for start in range(0, count, ROWS_PER_BLOCK):
                heads = self._heads(start, min(start + ROWS_PER_BLOCK, count))
                lengths = np.array([len(ids) for ids in heads], END)
                if start == 0 and (lengths == 0).mean() > UNCLEAN:
                    raise JoinedError(
                        f"{(lengths == 0).sum()} of the first {len(heads)} passages end in white "
                        "space, or the generator's tokenizer joins them with questions"
                    )
                file.seek(END.itemsize * (start + 1))
                file.write((total + lengths.cumsum()).astype(END).tobytes())
                file.seek(self._ids_start + self._dtype.itemsize * total)
                file.write(np.array([i for ids in heads for i in ids], self._dtype).tobytes())
                total += int(lengths.sum())
                bar.update(len(heads))

    def _heads(self, start: int, stop: int) -> list[list[int]]:
        """The ids of passages' parts; none of one that is not to be parted from the question."""
        passages = self._index.passages_at(np.arange(start, stop))
        heads = [self._template.head(row["title"], row["text"]) for row in passages]
        return tokenize_heads(self._tokenizer, self._template, heads)


def _sweep(folder: Path) -> None:
    """Remove what killed processes have left in the making."""
    for path in folder.glob(".*.partial-*"):
        with suppress(FileNotFoundError):  # another process has ended
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
