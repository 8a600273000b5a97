import pytest

from rag_finetune.index.types import choose_type, machine_memory

GB = 10**9


@pytest.mark.parametrize(
    ("name", "factory"),
    [
        ("flat", "Flat"),
        ("hnsw", "HNSW32,Flat"),
        ("sq8", "SQ8"),
        # 4·√60,000 is 980, near 1,024; half of 384 bytes.
        ("ivf_pq", "IVF1024,PQ192np"),
        ("OPQ16,IVF64,PQ16x4fs,RFlat", "OPQ16,IVF64,PQ16x4fs,RFlat"),
    ],
)
def test_a_name_stands_for_a_factory_string_and_any_other_is_one(name, factory):
    assert choose_type(name, 60_000, 384) == (factory, "")


def test_few_vectors_get_few_lists_and_odd_ones_a_byte_a_number():
    # 4·√10,000 is 400, near 512 (2 to the 8.64), but 512 lists want 19,968 vectors.
    assert choose_type("ivf_pq", 10_000, 17).factory == "IVF256,PQ17np"


def test_ivf_pq_without_enough_to_train_on_is_refused():
    choose_type("ivf_pq", 9_984, 8)
    with pytest.raises(
        ValueError, match=r"ivf_pq: expected at least 9,984 .* found 9,983. Use flat"
    ):
        choose_type("ivf_pq", 9_983, 8)


def test_auto_is_exact_up_to_a_million():
    kind = choose_type("auto", 1_000_000, 768, memory=1)
    assert kind.factory == "Flat"
    assert kind.reason == "flat: exact, and fast enough up to 1,000,000 passages, found 1,000,000."


@pytest.mark.parametrize(
    ("memory", "factory"),
    [
        # 2,000,000 vectors of 4·768 + 8·32 + 16 = 3,344 bytes are 6.688 GB.
        (13.38 * GB, "HNSW32,Flat"),
        # Of 768 + 16 bytes: 1.568 GB. 4·√2,000,000 is 5,657, near 4,096.
        (13.37 * GB, "IVF4096,SQ8"),
        (3.14 * GB, "IVF4096,SQ8"),
        (3.13 * GB, "IVF4096,PQ384np"),
        (0.1 * GB, "IVF4096,PQ384np"),
    ],
)
def test_auto_above_a_million_takes_what_finds_most_and_fits_in_half_the_memory(memory, factory):
    kind = choose_type("auto", 2_000_000, 768, memory=int(memory))
    assert kind.factory == factory
    assert kind.reason.startswith(f"{factory}: 2,000,000 passages are over 1,000,000")
    assert ("does not fit" in kind.reason) == (memory < GB)


@pytest.mark.parametrize(
    ("factory", "named"),
    [("HNSW0", "HNSW0"), ("HNSW1,Flat", "HNSW1"), ("NSG1", "NSG1"), ("IVF0,Flat", "0")],
)
def test_a_number_that_faiss_does_not_survive_is_refused(factory, named):
    with pytest.raises(ValueError, match=f'"{factory}": "{named}" must be a larger number'):
        choose_type(factory, 1000, 8)


@pytest.mark.parametrize("factory", ["HNSW16", "IVF10,Flat", "PQ100x10", "NSG10", "RQ10x8"])
def test_a_nought_inside_a_number_is_no_nought(factory):
    assert choose_type(factory, 1000, 8).factory == factory


def test_this_machine_has_memory():
    assert machine_memory() > 10**8
