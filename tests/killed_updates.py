"""Updates of an index that are killed at chosen or random moments; run as a program.

One process imports everything and computes nothing; each update is a fork of it, as in
`killed_builds`. A chosen moment is before one of the calls that change a name on the disk.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiny_rag
from datasets import load_from_disk
from killed_builds import in_child
from killed_builds import passages as draw_passages

from rag_finetune.index import update
from rag_finetune.index.build import build_index
from rag_finetune.index.lexical_parts import add_lexical
from rag_finetune.index.store import open_index

NAMES = ("replace", "rename", "link", "unlink", "rmdir", "mkdir")


def wanted(rows: list[dict[str, str]]) -> tuple[dict[str, object], list[dict[str, str]]]:
    """What the update is asked for, and the passages of a fresh build; see `base`."""
    add, replace = rows[-8:], [{**row, "text": f"old {row['text']}"} for row in rows[4:8]]
    after = {row["id"]: row for row in rows}
    after |= {row["id"]: row for row in replace}
    request = {"add": add, "replace": replace, "remove": ["d6", "p20"]}
    return request, [row for row in after.values() if row["id"] not in ("p12", "p13", "p20")]


def base(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The passages before the update."""
    return rows[:-8]


def ids(folder: Path) -> list[str]:
    """Open, search, and give the ids."""
    index = open_index(folder)
    questions = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    scores, found = index.search(questions, 5)
    assert np.isfinite(scores).all() and (found >= 0).all()
    exact = questions @ index.vectors_at(np.arange(len(index))).T
    np.testing.assert_allclose(scores, np.take_along_axis(exact, found, 1), atol=1e-5)
    rows = words(folder)
    assert rows[0] >= 0 and rows.max() < len(index)
    return index.passages["id"][:]


def words(folder: Path) -> np.ndarray:
    """The rows that a search by words finds, best first."""
    return open_index(folder).lexical("bm25").search(["the old house of ada"], 20)[1][0]


def same(one: Path, fresh: Path) -> None:
    """Check that an updated index equals a fresh one, and that nothing else is left in it."""
    assert ids(one) == ids(fresh)
    assert sorted(path.name for path in one.iterdir()) == sorted(p.name for p in fresh.iterdir())
    assert np.array_equal(words(one), words(fresh))
    plain = [load_from_disk(str(folder / "passages")) for folder in (one, fresh)]
    for column in ("id", "document_id", "title", "text"):
        assert plain[0][column][:] == plain[1][column][:]
    found = [np.array(data["embeddings"][:]) for data in plain]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    if open_index(one).manifest.faiss_factory == "Flat":
        vectors = np.fromfile(one / "dense.faiss", np.float32, offset=45)
        assert np.array_equal(vectors, found[0].astype(np.float32).ravel())


def plain_is_whole(folder: Path, before: list[str], after: list[str]) -> None:
    """Check what plain Transformers would find: one version, or none with a name to it."""
    if not (folder / "passages/state.json").exists():
        assert open_index(folder).manifest.place
        return
    size = (folder / "dense.faiss").stat().st_size
    expected = {tuple(before): "old", tuple(after): "new"}
    found = expected[tuple(load_from_disk(str(folder / "passages"))["id"][:])]
    if open_index(folder).manifest.faiss_factory == "Flat":
        assert size == 45 + 64 * len(before if found == "old" else after)


def die_before(number: int, counter: list[int]) -> None:
    """Have this process killed before the call of that number to one of NAMES, from 1."""

    def counted(plain: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            counter[0] += 1
            if counter[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*arguments, **options)

        return call

    for name in NAMES:
        setattr(os, name, counted(getattr(os, name)))


def run(folder: Path, index_type: str, stride: int, kills: int) -> dict[str, int]:
    """Kill before every `stride`th call, and at `kills` random moments; what was seen."""
    rows = draw_passages(60)
    request, fresh_rows = wanted(rows)
    build = {"index_type": index_type}

    def prepare() -> None:
        encoder = tiny_rag.context_encoder()
        for name, passages in (("base", base(rows)), ("fresh", fresh_rows)):
            index = build_index(iter(passages), encoder, folder / name, **build)
            add_lexical(index, {"bm25": {}})

    def work() -> None:
        update.update_index(folder / "index", **request)

    def check() -> None:
        found = ids(folder / "index")
        before, after = [row["id"] for row in base(rows)], [row["id"] for row in fresh_rows]
        assert found in (before, after)
        plain_is_whole(folder / "index", before, after)
        with open(folder / "log", "a", encoding="utf-8") as file:
            file.write("old\n" if found == before else "new\n")
        work()
        same(folder / "index", folder / "fresh")
        work()  # done once more, nothing changes
        same(folder / "index", folder / "fresh")

    def attempt(kill: Callable[[], bool]) -> bool:
        shutil.rmtree(folder / "index", ignore_errors=True)
        shutil.copytree(folder / "base", folder / "index")
        done = kill()
        in_child(check)
        return done

    def killed_at(number: int) -> bool:
        def dying() -> None:
            die_before(number, [0])
            work()

        return attempt(lambda: in_child(dying))

    in_child(prepare)
    start, number, random_kills = time.monotonic(), 1, 0
    while not killed_at(number):
        number += stride
    draw = random.Random(0)
    for moment in [draw.uniform(0, 0.5) for _ in range(kills)]:
        random_kills += not attempt(lambda moment=moment: in_child(work, moment))
    log = (folder / "log").read_text().split()
    return {
        "calls": number - 1,
        "random": random_kills,
        "old": log.count("old"),
        "new": log.count("new"),
        "seconds": round(time.monotonic() - start),
    }


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))))
