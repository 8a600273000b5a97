"""The hidden folder in which an index is made, so that a killed build can be taken up again."""

import errno
import fcntl
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag_finetune.index.blocks import JOURNALS, VECTORS
from rag_finetune.index.manifest import FILE_NAME

LOCK = "lock"


def work_folder(target: Path) -> Path:
    """Where an index is made before it appears at `target`; the same for every try.

    Raises:
        OSError: it is a link that leads to itself.
    """
    try:
        target = target.resolve()
    except RuntimeError as error:  # Python before 3.13
        raise OSError(f"{target}: is a link that leads to itself. Name a folder.") from error
    return target.with_name(f".{target.name}.building")


@contextmanager
def claimed_work(target: Path) -> Iterator[Path]:
    """Hold the work folder of an index that is built; see `claimed`.

    Args:
        target: the index folder to be.

    Yields:
        The work folder, with what an earlier try left in it.
    """
    with claimed(work_folder(target), "building") as work:
        yield work


@contextmanager
def claimed(work: Path, doing: str) -> Iterator[Path]:
    """Hold a work folder; no other process can while this one lives.

    It is removed when the block ends well. Where it fails, finished blocks are kept, and a note on
    the exception says so; a folder without any is removed.

    Args:
        work: the folder, made where there is none.
        doing: what becomes of the index meanwhile, for messages.

    Yields:
        The folder, with what an earlier try left in it.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be made.
    """
    lock = _lock(work, doing)
    try:
        for path in work.glob(".*partial-*"):  # of a file that a killed try was writing
            path.unlink()
        yield work
        shutil.rmtree(work, ignore_errors=True)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(work)  # where the disk is full
        if any(work.glob(JOURNALS)):
            error.add_note(f"The work so far is kept in {work}: the same command goes on from it.")
        else:
            shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def clear(work: Path) -> None:
    """Remove what a work folder holds of blocks and of the FAISS file made from them."""
    for path in [*work.glob(JOURNALS), *work.glob("dense*"), work / VECTORS]:
        path.unlink(missing_ok=True)


def require_vacant(folder: Path) -> None:
    """Raise where a folder that is to be written already holds something.

    Raises:
        FileExistsError: it is a file, a device or the like, or a folder with anything in it.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: already exists and is no folder. Choose another folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder}: already exists and is not empty. Remove it or choose another folder."
        )


def require_target(folder: Path) -> None:
    """Raise where no index can appear; sweep up what a kill after its completion left beside it.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: it is a mount point, which cannot be replaced in one step.
    """
    if (folder / FILE_NAME).is_file() and work_folder(folder).is_dir():
        with claimed_work(folder):
            pass
    require_vacant(folder)
    if folder.is_mount():
        raise ValueError(
            f"{folder}: is a mount point, and an index appears by renaming a folder. Name a folder "
            f"inside it, such as {folder / 'index'}."
        )


def publish(folder: Path, target: Path) -> None:
    """Give a complete folder its name, in one step.

    Raises:
        FileExistsError: something has been put there meanwhile.
        OSError: the file system refuses.
    """
    try:
        os.rename(folder, target.resolve())
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            require_vacant(target)
        raise
    sync(target.resolve().parent)


def sync_tree(folder: Path) -> None:
    """Have the system write a folder, with all that is in it, to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(work: Path, doing: str) -> int:
    """The descriptor of the lock of a work folder; closing it, or dying, gives it back."""
    work.mkdir(parents=True, exist_ok=True)
    lock = os.open(work / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A builder that ends removes the folder, and with it the file that was opened here.
        free = (work / LOCK).exists() and os.path.samestat(os.stat(work / LOCK), os.fstat(lock))
    except BlockingIOError:
        free = False
    except OSError as error:
        warnings.warn(
            f"{work}: the file system has no locks ({error.strerror}). Take care that no second "
            f"process is {doing} this index.",
            stacklevel=6,
        )
        free = True
    if not free:
        os.close(lock)
        raise BlockingIOError(
            f"{work}: another process is {doing} this index. Wait for it, or name another folder."
        )
    return lock
