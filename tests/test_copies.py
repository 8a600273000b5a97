"""A copy of an index is of one version, whatever an update does meanwhile."""

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_rag
from datasets import load_from_disk

from rag_finetune.index.copies import copy_index, size_on_disk
from rag_finetune.index.manifest import NEXT, load_manifest
from rag_finetune.index.store import open_index
from rag_finetune.index.versions import TOKENS, WORK, link_or_copy, switch

PARTS = ["context_encoder", "dense.faiss", "manifest.json", "passages"]
BESIDE = shutil.ignore_patterns("context_encoder", "manifest.json")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Two indexes, old and new: the same passages forwards and backwards, so files of one size."""
    folder = tmp_path_factory.mktemp("copies")
    tiny_rag.tiny_index(folder / "old")
    rows = tiny_rag.passages().select(range(19, -1, -1))
    tiny_rag.build_index(rows, tiny_rag.context_encoder(), folder / "new")
    sizes = [load_manifest(folder / name).file_sizes for name in ("old", "new")]
    assert sizes[0]["dense.faiss"] == sizes[1]["dense.faiss"]
    return folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    return shutil.copytree(built / "old", tmp_path / "index")


def write_next(built: Path, folder: Path, name: str = "new") -> None:
    """Write the files of a version beside those that are opened."""
    shutil.copytree(built / name, folder / NEXT, ignore=BESIDE)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def switch_after(monkeypatch, n_files: int, change) -> list[str]:
    """Have something happen once so many files were copied; the names of all that are."""
    copied, plain = [], shutil.copy2

    def late(source, target, **options):
        found = plain(source, target, **options)
        copied.append(str(source))
        if len(copied) == n_files:
            change()
        return found

    monkeypatch.setattr(shutil, "copy2", late)
    return copied


def test_an_update_that_ends_while_an_index_is_copied_leaves_no_mix(
    built, folder, tmp_path, monkeypatch
):
    new = contents(built / "new")
    for n_files in range(1, len(new) + 1):
        index = shutil.copytree(folder, tmp_path / f"index{n_files}")
        write_next(built, index)
        manifest = load_manifest(built / "new")
        with monkeypatch.context() as patch:
            copied = switch_after(patch, n_files, lambda: switch(index, manifest))  # noqa: B023
            copy_index(index, tmp_path / f"copy{n_files}")
        assert len(copied) > n_files  # it began again
        assert contents(tmp_path / f"copy{n_files}") == new
        assert sorted(path.name for path in (tmp_path / f"copy{n_files}").iterdir()) == PARTS


@pytest.mark.parametrize("moved", [[], ["dense.faiss"], ["passages/data-00000-of-00001.arrow"]])
def test_a_version_that_a_killed_update_has_not_moved_is_where_it_belongs_in_a_copy(
    built, folder, tmp_path, moved
):
    write_next(built, folder)
    replace(load_manifest(built / "new"), place=NEXT).save(folder)
    (folder / "passages/state.json").unlink()
    for name in moved:
        (folder / name).unlink()
        os.link(folder / NEXT / name, folder / name)
    for share in (False, True):
        copy_index(folder, tmp_path / f"copy{share}", share=share)
        assert contents(tmp_path / f"copy{share}") == contents(built / "new")
        found = load_from_disk(str(tmp_path / f"copy{share}/passages"))["id"][:]
        assert found == tiny_rag.passages()["id"][::-1]


def test_what_an_update_works_on_is_no_part_of_a_copy(built, folder, tmp_path):
    size = size_on_disk(folder)
    write_next(built, folder)
    for name in (WORK, TOKENS):
        (folder / name).mkdir()
        (folder / name / "file").write_bytes(bytes(1000))
    (folder / ".manifest.json.partial-1").touch()
    assert size_on_disk(folder) == size == sum(map(len, contents(built / "old").values()))
    copy_index(folder, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(built / "old")


def test_a_copy_that_is_there_is_left_and_one_of_another_version_is_replaced(
    built, folder, tmp_path
):
    copy_index(folder, tmp_path / "copy")
    before = (tmp_path / "copy/dense.faiss").stat().st_ino
    copy_index(folder, tmp_path / "copy")
    assert (tmp_path / "copy/dense.faiss").stat().st_ino == before
    write_next(built, folder)
    switch(folder, load_manifest(built / "new"))
    copy_index(folder, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(built / "new")


def test_an_index_that_cannot_be_read_is_an_error_and_the_old_copy_stays(folder, tmp_path):
    copy_index(folder, tmp_path / "copy")
    (folder / "dense.faiss").unlink()
    (folder / "dense.faiss").symlink_to("nowhere")
    with pytest.raises(OSError, match=r"nowhere|dense\.faiss"):
        copy_index(folder, tmp_path / "copy")
    assert len(open_index(tmp_path / "copy")) == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "index"]


def test_a_folder_that_is_gone_has_no_size_and_cannot_be_copied(tmp_path):
    assert size_on_disk(tmp_path / "gone") == 0
    with pytest.raises(FileNotFoundError, match="gone: no such folder"):
        copy_index(tmp_path / "gone", tmp_path / "copy")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_copies_made_while_versions_come_and_go_are_each_of_one(built, folder, tmp_path):
    versions = {name: contents(built / name) for name in ("old", "new")}
    done = threading.Event()

    def keep_switching() -> None:
        for turn in range(60):
            name = ("new", "old")[turn % 2]
            shutil.copytree(built / name, folder / NEXT, ignore=BESIDE, copy_function=link_or_copy)
            switch(folder, replace(load_manifest(built / name), last_update=str(turn)))
        done.set()

    thread = threading.Thread(target=keep_switching)
    thread.start()
    seen = set()
    while not done.is_set():
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        copy_index(folder, tmp_path / "copy")
        found = contents(tmp_path / "copy")
        del found["manifest.json"]
        [name] = [
            name
            for name, files in versions.items()
            if found == {key: held for key, held in files.items() if key != "manifest.json"}
        ]
        seen.add(name)
    thread.join()
    assert seen == {"old", "new"}
