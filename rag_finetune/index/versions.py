"""A new version of an index in the folder of the old one: one rename decides which is opened.

An update writes the whole new version into `.next/` inside the folder. The rename of manifest.json,
whose `place` then says `.next`, is the switch: before it the old version is opened, after it the
new one, and nothing in between, whenever the process is killed. What follows only moves the new
version to the documented names, for plain `RagRetriever`, which knows no manifest:

1. `passages/state.json` is deleted, so that plain `RagRetriever` finds either version whole, or
   fails by the name of this file: never the passages of one and the vectors of another;
2. each file of `.next/` gets its name outside by a rename (a hard link, a copy where there are
   none), and `passages/state.json` last;
3. manifest.json without a `place` replaces the one that points at `.next/`, which is deleted.

Each step can be done again, and the next update, or `compact`, finishes what a kill left undone.
No file is ever written in place: who has the old version open keeps it, and other names of its
files (hard links in checkpoints) keep their bytes.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rag_finetune.index.manifest import FILE_NAME, NEXT, Manifest, file_sizes, load_manifest
from rag_finetune.index.store import PASSAGES
from rag_finetune.index.work import claimed, sync, sync_tree

WORK = ".update"
TOKENS = "tokens"  # token caches, which belong to one version
STATE = "state.json"  # what `datasets.load_from_disk` begins with


@contextmanager
def claimed_index(folder: Path) -> Iterator[Path]:
    """Hold an index folder for a change; no other process can while this one lives.

    What a killed change left is finished first, or removed where it was not decided yet. On a file
    system without locks, as NFS may be, a warning asks for care.

    Args:
        folder: the index folder.

    Yields:
        A work folder in it, with what an earlier try left there; see `claimed`.

    Raises:
        FileNotFoundError: it is no index folder.
        BlockingIOError: another process holds it.
        PermissionError: it cannot be written.
    """
    load_manifest(folder)
    for path in (folder, folder / PASSAGES):
        if not os.access(path, os.W_OK):
            raise PermissionError(
                f"{path}: cannot be written, and a new version of an index is written into its "
                "folder. Make it writable, or copy the index and change the copy."
            )
    with claimed(folder / WORK, "changing") as work:
        settle(folder)
        try:
            yield work
        except BaseException:
            if not load_manifest(folder).place:
                shutil.rmtree(folder / NEXT, ignore_errors=True)
            raise


def switch(folder: Path, manifest: Manifest) -> None:
    """Make the version in `.next/` the one that is opened, and bring it to its documented names.

    Args:
        folder: the index folder.
        manifest: of the new version; sizes and place are filled in.

    Raises:
        OSError: a file cannot be written.
    """
    version = folder / NEXT
    replace(manifest, place=NEXT, file_sizes=file_sizes(version)).save(version)
    sync_tree(version)
    os.replace(version / FILE_NAME, folder / FILE_NAME)
    sync(folder)
    settle(folder)


def settle(folder: Path) -> None:
    """Finish a switch that has begun, and sweep up what is of no version; done again, no harm.

    Args:
        folder: an index folder that this process holds.

    Raises:
        OSError: a file cannot be written.
    """
    manifest = load_manifest(folder)
    if manifest.place:
        version, passages = folder / manifest.place, folder / PASSAGES
        (passages / STATE).unlink(missing_ok=True)
        sync(passages)
        names = sorted(manifest.file_sizes, key=lambda name: name == f"{PASSAGES}/{STATE}")
        for name in names:
            _put(version / name, folder / name)
        for path in _files_beside(folder, names):
            path.unlink()
        for path in {(folder / name).parent for name in names}:
            sync(path)
        shutil.rmtree(folder / TOKENS, ignore_errors=True)
        replace(manifest, place="").save(folder)
        sync(folder)
    shutil.rmtree(folder / NEXT, ignore_errors=True)
    for path in [*folder.glob(".*.partial-*"), *folder.glob(".*.old-*")]:  # a kill left them
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def link_or_copy(source: str, target: str) -> None:
    """Hard-link a file, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _put(source: Path, target: Path) -> None:
    """Give a file another name as well, in place of whatever has it; that file is not written."""
    target.parent.mkdir(exist_ok=True)
    staged = target.with_name(f".{target.name}.partial-{os.getpid()}")
    staged.unlink(missing_ok=True)
    link_or_copy(str(source), str(staged))
    sync(staged)
    os.replace(staged, target)
    staged.unlink(missing_ok=True)  # of two names of one file, a rename leaves both


def _files_beside(folder: Path, names: list[str]) -> list[Path]:
    """Files in the folders of a version that are none of its own."""
    kept = {folder / name for name in names}
    parents = {path.parent for path in kept} - {folder}
    return [path for parent in parents for path in parent.iterdir() if path not in kept]
