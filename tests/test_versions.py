import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_rag
from datasets import load_from_disk

from rag_finetune.index.manifest import NEXT, load_manifest
from rag_finetune.index.store import open_index
from rag_finetune.index.versions import (
    STATE,
    TOKENS,
    WORK,
    claimed_index,
    link_or_copy,
    settle,
    switch,
)

PARTS = ["context_encoder", "dense.faiss", "manifest.json", "passages"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Two indexes, old (20 passages) and new (the first five), that tests leave as they are."""
    folder = tmp_path_factory.mktemp("versions")
    tiny_rag.tiny_index(folder / "old")
    rows = tiny_rag.passages().select(range(5))
    tiny_rag.build_index(rows, tiny_rag.context_encoder(), folder / "new")
    return folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    """A copy of the old one, with the files of the new one written beside."""
    index = shutil.copytree(built / "old", tmp_path / "index")
    copied = shutil.ignore_patterns("context_encoder", "manifest.json")
    shutil.copytree(built / "new", index / NEXT, ignore=copied)
    return index


def switched(built: Path, folder: Path) -> None:
    """The folder as a kill right after the switch leaves it."""
    manifest = replace(load_manifest(built / "new"), place=NEXT)
    manifest.save(folder)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_before_the_switch_the_old_version_is_opened(folder):
    assert len(open_index(folder)) == 20


def test_right_after_the_switch_the_new_one_is(built, folder):
    switched(built, folder)
    index = open_index(folder)
    assert len(index) == 5 and index.parts == folder / NEXT and index.folder == folder
    assert index.search(np.ones((1, 16)), 5)[1].max() == 4


def test_after_it_all_the_new_files_have_their_names_and_nothing_else_is_left(built, folder):
    switch(folder, load_manifest(built / "new"))
    assert names(folder) == PARTS
    for name in ("dense.faiss", "passages/state.json", "passages/data-00000-of-00001.arrow"):
        assert (folder / name).read_bytes() == (built / "new" / name).read_bytes()
    assert load_manifest(folder) == load_manifest(built / "new")
    assert load_from_disk(str(folder / "passages"))["id"][:] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    "done", [[], [STATE], [STATE, "dense"], [STATE, "dense", "data"], ["dense", "data", "state"]]
)
def test_a_switch_that_was_left_at_any_step_is_finished(built, folder, done):
    switched(built, folder)
    moved = {
        "dense": "dense.faiss",
        "data": "passages/data-00000-of-00001.arrow",
        "state": f"passages/{STATE}",
    }
    for step in done:
        if step == STATE:
            (folder / "passages" / STATE).unlink()
        else:
            (folder / moved[step]).unlink(missing_ok=True)
            os.link(folder / NEXT / moved[step], folder / moved[step])
        assert len(open_index(folder)) == 5
    (folder / ".manifest.json.partial-1").touch()
    settle(folder)
    settle(folder)
    assert names(folder) == PARTS and len(open_index(folder)) == 5
    assert names(folder / "passages") == names(built / "new" / "passages")


def test_what_was_not_switched_to_is_removed(folder):
    settle(folder)
    assert names(folder) == PARTS and len(open_index(folder)) == 20


def test_token_caches_of_the_old_version_go(built, folder):
    (folder / TOKENS).mkdir()
    (folder / TOKENS / "of-the-old.bin").touch()
    switch(folder, load_manifest(built / "new"))
    assert names(folder) == PARTS


def test_whoever_has_the_old_version_open_keeps_it(built, folder):
    index = open_index(folder)
    before = index.search(np.ones((3, 16)), 20)[1]
    switch(folder, load_manifest(built / "new"))
    assert np.array_equal(index.search(np.ones((3, 16)), 20)[1], before)
    assert index.gather(np.arange(20))[0][19]["id"] == "20"
    assert len(open_index(folder)) == 5


def test_other_names_of_the_same_files_keep_their_bytes(built, folder, tmp_path):
    other = tmp_path / "checkpoint" / "index"
    hidden = shutil.ignore_patterns(NEXT)
    shutil.copytree(folder, other, copy_function=link_or_copy, ignore=hidden)
    assert (other / "dense.faiss").samefile(folder / "dense.faiss")
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    switch(folder, load_manifest(built / "new"))
    assert before == {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    assert (len(open_index(other)), len(open_index(folder))) == (20, 5)


def test_a_version_that_comes_while_one_is_opened_is_opened_whole(built, folder, monkeypatch):
    from rag_finetune.index import store

    plain = store.open_dense

    def late(*arguments):
        monkeypatch.setattr(store, "open_dense", plain)
        switch(folder, load_manifest(built / "new"))
        return plain(*arguments)

    monkeypatch.setattr(store, "open_dense", late)
    index = open_index(folder)
    assert len(index) == len(index.passages) == index._dense.ntotal == 5


def test_two_changes_at_once_are_refused(folder):
    with claimed_index(folder) as work:
        assert work == folder / WORK
        with pytest.raises(BlockingIOError, match="another process is changing this index"):
            with claimed_index(folder):
                pass
    assert names(folder) == PARTS


def test_a_change_that_fails_leaves_the_old_version_alone(folder):
    with pytest.raises(OSError, match="full"), claimed_index(folder):
        (folder / NEXT).mkdir()
        (folder / NEXT / "half").touch()
        raise OSError("full")
    assert names(folder) == PARTS and len(open_index(folder)) == 20


def test_one_that_fails_after_the_switch_leaves_the_new_one(built, folder):
    with pytest.raises(OSError, match="full"), claimed_index(folder):
        shutil.copytree(built / "new", folder / NEXT)
        (folder / NEXT / "manifest.json").unlink()
        shutil.rmtree(folder / NEXT / "context_encoder")
        switched(built, folder)
        raise OSError("full")
    assert len(open_index(folder)) == 5
    with claimed_index(folder):
        assert names(folder) == [WORK, *PARTS]


def test_a_folder_that_is_no_index_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not an index folder"), claimed_index(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_says_what_to_do(folder):
    for path in (folder / "passages", folder):
        path.chmod(0o555)
    child = os.fork()
    if not child:  # root may write everywhere
        code = 1
        try:
            os.chdir(folder)  # others may not even come here
            if os.geteuid() == 0:
                os.setuid(65534)
            with claimed_index(Path()):
                pass
        except PermissionError as error:
            code = 0 if "copy the index and change the copy" in str(error) else 2
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for path in (folder, folder / "passages"):
        path.chmod(0o755)
    assert code == 0


def test_a_place_elsewhere_is_refused(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "place": "../other"}))
    with pytest.raises(ValueError, match=r'"place" must be empty or ".next", found "../other"'):
        open_index(folder)
