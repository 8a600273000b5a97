import os

import pytest

from rag_finetune.index.dense_file import HEADER, check_dense, staged_dense


@pytest.fixture
def path(tmp_path):
    return tmp_path / "dense.faiss"


def test_a_file_takes_its_name_once_it_is_whole(path):
    with staged_dense(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["dense.faiss"]


def test_what_was_there_stays_when_writing_fails(path):
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), staged_dense(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["dense.faiss"]


def test_missing_file_is_named(path):
    with pytest.raises(
        FileNotFoundError, match=r"dense.faiss: no such file. Build the index again"
    ):
        check_dense(path)


@pytest.mark.parametrize("size", range(HEADER))
def test_a_file_shorter_than_any_index_is_refused(path, size):
    path.write_bytes(b"IHNf" + bytes(HEADER))
    os.truncate(path, size)
    with pytest.raises(ValueError, match=rf"expected 45 bytes, found {size}\)"):
        check_dense(path)


@pytest.mark.parametrize("size", [HEADER, HEADER + 1, HEADER + 11])
def test_an_exact_index_without_all_its_numbers_is_refused(path, size):
    header = b"IxFI" + bytes(HEADER - 12) + (3).to_bytes(8, "little")
    path.write_bytes((header + bytes(12))[:size])
    with pytest.raises(ValueError, match=rf"expected 57 bytes, found {size}\)"):
        check_dense(path)
    path.write_bytes(header + bytes(12))
    check_dense(path)
