"""Building that is interrupted, and taken up again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_rag
from conftest import ROOT

from rag_finetune.encoders import encode
from rag_finetune.index import job
from rag_finetune.index.build import build_index
from rag_finetune.index.estimate import estimate_need
from rag_finetune.index.processes import World
from rag_finetune.index.store import open_index

BLOCK = 4  # twenty passages are five blocks


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """The first text of each block that is encoded, in blocks of four passages."""
    texts_of_blocks: list[str] = []
    plain = encode.encode_block

    def counted(encoder, texts, *more, **options):
        texts_of_blocks.append(texts[0])
        return plain(encoder, texts, *more, **options)

    monkeypatch.setattr(encode, "TEXTS_PER_BLOCK", BLOCK)
    monkeypatch.setattr(encode, "encode_block", counted)
    return texts_of_blocks


def stop(*_, **__) -> None:
    raise KeyboardInterrupt


def interrupted(folder: Path, after: int, encoder=None, **options) -> None:
    """Build, and press Ctrl-C when so many blocks are finished."""
    encoder = encoder or tiny_rag.context_encoder()
    forward, calls = encoder.forward, []

    def forward_or_stop(batch):
        calls.append(1)
        return forward(batch) if len(calls) <= after else stop()

    encoder.forward = forward_or_stop
    with pytest.raises(KeyboardInterrupt):
        build_index(tiny_rag.passages(), encoder, folder, **options)
    assert not folder.exists()


def vectors(folder: Path) -> np.ndarray:
    return open_index(folder).vectors_at(np.arange(20))


def test_finished_blocks_are_not_encoded_again_and_the_result_is_the_same(
    tmp_path, encoded, capsys
):
    tiny_rag.tiny_index(tmp_path / "whole")
    assert len(encoded) == 5
    interrupted(tmp_path / "index", after=3)
    encoded.clear()
    build_index(tiny_rag.passages(), tiny_rag.context_encoder(), tmp_path / "index", progress=True)
    assert encoded == [fact["text"] for fact in tiny_rag.facts()[12::BLOCK]]
    assert "resuming: 3 of 5 blocks are there." in capsys.readouterr().out
    assert np.array_equal(vectors(tmp_path / "index"), vectors(tmp_path / "whole"))
    for name in ("dense.faiss", "manifest.json", "passages/data-00000-of-00001.arrow"):
        one, other = (tmp_path / "index" / name).read_bytes(), tmp_path / "whole" / name
        assert one == other.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "whole"]


@pytest.mark.parametrize(
    ("what", "options", "encoder"),
    [
        ("dtype", {"dtype": "bfloat16"}, {}),
        ("encoder", {}, {"seed": 2}),
        ("encoder", {}, {"width": 32}),
        ("passages", {}, {}),
        ("batching", {}, {}),
    ],
)
def test_work_on_other_inputs_is_begun_anew_and_said(
    tmp_path, encoded, capsys, monkeypatch, what, options, encoder
):
    interrupted(tmp_path / "index", after=3)
    encoded.clear()
    if what == "batching":
        monkeypatch.setattr(encode, "CPU_NUMBERS_PER_BATCH", 100 * 16)
    passages = tiny_rag.passages()
    if what == "passages":
        passages = passages.select(range(1, 20))
    made = tiny_rag.context_encoder(**encoder)
    index = build_index(passages, made, tmp_path / "index", progress=True, **options)
    assert f"holds work with other inputs ({what}): starting anew." in capsys.readouterr().out
    assert len(encoded) == 5
    whole = build_index(passages, made, tmp_path / "whole", **options)
    rows = np.arange(len(index))
    assert np.array_equal(index.vectors_at(rows), whole.vectors_at(rows))


def test_another_index_type_uses_the_same_vectors(tmp_path, encoded, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(job, "write_with_vectors", stop)
        with pytest.raises(KeyboardInterrupt):
            tiny_rag.tiny_index(tmp_path / "index")
    assert (tmp_path / ".index.building" / "dense.faiss").exists()
    encoded.clear()
    index = build_index(
        tiny_rag.passages(), tiny_rag.context_encoder(), tmp_path / "index", index_type="SQ8"
    )
    assert (encoded, index.manifest.faiss_factory) == ([], "SQ8")


def test_a_finished_faiss_file_is_not_made_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(job, "write_with_vectors", stop)
        with pytest.raises(KeyboardInterrupt):
            tiny_rag.tiny_index(tmp_path / "index")
    monkeypatch.setattr(job, "build_dense", stop)
    assert tiny_rag.tiny_index(tmp_path / "index").manifest.faiss_factory == "Flat"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"inp'])
def test_a_damaged_record_of_the_faiss_file_is_no_record(tmp_path, monkeypatch, text):
    with monkeypatch.context() as patch:
        patch.setattr(job, "write_with_vectors", stop)
        with pytest.raises(KeyboardInterrupt):
            tiny_rag.tiny_index(tmp_path / "index")
    (tmp_path / ".index.building" / "dense.json").write_text(text)
    (tmp_path / ".index.building" / "dense.faiss").write_text("not an index")
    assert len(tiny_rag.tiny_index(tmp_path / "index")) == 20


@pytest.mark.parametrize("content", [b"\xff", b"[]", b'{"key": 1}', b""])
def test_a_damaged_plan_or_journal_is_none(tmp_path, encoded, content):
    interrupted(tmp_path / "index", after=3)
    work = tmp_path / ".index.building"
    (work / "plan.json").write_bytes(content)
    journal = (work / "journal-0.jsonl").read_text()
    (work / "journal-0.jsonl").write_text(journal.replace("checksum", "crc", 1))
    encoded.clear()
    assert len(tiny_rag.tiny_index(tmp_path / "index")) == 20
    assert len(encoded) == 3  # of five: the record of one block is none


def test_a_block_that_was_spoilt_on_the_disk_is_encoded_again(tmp_path, encoded):
    interrupted(tmp_path / "index", after=4)
    path = tmp_path / ".index.building" / "vectors.f32"
    path.write_bytes(b"\1" * 100 + path.read_bytes()[100:])
    encoded.clear()
    tiny_rag.tiny_index(tmp_path / "index")
    assert len(encoded) == 2  # the first and the last
    tiny_rag.tiny_index(tmp_path / "whole")
    assert np.array_equal(vectors(tmp_path / "index"), vectors(tmp_path / "whole"))


def test_too_long_passages_of_an_earlier_try_are_counted_too(tmp_path, encoded):
    encoder = tiny_rag.context_encoder()
    encoder.max_length = 8
    interrupted(tmp_path / "index", after=3, encoder=encoder)
    again = tiny_rag.context_encoder()
    again.max_length = 8
    with pytest.warns(UserWarning, match=r"20 of 20 passages reach 8 tokens.*document \"1\", doc"):
        build_index(tiny_rag.passages(), again, tmp_path / "index")


@pytest.mark.parametrize(
    ("index_type", "message"),
    [
        ("ivf_pq", "ivf_pq: expected at least"),
        ("HNSV32", 'index_type "HNSV32": FAISS cannot build'),
        ("HNSW32,PQ4", "by L2 distance only"),
    ],
)
def test_an_index_type_that_does_not_fit_is_refused_before_encoding(
    tmp_path, encoded, index_type, message
):
    with pytest.raises(ValueError, match=message):
        build_index(
            tiny_rag.passages(), tiny_rag.context_encoder(), tmp_path / "i", index_type=index_type
        )
    assert encoded == []
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_stops_the_build_before_encoding(tmp_path, encoded, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3_000))
    with pytest.raises(OSError, match=r"needs \d\d.\d kB of disk.*3.0 kB are free. Free some"):
        tiny_rag.tiny_index(tmp_path / "index")
    assert encoded == []
    assert list(tmp_path.iterdir()) == []


def test_the_room_that_an_earlier_try_takes_is_not_asked_for_again(tmp_path, monkeypatch):
    def half(passages, vectors, folder):
        folder.mkdir()
        (folder / "data-00000-of-00001.arrow").write_bytes(b"0" * 1000)
        stop()

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_with_vectors", half)
        with pytest.raises(KeyboardInterrupt):
            tiny_rag.tiny_index(tmp_path / "index")
    work = tmp_path / ".index.building"
    assert (work / "index" / "passages").is_dir()
    dense, texts = ((work / name).stat().st_size for name in ("dense.faiss", "passages.arrow"))
    need = estimate_need(tiny_rag.context_encoder(), 20, texts, 1.0, "Flat").disk
    usage, half_gone = shutil.disk_usage(tmp_path), []

    def just_enough(path):
        half_gone.append(not (work / "index").exists())
        return usage._replace(free=need - dense)

    monkeypatch.setattr(shutil, "disk_usage", just_enough)
    tiny_rag.tiny_index(tmp_path / "index")
    assert half_gone == [True]  # it is made anew: out of the way before the disk is looked at


def kill_builds(folder: Path, *numbers: int) -> dict[str, object]:
    words = [str(ROOT / "tests" / "killed_builds.py"), str(folder), *numbers]
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, cwd=ROOT / "tests"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_killed(seen: dict[str, object], kills: int) -> None:
    """Every index that was begun was finished, equal to the whole one, and nothing is left."""
    assert seen["kills"] == kills
    assert seen["finished"] >= 1
    assert seen["encoded_again"] == 0
    assert any(0 < kept < seen["blocks"] for kept in seen["kept"])
    assert seen["left"] == []


@pytest.mark.timeout(900)  # fifteen seconds, but on a machine that is busy otherwise
def test_builds_killed_at_ten_random_moments_end_as_if_they_had_not_been(tmp_path):
    check_killed(kill_builds(tmp_path, 3000, 10, 0), 10)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_builds_killed_at_every_moment_end_as_if_they_had_not_been(tmp_path):
    seen = kill_builds(tmp_path, 150)
    calls = ("fsync", "rename", "replace", "unlink", "rmdir", "rmtree")
    assert set(seen["moments"]) == {
        f"{when} {call}" for when in ("before", "after") for call in calls
    }
    assert seen["kills"] == len(seen["moments"])
    assert set(seen["kept"]) == {0, 1, 2, 3} and seen["blocks"] == 3
    assert seen["encoded_again"] == 0
    assert 0 < seen["finished"] < seen["kills"]  # after the folder had its name, and before
    assert seen["left"] == []


def test_every_process_computes_in_what_the_plan_says(tmp_path, monkeypatch):
    """Processors of other machines may make something else of `auto`."""
    dtypes, plain = [], encode.encode_block

    def spy(*args, **options):
        dtypes.append(options["dtype"])
        return plain(*args, **options)

    monkeypatch.setattr(encode, "encode_block", spy)
    encoder = tiny_rag.context_encoder()
    first, second = (
        job.IndexJob(tmp_path, encoder, "flat", dtype, World(rank, 2), progress=False)
        for rank, dtype in enumerate(["bfloat16", "float32"])
    )
    monkeypatch.setattr(encode, "TEXTS_PER_BLOCK", BLOCK)
    first.prepare(tiny_rag.passages())
    second.encode(second.plan())
    assert set(dtypes) == {"bfloat16"}
