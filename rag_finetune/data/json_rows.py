"""Rows of JSON files with the line that each begins on, for errors that say where."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rag_finetune.files import check_characters, read_json_lines, read_text

SEPARATOR = re.compile(r"\s*[\[,]?\s*")


def read_objects(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Read the values of a JSON list, or of JSONL; its content tells which.

    Args:
        path: the file.

    Returns:
        Pairs of the line that a value begins on, from 1, and the value.

    Raises:
        ValueError: the file is not such JSON; the message names file and line.
        OSError: the file cannot be read.
    """
    text = read_text(path)
    start = text.lstrip()[:1]
    if start == "[":
        return _read_list(text, path)
    if start == "{":
        _check_one_line_each(text, path)
    return read_json_lines(path)


def _check_one_line_each(text: str, path: str | Path) -> None:
    start = len(text) - len(text.lstrip())
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except json.JSONDecodeError:
        return  # read_json_lines names the place
    spread = "\n" in text[start:end]
    if spread or ("question" not in value and isinstance(value.get("data"), list)):
        raise ValueError(
            f"{path}:{text.count(chr(10), 0, start) + 1}: expected a list of objects or one object "
            f'a line, found one object with the keys {list_keys(value)}. Write [{{"question": "…", '
            f'"answers": ["…"]}}, …] (SQuAD\'s nested format must be flattened first).'
        )


def _read_list(text: str, path: str | Path) -> Iterator[tuple[int, Any]]:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}:{error.lineno}: expected a JSON list of objects, found a syntax error at "
            f"column {error.colno} ({error.msg}). Correct the JSON there."
        ) from error
    # A second walk, because json.loads does not tell on which line an object begins.
    decoder, line, counted = json.JSONDecoder(), 1, 0
    position = _skip_separator(text, 0)
    while text[position] != "]":
        value, end = decoder.raw_decode(text, position)
        line, counted = line + text.count("\n", counted, position), position
        check_characters(text[position:end], value, f"{path}:{line}")
        yield line, value
        position = _skip_separator(text, end)


def _skip_separator(text: str, position: int) -> int:
    match = SEPARATOR.match(text, position)
    return match.end() if match else position


def list_keys(names: Iterable[str]) -> str:
    """Name keys in a message: quoted, each cut at forty characters."""
    return ", ".join(f'"{name[:40]}"' for name in names)
