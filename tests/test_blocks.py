import numpy as np
import pytest

from rag_finetune.index.blocks import VectorFile

VECTORS = np.arange(14, dtype=np.float32).reshape(7, 2)


@pytest.fixture
def file(tmp_path) -> VectorFile:
    """Seven rows in blocks of three: 3, 3 and 1."""
    file = VectorFile(tmp_path, (7, 2), 3, "key")
    file.reserve()
    return file


def write_all(file: VectorFile) -> None:
    for number in range(file.n_blocks):
        file.write(number, VECTORS[file.rows_of(number)], [])


def test_blocks_cover_all_rows_once(file):
    assert [file.rows_of(number) for number in range(file.n_blocks)] == [
        slice(0, 3),
        slice(3, 6),
        slice(6, 7),
    ]


def test_vectors_written_in_any_order_stand_in_theirs(file):
    for number in (2, 0, 1):
        file.write(number, VECTORS[file.rows_of(number)], [])
    assert np.array_equal(file.read(), VECTORS)
    assert not file.read().flags.writeable


def test_a_block_is_finished_once_it_is_written(file):
    assert file.finished() == {}
    file.write(1, VECTORS[3:6], ["d4", "d4", "d5"])
    (found,) = file.finished().values()
    assert (found.number, found.n_cut, found.cut) == (1, 3, ["d4", "d5"])


def test_of_many_documents_that_are_cut_five_are_named(file):
    file.write(0, VECTORS[:3], [f"d{i}" for i in range(9)])
    assert file.finished()[0].cut == ["d0", "d1", "d2", "d3", "d4"]
    assert file.finished()[0].n_cut == 9


def test_blocks_of_two_processes_are_found_in_both_journals(file):
    file.write(0, VECTORS[:3], [], rank=0)
    file.write(2, VECTORS[6:], [], rank=1)
    assert len(list(file.folder.glob("journal-*.jsonl"))) == 2
    assert sorted(file.finished()) == [0, 2]


def test_blocks_made_from_something_else_are_passed_over(file):
    write_all(file)
    assert VectorFile(file.folder, (7, 2), 3, "another").finished() == {}


def test_a_block_whose_bytes_have_changed_is_not_finished(file):
    write_all(file)
    path = file.folder / "vectors.f32"
    data = bytearray(path.read_bytes())
    data[4 * 2 * 4] ^= 1  # a bit of row 4
    path.write_bytes(data)
    assert sorted(file.finished()) == [0, 2]
    path.write_bytes(data[:30])
    assert sorted(file.finished()) == [0]
    path.unlink()
    assert file.finished() == {}


def test_a_line_cut_in_two_by_a_kill_spoils_no_other(file):
    file.write(0, VECTORS[:3], [])
    journal = file.folder / "journal-0.jsonl"
    journal.write_text(journal.read_text() + '{"key": "key", "numb')
    file.write(1, VECTORS[3:6], [])
    assert sorted(file.finished()) == [0, 1]


def test_a_line_that_is_no_record_is_passed_over(file):
    (file.folder / "journal-0.jsonl").write_bytes(b"\xff\xfe\n7\n[]\n{}\n")
    assert file.finished() == {}
    file.write(0, VECTORS[:3], [])
    assert sorted(file.finished()) == [0]


def test_reserving_again_keeps_what_is_there(file):
    write_all(file)
    file.reserve()
    assert np.array_equal(file.read(), VECTORS)


def test_a_block_written_twice_counts_as_it_was_written_last(file):
    file.write(0, VECTORS[:3], [])
    file.write(0, VECTORS[:3] + 1, ["d"])
    assert file.finished()[0].n_cut == 1
    assert np.array_equal(file.read()[:3], VECTORS[:3] + 1)
