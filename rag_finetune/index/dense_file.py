"""The file of a dense index: written whole or not at all, and not read when it is cut short."""

import io
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

FLAT = b"IxFI"  # what the file of an exact inner-product index begins with
# Bytes before the vectors of an exact index, the last eight of which say how many numbers follow.
# FAISS has no index in so few, and crashes on files cut at 25 to 31 instead of refusing them.
HEADER = 45


@contextmanager
def staged_dense(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write that takes its name only once it is whole.

    Args:
        path: the file to make or to replace.

    Yields:
        The file, opened for bytes.
    """
    staged = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with open(staged, "wb") as file:
            yield file
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def check_dense(path: Path) -> None:
    """Check that a file is there and not cut short, as far as can be told without reading it.

    Args:
        path: the file of any index; only that of an exact one says how long it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is too short for an index, or for the vectors that it says follow.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Build the index again.")
    found, expected = path.stat().st_size, HEADER
    with open(path, "rb") as file:
        header = file.read(HEADER)
    if header.startswith(FLAT) and len(header) == HEADER:
        expected += 4 * struct.unpack("<Q", header[-8:])[0]
    if found < expected:
        raise ValueError(
            f"{path}: FAISS cannot read this file (expected {expected:,} bytes, found {found:,}). "
            "Build the index again."
        )


def refuse_change(path: Path) -> Callable[..., NoReturn]:
    """What takes the place of the methods that change an index, and abort on a mapped one."""

    def refuse(*_: Any) -> NoReturn:
        raise io.UnsupportedOperation(f"{path}: opened for reading only. Build the index again.")

    return refuse


def reason_of(error: RuntimeError) -> str:
    """What FAISS says, without where in its source it says it."""
    return re.sub(r"^Error in .* at \S+:\d+: (Error: )?", "", str(error).splitlines()[0])
