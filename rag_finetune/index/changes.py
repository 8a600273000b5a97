"""What an update does to the rows of an index: who goes, who comes, and where each stands then.

The order is that of a fresh build on the passages of then, so that the two can be compared: who
stays keeps the order; the passages of a replaced document stand where the first of its old ones
stood; new documents follow at the end, as they are given.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from transformers.utils.logging import tqdm

BLOCK_ROWS = 10_000
BAR_AFTER = 3.0  # seconds
NAMED = 5  # ids in a message


class Changes(NamedTuple):
    """The rows of the new version, and what became of the old one's.

    Attributes:
        order: what stands at each row: a row of the old version, or the number of old rows plus
            that of a new passage; shape (n,) int64.
        n_old: rows of the old version.
        removed: passages that are removed.
        replaced: passages that others take the place of.
    """

    order: np.ndarray
    n_old: int
    removed: int
    replaced: int

    def rows(self) -> np.ndarray:
        """The new row of each old one, −1 for none, shape (n_old,) int64."""
        rows = np.full(self.n_old, -1, dtype=np.int64)
        is_old = self.order < self.n_old
        rows[self.order[is_old]] = np.flatnonzero(is_old)
        return rows

    def added(self) -> np.ndarray:
        """The new rows of new passages, ascending."""
        return np.flatnonzero(self.order >= self.n_old)


def plan_changes(
    old: Dataset,
    new: Dataset,
    n_replacing: int,
    remove: Collection[str],
    *,
    progress: bool = False,
) -> Changes:
    """Find the rows that an update touches; held are eight bytes a passage, and ids that change.

    Args:
        old: the passages of the index, columns id and document_id.
        new: those that come, first the ones that replace documents, then the ones that are added.
        n_replacing: how many of them replace.
        remove: ids of passages, and of documents, all of whose passages go.
        progress: show a bar where it takes seconds.

    Raises:
        ValueError: an id to remove or to replace is not in the index, one to add is; one is given
            twice; or no passage would be left. The message names them.
    """
    wanted = _Wanted(new["id"][:], new["document_id"][:], n_replacing, set(remove))
    stays = np.ones(len(old), dtype=bool)
    with tqdm(total=len(old), desc="Finding ids", delay=BAR_AFTER, disable=not progress) as bar:
        for start, ids, documents in _id_blocks(old):
            pairs = zip(ids, documents, strict=True)
            stays[start : start + len(ids)] = [
                wanted.stays(row, *pair) for row, pair in enumerate(pairs, start)
            ]
            bar.update(len(ids))
    wanted.check()
    kept = np.flatnonzero(stays)
    places = [wanted.first_row[document] for document in wanted.documents[:n_replacing]]
    places += range(len(old), len(old) + len(new) - n_replacing)
    keys = np.concatenate([kept, np.array(places, dtype=np.int64)])
    items = np.concatenate([kept, len(old) + np.arange(len(new))])
    if not len(items):
        raise ValueError("No passage would be left, and an index needs one. Keep or add some.")
    order = items[np.argsort(keys, kind="stable")].astype(np.int64)
    return Changes(order, len(old), wanted.n_removed, wanted.n_replaced)


def ids_of(old: Dataset, wanted: Iterable[str]) -> set[str]:
    """Those of some strings that are ids of passages or of documents of an index."""
    strings = set(wanted)
    found: set[str] = set()
    for _, ids, documents in _id_blocks(old):
        found |= strings.intersection(ids) | strings.intersection(documents)
    return found


class _Wanted:
    """What an update asks for, ticked off as the rows of the old version go by."""

    def __init__(
        self, ids: list[str], documents: list[str], n_replacing: int, remove: set[str]
    ) -> None:
        self.documents, self.remove = documents, remove
        self.replace = set(documents[:n_replacing])
        added = set(documents[n_replacing:])
        self.new = {*ids, *added}
        self.first_row: dict[str, int] = {}  # of each document that is replaced
        self.n_removed = self.n_replaced = 0
        self._found: set[str] = set()
        self._taken: dict[str, None] = {}
        twice = (self.replace & added) | ((self.new | self.replace) & remove)
        if twice:
            raise ValueError(
                f"{_named(twice)}: named in two of add, replace and remove. Name each in one; "
                "replace takes the place of remove and add."
            )
        repeated = [name for name, count in Counter(ids).items() if count > 1]
        if repeated:
            raise ValueError(f"{_named(repeated)}: given twice. Give every passage its own id.")

    def stays(self, row: int, passage: str, document: str) -> bool:
        """Take note of a row of the old version; whether it stays."""
        is_removed = passage in self.remove or document in self.remove
        if is_removed:
            self._found |= {passage, document} & self.remove
        if document in self.replace:
            self.first_row.setdefault(document, row)
            self.n_replaced += 1
            return False
        if is_removed:
            self.n_removed += 1
            return False
        self._taken.update(dict.fromkeys(n for n in (document, passage) if n in self.new))
        return True

    def check(self) -> None:
        """Raise where the index does not hold what it should, or holds what it should not."""
        missing = self.remove - self._found
        if missing:
            raise ValueError(
                f"{_named(missing)}: to be removed, but no passage or document of the index has "
                "this id. Nothing was changed."
            )
        missing = self.replace - self.first_row.keys()
        if missing:
            raise ValueError(
                f"{_named(missing)}: to be replaced, but no document of the index has this id. "
                "Documents are replaced whole; new ones are added (--add). Nothing was changed."
            )
        if self._taken:
            raise ValueError(
                f"{_named(self._taken)}: to be added, but the index has this id already. Replace "
                "the document (--replace), or give the new one another id. Nothing was changed."
            )


def _named(ids: Collection[str]) -> str:
    """The first few ids, in quotes."""
    first = ", ".join(f'"{name}"' for name in sorted(ids)[:NAMED])
    return f"{first} and {len(ids) - NAMED:,} more" if len(ids) > NAMED else first


def _id_blocks(passages: Dataset) -> Iterator[tuple[int, list[str], list[str]]]:
    """Ids of passages and of their documents, with the row that each block begins at."""
    columns = passages.select_columns(["id", "document_id"]).with_format("arrow")
    for start in range(0, len(passages), BLOCK_ROWS):
        table = columns[start : start + BLOCK_ROWS]
        yield start, table["id"].to_pylist(), table["document_id"].to_pylist()
