"""YAML recipes: a file of `flag: value` lines, turned into the words of a command line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

# Words that YAML reads as a boolean and Transformers' parser does not.
_BOOLEAN_WORDS = {"on": "true", "off": "false"}


def read_recipe(path: str, known_flags: Collection[str]) -> list[str]:
    """Read a recipe as command-line words.

    A scalar is passed on as it is written, `3e-5` as well as `no`, so that the flag's own type
    decides what it is; `null` leaves the flag out; a mapping is passed on as JSON.

    Args:
        path: the file.
        known_flags: the names that it may use, with or without dashes before them; in a name `-`
            and `_` count as equal.

    Returns:
        `--key=value` for a scalar or a mapping, `--key value value …` for a list.

    Raises:
        ValueError: the file is missing, is no mapping or no YAML, uses an unknown key or one key
            twice, or has an empty list.
    """
    spellings = {_name(flag): flag.lstrip("-") for flag in known_flags}
    words: list[str] = []
    lines: dict[str, int] = {}
    for key, line, value in _entries(path):
        name = _name(key)
        where = f"{path}:{line}"
        if name not in spellings:
            nearest = difflib.get_close_matches(name, spellings, n=1)
            hint = f' Did you mean "{nearest[0]}"?' if nearest else ""
            raise ValueError(f'{where}: unknown key "{key}".{hint}')
        if name in lines:
            raise ValueError(
                f'{where}: the key "{key}" stands on line {lines[name]} already. Remove one.'
            )
        lines[name] = line
        words += _words(f"--{spellings[name]}", value, where)
    return words


def recipe_keys(path: str) -> list[str]:
    """The keys of a recipe, known or not, in order.

    Raises:
        ValueError: the file is missing, or is no mapping or no YAML.
    """
    return [key for key, _, _ in _entries(path)]


def _words(flag: str, value: Any, where: str) -> list[str]:
    """The words that give a flag its value; none for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        # One word, so that a value which starts with a dash is not taken for a flag.
        return [f"{flag}={value}"]
    if not value:
        raise ValueError(
            f'{where}: "{flag.lstrip("-")}" is an empty list. '
            "Give at least one value, or leave the key out."
        )
    return [flag, *value]


def _entries(path: str) -> Iterator[tuple[str, int, Any]]:
    """Each key of the file with its line, counted from 1, and its value as text, texts, or None."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file. --config needs a YAML file.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected YAML in UTF-8, found {error.reason}") from None
    loader = _loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return
        if not isinstance(root, yaml.MappingNode):
            found = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
            raise ValueError(f'{path}: expected lines of "flag: value", found {found}')
        for key, value in root.value:
            yield str(key.value), key.start_mark.line + 1, _value(loader, value)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()


def _loader(text: str) -> Any:
    """A safe loader that also reads `1e-4` as a number, as YAML 1.2 and Python do."""
    import yaml

    class RecipeLoader(yaml.SafeLoader):
        """Has its own table of implicit types, so that the safe loader's stays as it is."""

    number = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return RecipeLoader(text)


def _value(loader: Any, node: Any) -> str | list[str] | None:
    """A value as the text that a command line would hold, a list of them, or None for null."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item) or "null" for item in node.value]  # type: ignore[misc]
    if isinstance(node, yaml.MappingNode):
        return json.dumps(loader.construct_object(node, deep=True), ensure_ascii=False)
    if node.tag == "tag:yaml.org,2002:null":
        return None
    if node.tag == "tag:yaml.org,2002:bool":
        return _BOOLEAN_WORDS.get(node.value.lower(), node.value)
    return str(node.value)


def _name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")
