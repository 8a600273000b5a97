"""Repeated keys among millions, found with eight bytes a key."""

from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

KEYS_PER_WALK = 1_000

# Equal keys have equal hashes within a process; different keys now and then as well.
key_hash: Callable[[Hashable], int] = hash


class Repeat(NamedTuple):
    """A key that stands at two places."""

    key: Hashable
    first: str
    second: str


class KeyLog:
    """Hashes of keys, eight bytes each; the keys themselves are not held."""

    def __init__(self) -> None:
        """Begin with no key."""
        self._hashes = array("q")

    def __len__(self) -> int:
        """How many keys were added."""
        return len(self._hashes)

    def add(self, key: Hashable) -> None:
        """Add a key."""
        self._hashes.append(key_hash(key))

    def suspects(self) -> np.ndarray:
        """The hashes that occur more than once, sorted, each as often as it is repeated.

        Returns:
            Shape (repeats,) int64. Two different keys can have one hash: `find_repeats` tells.
        """
        hashes = np.frombuffer(self._hashes, dtype=np.int64)
        hashes.sort()  # in place, in the array itself: no copy
        return hashes[1:][hashes[1:] == hashes[:-1]]


def find_repeats(
    walk: Callable[[], Iterable[tuple[Hashable, str]]], suspects: np.ndarray, limit: int
) -> list[Repeat]:
    """Go through the keys again and name the places of those that do repeat.

    Args:
        walk: gives all keys with their places, in the same order whenever it is called.
        suspects: what `KeyLog.suspects` gave.
        limit: how many repeats are enough.

    Returns:
        At most `limit` repeats, in the order of their second place; empty where different keys
        merely share a hash. No more than a thousand keys are held.
    """
    distinct = np.unique(suspects)
    for start in range(0, len(distinct), KEYS_PER_WALK):
        wanted = set(distinct[start : start + KEYS_PER_WALK].tolist())
        found = _take(_repeats_in(walk(), wanted), limit)
        if found:
            return found
    return []


def _repeats_in(keys: Iterable[tuple[Hashable, str]], wanted: set[int]) -> Iterator[Repeat]:
    first: dict[Hashable, str] = {}
    for key, place in keys:
        if key_hash(key) in wanted:
            if key in first:
                yield Repeat(key, first[key], place)
            first.setdefault(key, place)


def _take(repeats: Iterator[Repeat], limit: int) -> list[Repeat]:
    return [repeat for repeat, _ in zip(repeats, range(limit), strict=False)]
