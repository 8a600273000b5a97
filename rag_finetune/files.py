"""Reading and writing files so that errors say where, and nothing is ever half-written."""

import difflib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


def read_lines(path: str | Path) -> Iterator[str]:
    r"""Read a UTF-8 file line by line, in constant memory.

    A line ends at "\n" and at nothing else, so that line numbers are those that an editor shows.

    Args:
        path: the file, with or without a byte order mark, with Unix or Windows newlines.

    Yields:
        Each line with "\n" at its end (the last one only if the file has it there).

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: the path is a folder.
        ValueError: a line is not UTF-8.
    """
    check_file(path)
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            line = _decode(raw, f"{path}:{number}")
            line = line.removeprefix("\ufeff") if number == 1 else line
            yield line[:-2] + "\n" if line.endswith("\r\n") else line


def read_text(path: str | Path) -> str:
    r"""Read a whole UTF-8 file, without its byte order mark and with "\n" as newline.

    Args:
        path: the file.

    Returns:
        Its text.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: the path is a folder.
        ValueError: a line is not UTF-8.
    """
    return "".join(read_lines(path))


def check_file(path: str | Path) -> None:
    """Check that a path leads to a file, before work that needs it begins.

    Args:
        path: the path that should be a file.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: the path is a folder.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path}: expected a file, found a folder. Name a file inside it.")
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path}: expected a file, found nothing there. Check the path; relative ones start "
            f"at {Path.cwd()}."
        )


def require_new_file(path: Path, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Raise FileExistsError where a folder has this name, an input, or a file that is to stay."""
    if any(path.exists() and path.samefile(name) for name in inputs if Path(name).exists()):
        raise FileExistsError(f"{path}: is read from. Choose another file to write.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"{path}: exists. Choose another file, or give --overwrite.")


def _decode(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise ValueError(
            f"{place}: expected UTF-8 text, found the byte 0x{byte:02x}. Save the file as UTF-8."
        ) from error


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Read a JSONL file; blank lines are passed over.

    Args:
        path: the file, one JSON value a line.

    Yields:
        Pairs of a line number, from 1, and the value on that line.

    Raises:
        ValueError: a line is not JSON, or holds half of a surrogate pair.
        OSError: the file cannot be read.
    """
    for number, line in enumerate(read_lines(path), start=1):
        line = line.rstrip()
        if not line:
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            found, whole = f"a syntax error at column {error.colno}", ""
            # A text that does not end is told of where it begins.
            if error.pos >= len(line) or error.msg.startswith("Unterminated string"):
                found = f"that the line ends too soon, at column {len(line) + 1}"
                whole = "whole, and "
            raise ValueError(
                f"{path}:{number}: expected one JSON object a line, found {found} ({error.msg}). "
                f"Write each object {whole}on a line of its own."
            ) from error
        except RecursionError as error:
            raise ValueError(
                f"{path}:{number}: expected one JSON object a line, found brackets nested too "
                "deeply to read. Check the line."
            ) from error
        check_characters(line, value, f"{path}:{number}")
        yield number, value


def check_characters(source: str, value: Any, place: str) -> None:
    r"""Refuse JSON whose escapes make half a character, which no file or Arrow table can hold.

    Args:
        source: the JSON text that `value` was read from.
        value: what it holds.
        place: where it stands, for the message.

    Raises:
        ValueError: an escape such as "\ud83d" stands without its other half.
    """
    if "\\ud" not in source.lower():
        return
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(
            f"{place}: expected whole characters, found {half} without its other half. "
            f"Write the character itself, in UTF-8."
        ) from error


def describe(value: Any) -> str:
    """Name a JSON value in words, for the "found …" of a message.

    Args:
        value: anything that `json.loads` returns.

    Returns:
        For example `the string "Paris"`, `the number 3`, `null`, `an empty list`.
    """
    if isinstance(value, str):
        return f'the string "{value[:60]}"' if value.strip() else "an empty string"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    return "an object" if isinstance(value, dict) else f"the number {value}"


def nearest(name: str, choices: Iterable[str]) -> str:
    """Find the choice that was probably meant, for "did you mean" messages.

    Args:
        name: what was written.
        choices: what could have been written.

    Returns:
        The closest choice, or "" when none is close.
    """
    return next(iter(difflib.get_close_matches(name, list(choices), n=1)), "")


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Fill a folder that appears under its name only once it is complete.

    The work happens in a hidden sibling folder. When the block ends, the sibling takes the name of
    the target, and a target that was there before is deleted; when it fails, the sibling is removed
    and the old target stays as it was.

    Args:
        target: the folder to make or to replace; a link is followed.

    Yields:
        The empty folder to write into.

    Raises:
        FileExistsError: the target is a file.
    """
    target = Path(target).resolve()
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target}: expected a folder, found a file. Move it or rename it.")
    staged = _sibling(target, "partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        _swap_in(staged, target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _swap_in(staged: Path, target: Path) -> None:
    old = _sibling(target, "old")
    shutil.rmtree(old, ignore_errors=True)
    replaces = target.exists()
    if replaces:
        target.rename(old)
    try:
        staged.rename(target)
    except BaseException:
        if replaces:
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sibling(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}")


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file in one step: readers see the old text or the new, never a part.

    Args:
        path: the file to make or to replace; missing folders are made.
        text: what it shall hold.
    """
    with staged_file(Path(path)) as file:
        file.write(text)


def write_json(path: str | Path, data: Any) -> None:
    """Write a JSON file in one step, indented by two.

    Args:
        path: the file to make or to replace.
        data: anything that `json.dumps` takes.
    """
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    """Write a JSONL file in one step, row by row as they come.

    Args:
        path: the file to make or to replace.
        rows: one JSON value a line.
    """
    with staged_file(Path(path)) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_json_list(path: str | Path, rows: Iterable[Any]) -> None:
    """Write a JSON list in one step, a value a line, as they come.

    Args:
        path: the file to make or to replace.
        rows: its values.
    """
    with staged_file(Path(path)) as file:
        between = "[\n"
        for row in rows:
            file.write(between + json.dumps(row, ensure_ascii=False))
            between = ",\n"
        file.write("[]\n" if between == "[\n" else "\n]\n")


@contextmanager
def staged_file(path: Path) -> Iterator[TextIO]:
    """Write a UTF-8 file that appears under its name only once it is complete.

    Args:
        path: the file to make or to replace; missing folders are made.

    Yields:
        The file to write into; where the block fails, it is removed and an old one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = _sibling(path, "partial")
    try:
        with open(staged, "w", encoding="utf-8", newline="\n") as file:
            yield file
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
