"""Copies of an index folder: one whole version, also while an update puts another in its place."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rag_finetune.files import staged_folder
from rag_finetune.index.lexical import KINDS
from rag_finetune.index.manifest import load_manifest, of_one_version
from rag_finetune.index.store import DENSE, PASSAGES
from rag_finetune.index.versions import TOKENS, link_or_copy

PARTS = {PASSAGES, DENSE, *KINDS}  # what a version consists of, beside the manifest


def copy_index(source: Path, target: Path, *, share: bool = False) -> None:
    """Copy an index; the copy appears, whole, in one step. One that is there already is left.

    Where an update ends meanwhile, the copying begins again: the copy is of the old version or of
    the new one. Of a version that a killed update has not moved to its place, all is where it
    belongs in the copy.

    Args:
        source: the index folder.
        target: the folder to make or to replace.
        share: the files may share their bytes on disk (hard links).

    Raises:
        FileNotFoundError: a file is missing.
        OSError: one cannot be read, or the copy not be written.
    """
    if of_one_version(source, lambda: _is_copy(source, target)):
        return
    with staged_folder(target) as staged:
        of_one_version(source, lambda: _copy(source, staged, share))


def size_on_disk(folder: Path) -> int:
    """Bytes of an index, less what is made anew where it is needed; 0 of a folder that is gone."""
    return of_one_version(folder, lambda: sum(path.stat().st_size for path in _files(folder)))


def _copy(source: Path, target: Path, share: bool) -> None:
    """Fill a folder, which loses what an interrupted copy left in it."""
    shutil.rmtree(target)
    manifest = load_manifest(source)
    moving = PARTS if manifest.place else set()

    def passing(at: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(at) == source and _is_passing(name, moving)]

    function = link_or_copy if share else shutil.copy2
    shutil.copytree(source, target, ignore=passing, copy_function=function)
    if manifest.place:
        version = source / manifest.place
        shutil.copytree(version, target, copy_function=function, dirs_exist_ok=True)
        replace(manifest, place="").save(target)


def _is_copy(source: Path, target: Path) -> bool:
    """True when a folder holds the files of another, by name, size and time of change."""

    def contents(folder: Path) -> dict[str, tuple[int, int]]:
        return {
            str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in _files(folder)
        }

    settled = not load_manifest(source).place
    return settled and target.is_dir() and contents(source) == contents(target)


def _files(folder: Path) -> Iterator[Path]:
    """The files of an index; none of a folder that is gone."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _is_passing(path.name, set()):
            yield from (file for file in (path, *path.rglob("*")) if file.is_file())


def _is_passing(name: str, moving: set[str]) -> bool:
    """Whether what stands in an index folder is no part of it: caches, what an update works on."""
    return name == TOKENS or name in moving or name.startswith(".")
