"""Rows of JSON files with the line that each begins on, for errors that say where."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rag_finetune.files import check_characters, read_json_lines, read_lines, read_text

BLOCK = 1 << 20  # characters of a list that are read at once
WHITE_SPACE = re.compile(r"[ \t\n\r]*")


def read_objects(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Read the values of a JSON list, or of JSONL, one by one; its content tells which.

    No more of the file is held than the value at hand and a block after it, so that a list of many
    gigabytes can be read as well.

    Args:
        path: the file.

    Returns:
        Pairs of the line that a value begins on, from 1, and the value.

    Raises:
        ValueError: the file is not such JSON; the message names file and line. It comes when the
            fault is reached, after the values before it.
        OSError: the file cannot be read.
    """
    first = first_line(path).lstrip()
    if first.startswith("["):
        return _ListReader(path).values()
    if first.startswith("{") and parse_json(first) is None:
        _refuse_spread_object(path)
    return read_json_lines(path)


def read_placed_objects(path: str | Path) -> Iterator[tuple[str, Any]]:
    """As `read_objects`, with the place of each value for messages.

    Returns:
        Pairs of file and line, with the value's number where its line holds others before it, and
        the value.
    """
    before = 0
    for number, (line, value) in enumerate(read_objects(path), start=1):
        where = f"{path}:{line}"
        yield (f"{where} (row {number})" if line == before else where), value
        before = line


def first_line(path: str | Path) -> str:
    """The first line of a file that is not blank; "" where there is none."""
    return next((line for line in read_lines(path) if line.strip()), "")


def parse_json(text: str) -> Any:
    """The value of a text that is one whole JSON value; None where it is not."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None


def list_keys(names: Iterable[str]) -> str:
    """Name keys in a message: quoted, each cut at forty characters."""
    return ", ".join(f'"{name[:40]}"' for name in names)


def _refuse_spread_object(path: str | Path) -> None:
    text = read_text(path)
    start = len(text) - len(text.lstrip())
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except json.JSONDecodeError as error:
        first = text[start:].partition("\n")[0].rstrip()
        if not first.endswith(("{", "[", ",")):
            return  # one object a line was meant: read_json_lines names the place
        raise ValueError(
            f"{path}:{error.lineno}: expected JSON, found a syntax error at column {error.colno} "
            f"({error.msg}). Correct the JSON there."
        ) from error
    if "\n" in text[start:end]:
        raise ValueError(
            f"{path}:{text.count(chr(10), 0, start) + 1}: expected a list of objects or one object "
            f"a line, found one object with the keys {list_keys(value)}. "
            f"Write [{{…}}, {{…}}, …], or each object on a line of its own."
        )


class _ListReader:
    """A JSON list, read on from the file as its values are asked for.

    A token never runs over the end of a line, so a value that cannot be decoded is either not whole
    yet, and more lines help, or wrong.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.lines = read_lines(path)
        self.text = ""
        self.position = 0
        self.line = 1  # of `counted`
        self.counted = 0
        self.column = 0  # characters before `text` on the line that it begins on

    def values(self) -> Iterator[tuple[int, Any]]:
        """Yield each value with the line that it begins on."""
        self._next_character()
        self.position += 1  # the opening bracket
        if self._next_character() == "]":
            return self._end()
        while True:
            self._next_character()
            value, end = self._decode()
            line = self._line_of(self.position)
            check_characters(self.text[self.position : end], value, f"{self.path}:{line}")
            self.position = end
            yield line, value
            mark = self._next_character()
            if mark == "]":
                return self._end()
            if mark != ",":
                raise self._error("Expecting ',' delimiter", self.position)
            self.position += 1

    def _end(self) -> None:
        """Check that nothing follows the closing bracket."""
        self.position += 1
        if self._next_character():
            raise self._error("Extra data", self.position)

    def _next_character(self) -> str:
        """Go to the next character that is not white space; "" at the end of the file."""
        while True:
            match = WHITE_SPACE.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text) or not self._read_on():
                return self.text[self.position : self.position + 1]

    def _decode(self) -> tuple[Any, int]:
        decoder = json.JSONDecoder()
        while True:
            try:
                return decoder.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                # What is not whole yet fails at the end; any other fault needs no more of the file.
                match = WHITE_SPACE.match(self.text, error.pos)
                is_last = match is None or match.end() == len(self.text)
                if not (is_last and self._read_on()):
                    raise self._error(error.msg, error.pos) from error
            except RecursionError as error:
                raise self._error("Nested too deeply", self.position) from error

    def _read_on(self) -> bool:
        """Read a block and drop what is behind the position; False at the end of the file."""
        rest = len(self.text) - self.position
        block, size = [], 0
        for line in self.lines:
            block.append(line)
            size += len(line)
            if size >= max(BLOCK, rest):
                break
        if not block:
            return False
        self._line_of(self.position)
        newline = self.text.rfind("\n", 0, self.position)
        self.column = self.position - newline - 1 + (self.column if newline < 0 else 0)
        self.text = "".join([self.text[self.position :], *block])
        self.position = self.counted = 0
        return True

    def _line_of(self, position: int) -> int:
        """The line of a position that lies behind those asked for before."""
        self.line += self.text.count("\n", self.counted, position)
        self.counted = position
        return self.line

    def _error(self, message: str, position: int) -> ValueError:
        line = self.line + self.text.count("\n", self.counted, position)
        newline = self.text.rfind("\n", 0, position)
        column = position - newline + (self.column if newline < 0 else 0)
        return ValueError(
            f"{self.path}:{line}: expected a JSON list of objects, found a syntax error at "
            f"column {column} ({message}). Correct the JSON there."
        )
