"""Repeated keys, found with eight bytes a key."""

import pytest

from rag_finetune.data import repeats
from rag_finetune.data.repeats import KeyLog, Repeat, find_repeats


def log(keys):
    found = KeyLog()
    for key in keys:
        found.add(key)
    return found


def walk(keys):
    return lambda: ((key, f"line {n}") for n, key in enumerate(keys, start=1))


def find(keys, limit=5):
    return find_repeats(walk(keys), log(keys).suspects(), limit)


def test_distinct_keys_leave_no_suspects():
    assert len(log("abc")) == 3
    assert log("abc").suspects().size == 0
    assert log("").suspects().size == 0


def test_repeats_are_named_with_both_places():
    assert find("abcba") == [Repeat("b", "line 2", "line 4"), Repeat("a", "line 1", "line 5")]


def test_every_further_copy_counts():
    assert log("aaab").suspects().size == 2
    assert find("aaab") == [Repeat("a", "line 1", "line 2"), Repeat("a", "line 1", "line 3")]


def test_the_limit_ends_the_search():
    assert find("aabbcc", limit=2) == [
        Repeat("a", "line 1", "line 2"),
        Repeat("b", "line 3", "line 4"),
    ]


def test_keys_that_share_a_hash_are_no_repeats(monkeypatch):
    monkeypatch.setattr(repeats, "key_hash", len)
    assert log(["ab", "cd", "ef"]).suspects().size == 2
    assert find(["ab", "cd", "ef"]) == []
    assert find(["ab", "cd", "ab"]) == [Repeat("ab", "line 1", "line 3")]


@pytest.mark.parametrize("per_walk", [1, 2])
def test_a_repeat_behind_many_shared_hashes_is_found(monkeypatch, per_walk):
    monkeypatch.setattr(repeats, "KEYS_PER_WALK", per_walk)
    monkeypatch.setattr(repeats, "key_hash", len)
    keys = ["a", "b", "cc", "dd", "eee", "fff", "gggg", "gggg"]
    assert find(keys) == [Repeat("gggg", "line 7", "line 8")]
