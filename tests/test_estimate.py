import shutil

import pytest
import tiny_rag

from rag_finetune.encoders import encode
from rag_finetune.index.estimate import (
    ACTIVATIONS,
    ID_BYTES,
    LIBRARIES,
    estimate_need,
    format_bytes,
    format_seconds,
    require_disk,
)


def weight_bytes() -> int:
    parameters = tiny_rag.context_encoder().model.parameters()
    return sum(4 * parameter.numel() for parameter in parameters)


def test_disk_is_three_times_the_vectors_and_the_texts_again_and_the_encoder():
    need = estimate_need(tiny_rag.context_encoder(), 1000, 5000, 0.0, "Flat")
    assert need.disk == 3 * 1000 * 16 * 4 + 5000 + weight_bytes()


def test_vectors_that_are_there_already_need_no_more_disk():
    encoder = tiny_rag.context_encoder()
    whole = estimate_need(encoder, 1000, 5000, 0.0, "Flat").disk
    assert whole - estimate_need(encoder, 1000, 5000, 0.75, "Flat").disk == 0.75 * 1000 * 16 * 4


def test_memory_holds_a_batch_or_the_longest_text(monkeypatch):
    encoder = tiny_rag.context_encoder()
    encoder.max_length = 64
    floor = LIBRARIES + weight_bytes() + 512 * (16 * 4 * 2 + 64 * ID_BYTES)
    states = 16 * ACTIVATIONS * 4
    assert estimate_need(encoder, 10, 0, 0.0, "Flat").memory == floor + 16_384 * states
    monkeypatch.setattr(encode, "CPU_NUMBERS_PER_BATCH", 100 * 16)
    assert estimate_need(encoder, 10, 0, 0.0, "Flat").memory == floor + 100 * states
    monkeypatch.setattr(encode, "CPU_NUMBERS_PER_BATCH", 60 * 16)
    assert estimate_need(encoder, 10, 0, 0.0, "Flat").memory == floor + 64 * states


def test_memory_grows_with_the_passages_only_where_the_index_is_made_in_memory():
    encoder = tiny_rag.context_encoder()

    def memory(count: int, factory: str) -> int:
        return estimate_need(encoder, count, 0, 0.0, factory).memory

    assert memory(10**9, "Flat") == memory(10, "Flat")
    assert memory(10**9, "HNSW32,Flat") - memory(10**8, "HNSW32,Flat") == 9 * 10**8 * (64 + 272)
    assert memory(10**9, "SQ8") > memory(10**8, "SQ8")


@pytest.mark.parametrize(
    ("factory", "each"),
    [
        ("Flat", 64),
        ("SQ8", 16),
        ("IVF64,SQ8", 16 + 16),
        ("IVF64,PQ8np", 8 + 16),
        ("HNSW32,Flat", 64 + 272),
        ("HNSW32,SQ8", 16 + 272),
        ("IVF64_HNSW32,Flat", 64 + 16),
        ("SQ8,RFlat", 64),
    ],
)
def test_disk_holds_of_each_vector_what_the_type_keeps(factory, each):
    encoder = tiny_rag.context_encoder()
    need = [estimate_need(encoder, count, 0, 1.0, factory).disk for count in (0, 1000)]
    assert need[1] - need[0] == 1000 * (64 + each)  # the passages hold the whole vector


def test_a_type_that_keeps_little_takes_the_memory_of_its_codes_and_of_what_it_learns_from():
    encoder = tiny_rag.context_encoder()
    counts = (2 * 10**9, 10**9)
    more, less = (estimate_need(encoder, count, 0, 0.0, "SQ8").memory for count in counts)
    assert more - less == 16 * 10**9
    whole = estimate_need(encoder, 10**9, 0, 0.0, "SQ4").memory
    assert whole - less == (64 - 16) * 10**9 - 64 * 100_000


def test_too_little_disk_is_an_error_with_both_figures(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_disk(tmp_path, free // 2)
    with pytest.raises(OSError, match=r"needs 1000.0 TB of disk.*are free"):
        require_disk(tmp_path, 10**15)


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (123_456, "123 kB"), (2.5e9, "2.5 GB")],
)
def test_bytes_are_said_with_two_or_three_digits(count, said):
    assert format_bytes(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (3540, "59 min"), (12_000, "3 h 20 min")],
)
def test_durations_are_said_in_two_units_at_most(seconds, said):
    assert format_seconds(seconds) == said
