"""The passages of an index as token ids, made once and kept in its folder.

Every passage is held to its ids on a whole context when the cache is made. One whose ids depend on
the question has none there, and is tokenised with each question.
"""

import fcntl
import hashlib
import json
import os
import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import tqdm

from rag_finetune.encoders.prefix import tokenizer_state
from rag_finetune.index.manifest import FILE_NAME
from rag_finetune.index.store import PassageIndex
from rag_finetune.index.work import sync
from rag_finetune.retrieval.context_parts import Template, tokenize_heads, tokenize_tails

FOLDER = "tokens"
LAYOUT = 1  # of the file; a part of its name
END = np.dtype("<i8")  # where a passage's ids end
ROWS_PER_BLOCK = 1_000
BAR_AFTER = 3.0  # seconds
UNCLEAN = 0.1  # share of the first block at which a cache is not worth its making


class TokenCache:
    """The ids of an index's passages, mapped from a file.

    Attributes:
        template: what the passages' parts were written with.
    """

    def __init__(self, template: Template, ends: np.ndarray, ids: np.ndarray) -> None:
        """Join a template with the parts of a file: ends (n + 1,), ids of all passages in a row."""
        self.template, self._ends, self._ids = template, ends, ids

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


def load_token_cache(
    index: PassageIndex,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    *,
    make: bool,
) -> TokenCache | None:
    """Open the token cache of an index.

    Of several processes that want to make it, one does, and the others wait for it. It appears
    under its name when it is complete.

    Args:
        index: the opened index.
        tokenizer: of the generator; a fast one.
        template: how contexts are put together.
        make: make it where there is none; memory does not grow with the passages.

    Returns:
        The cache; None where there is none, with a warning where it could not be made: the folder
        cannot be written, or the tokenizer joins passages with questions.
    """
    if not make and not (index.folder / FOLDER).is_dir():
        return None
    job = _Job(index, tokenizer, template)
    cache = job.open()
    if cache is not None or not make:
        return cache
    try:
        with _turn(index) as is_ours:
            cache = job.open()  # another process may have made it meanwhile
            if cache is None:
                job.make(is_ours)
                cache = job.open()
        return cache
    except OSError as error:
        reason = f"{job.path.parent} cannot be written ({error.strerror or error})"
    except _JoinedError as error:
        reason = str(error)
    warnings.warn(
        f"{reason}: passages are tokenised with each question, which gives the same results and "
        "takes longer.",
        stacklevel=3,
    )
    return None


class _JoinedError(ValueError):
    """The tokenizer joins passages with questions."""


class _Job:
    """The file of one index, tokenizer and template."""

    def __init__(
        self, index: PassageIndex, tokenizer: PreTrainedTokenizerBase, template: Template
    ) -> None:
        self._index, self._tokenizer, self._template = index, tokenizer, template
        sources = [
            LAYOUT,
            version("tokenizers"),
            tokenizer_state(tokenizer),
            template,
            index.passages._fingerprint,  # no two builds share it
        ]
        key = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()
        self.path = index.folder / FOLDER / f"{key[:32]}.bin"
        largest = max(tokenizer.get_vocab().values(), default=0)
        self._dtype = np.dtype("<u2" if largest < 2**16 else "<u4")
        self._ids_start = END.itemsize * (len(index) + 1)

    def open(self) -> TokenCache | None:
        """The cache in the file; None where there is none, or one that was cut off."""
        if not self.path.is_file() or self.path.stat().st_size < self._ids_start:
            return None
        mapped = np.asarray(np.memmap(self.path, mode="r"))
        ends = mapped[: self._ids_start].view(END)
        if len(mapped) != self._ids_start + self._dtype.itemsize * int(ends[-1]):
            return None
        return TokenCache(self._template, ends, mapped[self._ids_start :].view(self._dtype))

    def make(self, is_ours: bool) -> None:
        """Write the file under another name first.

        Args:
            is_ours: no other process makes it: what one that was killed has left can go.

        Raises:
            OSError: it cannot be written.
            _JoinedError: the tokenizer joins passages with questions.
        """
        if not self._template.doc_sep.startswith(" "):
            raise _JoinedError(f"doc_sep {self._template.doc_sep!r} does not begin with a space")
        self.path.parent.mkdir(exist_ok=True)
        if is_ours:
            for left in self.path.parent.glob(f".{self.path.name}.partial-*"):
                left.unlink()
        staged = self.path.with_name(f".{self.path.name}.partial-{platform.node()}-{os.getpid()}")
        try:
            self._write(staged)
            sync(staged)
            os.replace(staged, self.path)
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
                    raise _JoinedError("The generator's tokenizer joins passages with questions")
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


@contextmanager
def _turn(index: PassageIndex) -> Iterator[bool]:
    """Wait until no other process makes a cache of this index.

    Yields:
        True; False where the file system has no locks. Then several may make it, to the same end.
    """
    descriptor = os.open(index.folder / FILE_NAME, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            is_locked = True
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)
