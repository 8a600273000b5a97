"""Builds of an index that are killed and begun again; run as a program.

They are killed at random moments, or one at every moment before and after a call that leaves
something on the disk for good. One process imports everything and computes nothing; each build is
a fork of it, so that a try costs no start of Python. What happened is printed as JSON.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import tiny_rag
from datasets import load_from_disk

from rag_finetune.encoders import encode
from rag_finetune.index.blocks import JOURNALS
from rag_finetune.index.build import build_index
from rag_finetune.index.store import open_index

ROWS_PER_BLOCK = 64
LASTING = (
    *((os, name) for name in ("fsync", "rename", "replace", "unlink", "rmdir")),
    (shutil, "rmtree"),
)
ENOUGH = 2  # of the moments of one line that was reached in one way, as of a loop over files


def passages(count: int) -> list[dict[str, str]]:
    """Passages of 3 to 40 words that differ from each other."""
    draw = random.Random(1)
    rows = []
    for number in range(count):
        text = " ".join(draw.choices(tiny_rag.WORDS, k=draw.randint(3, 40)))
        rows.append(
            {"id": f"p{number}", "document_id": f"d{number // 2}", "title": "", "text": text}
        )
    return rows


def build(rows: list[dict[str, str]], folder: Path, log: Path) -> None:
    """Build an index; each block that is encoded adds a line to the log."""
    encode.TEXTS_PER_BLOCK = ROWS_PER_BLOCK
    plain = encode.encode_block

    def logged(encoder, texts, *more, **options):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{texts[0]}\n")
        return plain(encoder, texts, *more, **options)

    encode.encode_block = logged
    build_index(iter(rows), tiny_rag.context_encoder(), folder)


def build_until(number: int, moments: Path, work: Callable[[], None]) -> None:
    """Do the work, but be killed at the moment of this number, from 1; its name is noted first."""
    left, seen = number, Counter()

    def pass_moment(name: str) -> None:
        nonlocal left
        place = (name, *traceback.format_stack())
        seen[place] += 1
        left -= seen[place] <= ENOUGH
        if not left:
            with open(moments, "a", encoding="utf-8") as file:
                file.write(f"{name}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def around(*args: Any, **options: Any) -> Any:
            pass_moment(f"before {name}")
            result = call(*args, **options)
            pass_moment(f"after {name}")
            return result

        return around

    for module, name in LASTING:
        setattr(module, name, watched(name, getattr(module, name)))
    work()


def in_child(work: Callable[[], None], kill_after: float | None = None) -> bool:
    """Run in a fork; kill it after so many seconds. Whether it came to its end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


def same(one: Path, other: Path) -> None:
    """Check that two indexes open and hold the same ids and vectors, bit by bit."""
    first, second = open_index(one), open_index(other)
    assert first.passages["id"][:] == second.passages["id"][:]
    rows = np.arange(len(first))
    assert np.array_equal(first.vectors_at(rows), second.vectors_at(rows))
    found = [load_from_disk(str(folder / "passages"))["embeddings"][:] for folder in (one, other)]
    assert found[0] == found[1]
    assert (one / "dense.faiss").read_bytes() == (other / "dense.faiss").read_bytes()


def recorded(folder: Path) -> list[int]:
    """The blocks that the journals of a work folder name."""
    work = folder.with_name(f".{folder.name}.building")
    lines = [line for path in work.glob(JOURNALS) for line in path.read_text().splitlines()]
    numbers = []
    for line in lines:
        try:
            numbers.append(json.loads(line)["number"])
        except ValueError:  # empty, or cut in two by the kill
            continue
    return sorted(numbers)


def sweep(rows: list[dict[str, str]], folder: Path, log: Path) -> None:
    """Begin to build what is finished: refused, and what the kill left beside it is taken away."""
    try:
        build(rows, folder, log)
    except FileExistsError:
        return
    raise AssertionError(f"{folder} was built anew")


def blocks_of(rows: list[dict[str, str]]) -> dict[str, int]:
    """The number of each block by its first text."""
    return {rows[row]["text"]: row // ROWS_PER_BLOCK for row in range(0, len(rows), ROWS_PER_BLOCK)}


def run_at_every_moment(folder: Path, n_passages: int) -> dict[str, object]:
    """Kill a build at its first moment, another at its second, …; finish each; what was seen."""
    rows = passages(n_passages)
    whole, target, log = folder / "whole", folder / "index", folder / "log"
    moments = folder / "moments"
    in_child(lambda: build(rows, whole, folder / "whole-log"))
    block_of = blocks_of(rows)
    seen = {"kills": 0, "finished": 0, "encoded": 0, "encoded_again": 0, "kept": []}
    for number in count(1):
        work = partial(build, rows, target, log)
        if in_child(partial(build_until, number, moments, work)):
            break
        log.unlink(missing_ok=True)
        before = recorded(target)
        published = target.exists()
        in_child(partial(sweep, rows, target, log) if published else work)
        encoded = [block_of[line] for line in log.read_text().splitlines()] if log.exists() else []
        in_child(lambda: same(whole, target))
        shutil.rmtree(target)
        seen["kills"] += 1
        seen["finished"] += published
        seen["encoded"] += len(encoded)
        seen["encoded_again"] += len(set(encoded) & set(before))
        seen["kept"].append(len(before))
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    names = moments.read_text(encoding="utf-8").splitlines()
    return seen | {"left": left, "blocks": len(block_of), "moments": names}


def run(folder: Path, n_passages: int, kills: int, seed: int) -> dict[str, object]:
    """Kill `kills` builds; finish each index that was begun; what was seen."""
    rows, draw = passages(n_passages), random.Random(seed)
    whole, target, log = folder / "whole", folder / "index", folder / "log"
    start = time.monotonic()
    in_child(lambda: build(rows, whole, folder / "whole-log"))
    duration = time.monotonic() - start
    block_of = blocks_of(rows)
    seen = {"kills": 0, "finished": 0, "encoded": 0, "encoded_again": 0, "kept": []}
    while seen["kills"] < kills or target.exists() is False:
        log.unlink(missing_ok=True)
        before = recorded(target)
        more = seen["kills"] < kills
        done = in_child(
            lambda: build(rows, target, log), draw.uniform(0, duration) if more else None
        )
        encoded = [block_of[line] for line in log.read_text().splitlines()] if log.exists() else []
        seen["encoded"] += len(encoded)
        seen["encoded_again"] += len(set(encoded) & set(before))
        seen["kept"].append(len(before))
        seen["kills"] += not done
        if target.exists():
            in_child(lambda: same(whole, target))
            seen["finished"] += 1
            if seen["kills"] < kills:
                shutil.rmtree(target)
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    return seen | {"left": left, "blocks": len(block_of), "duration": duration}


if __name__ == "__main__":
    kill = run if len(sys.argv) > 3 else run_at_every_moment
    print(json.dumps(kill(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
