from pathlib import Path

import pytest

from rag_finetune.index.work import (
    claimed_work,
    clear,
    publish,
    require_target,
    require_vacant,
    work_folder,
)


def test_the_work_folder_is_beside_the_target_and_always_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert work_folder(tmp_path / "index") == tmp_path / ".index.building"
    (tmp_path / "link").symlink_to("index")
    for name in ("index", "./index", "x/../index", "link"):
        assert work_folder(tmp_path / name) == tmp_path / ".index.building"


def test_a_link_to_itself_is_no_place_for_an_index(tmp_path):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(OSError, match="link"):
        work_folder(tmp_path / "link")


def test_it_is_removed_when_the_work_is_done(tmp_path):
    with claimed_work(tmp_path / "deep" / "index") as work:
        assert work.is_dir()
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_failure_before_the_first_block_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), claimed_work(tmp_path / "index") as work:
        (work / "vectors.f32").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_failure_after_a_block_keeps_the_work_and_says_where(tmp_path):
    with pytest.raises(ValueError) as raised, claimed_work(tmp_path / "index") as work:
        (work / "journal-0.jsonl").touch()
        raise ValueError("no")
    assert raised.value.__notes__ == [
        f"The work so far is kept in {work}: the same command goes on from it."
    ]
    with claimed_work(tmp_path / "index"):
        assert (work / "journal-0.jsonl").exists()


def test_two_builders_cannot_hold_one_folder(tmp_path):
    with claimed_work(tmp_path / "index") as work:
        (work / "journal-0.jsonl").touch()
        with pytest.raises(BlockingIOError, match="another process is building this index"):
            with claimed_work(tmp_path / "index"):
                pass
        assert (work / "journal-0.jsonl").exists()
        with claimed_work(tmp_path / "other"):
            pass


def test_files_that_a_kill_left_half_written_are_swept(tmp_path):
    work = work_folder(tmp_path / "index")
    work.mkdir()
    (work / ".dense.faiss.partial-1").touch()
    (work / "journal-0.jsonl").touch()
    with claimed_work(tmp_path / "index"):
        assert sorted(path.name for path in work.iterdir()) == ["journal-0.jsonl", "lock"]


def test_what_was_made_of_other_inputs_is_cleared(tmp_path):
    names = ["journal-0.jsonl", "journal-1.jsonl", "vectors.f32", "dense.faiss", "dense.json"]
    for name in [*names, "lock", "passages.arrow"]:
        (tmp_path / name).touch()
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "passages.arrow"]


def test_work_of_an_index_that_is_there_already_is_swept(tmp_path):
    work_folder(tmp_path / "index").mkdir()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").touch()
    with pytest.raises(FileExistsError, match="already exists and is not empty"):
        require_target(tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_mount_point_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_mount", lambda path: True)
    with pytest.raises(ValueError, match=r"mount point.*Name a folder inside it"):
        require_target(tmp_path / "index")


def test_a_folder_gets_its_name_in_one_step_also_over_an_empty_one(tmp_path):
    for target in (tmp_path / "new", tmp_path / "empty"):
        (tmp_path / "staged").mkdir()
        (tmp_path / "staged" / "file").touch()
        (tmp_path / "empty").mkdir(exist_ok=True)
        publish(tmp_path / "staged", target)
        assert (target / "file").exists()


def test_what_was_put_in_the_way_meanwhile_is_left_alone(tmp_path):
    for name in ("staged", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of-{name}").touch()
    with pytest.raises(FileExistsError, match="target: already exists and is not empty"):
        publish(tmp_path / "staged", tmp_path / "target")
    assert (tmp_path / "target" / "of-target").exists() and (tmp_path / "staged").exists()


def test_a_file_is_no_vacant_folder(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", Path("/dev/null")):
        with pytest.raises(FileExistsError, match=f"{path}: already exists and is no folder"):
            require_vacant(path)
    require_vacant(tmp_path / "nothing")
