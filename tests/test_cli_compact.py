import pytest
from tiny_job import error_of, index_words, ok, write_inputs

from rag_finetune.index.store import open_index


@pytest.mark.filterwarnings("ignore:.*less than 90%")
def test_tombstones_go_and_another_type_may_come(tmp_path):
    write_inputs(tmp_path)
    index = tmp_path / "index"
    ok(*index_words(tmp_path, index), "--index_type", "HNSW8,Flat")
    assert "nothing to do" in ok("compact", "--index", index).out
    with pytest.warns(UserWarning, match=r"25% of the vectors .*compact it"):
        ok("update", "--index", index, "--remove", *map(str, range(1, 6)))
    done = ok("compact", "--index", index)
    assert "HNSW8,Flat index of 15 passages" in done.out.splitlines()[-1]
    assert open_index(index).manifest.tombstones == 0
    assert "exact index of 15" in ok("compact", "--index", index, "--index_type", "flat").out
    assert "FAISS cannot build" in error_of("compact", "--index", index, "--index_type", "none")


def test_a_folder_that_is_none_is_named(tmp_path):
    assert "no such folder" in error_of("compact", "--index", tmp_path / "no")
