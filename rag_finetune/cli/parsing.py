"""What every command does with its words: flags, YAML recipes, and answers to misspelt names.

A recipe's keys become flags placed before those of the command line. So flags win, and argparse
converts both alike (`3e-5` is a string to YAML). Nothing heavy is imported: `--help` is instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from rag_finetune.cli.recipe import read_recipe

# Flags that steer the command line itself: a recipe cannot set them.
_NOT_IN_A_RECIPE = {"config", "debug", "help", "help_all", "h"}
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of description and epilog, and shows each default worth showing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, False, "", argparse.SUPPRESS) or action.default == []
        if silent or not action.option_strings or "%(default)" in (action.help or ""):
            return action.help
        if isinstance(action.default, list | tuple):
            return f"{action.help or ''} (default: {' '.join(map(str, action.default))})"
        return f"{action.help or ''} (default: %(default)s)"


class _Parser(argparse.ArgumentParser):
    """Answers wrong usage with one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with code 2, without the list of flags that argparse puts before the message."""
        hint = "" if "--help" in message else f" See {self.prog} --help."
        end = "" if message.endswith((".", "?", "!")) else "."
        self.exit(2, f"{self.prog}: error: {message}{end}{hint}\n")


def make_parser(
    command: str, description: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a command, with the flags that every command has.

    Args:
        command: its name, as typed after `rag-finetune`.
        description: what it does.
        epilog: what stands below the flags, for example examples; line breaks are kept.

    Returns:
        A parser that takes no abbreviated flags, with `--config` and `--debug`.
    """
    parser = _Parser(
        prog=f"rag-finetune {command}",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML recipe: a flag's name without the dashes, a colon, its value; flags win over it",
    )
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error instead of one line"
    )
    return parser


def parse_bool(text: str) -> bool:
    """Read `true` or `false` (also yes/no, on/off, 1/0), in any case.

    Raises:
        argparse.ArgumentTypeError: the text is none of them.
    """
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f'expected true or false, found "{text}"')


def add_bool(
    parser: argparse._ActionsContainer, name: str, default: bool | None, help: str
) -> None:
    """Add a flag that is set by `--name` or `--name true`, and unset by `--name false`.

    Args:
        parser: the parser, or a group of it.
        name: the flag's name, without dashes.
        default: its value when it is not given; None says "decide later".
        help: what it does.
    """
    if default:
        help = f"{help}; --{name} false switches it off"
    parser.add_argument(
        f"--{name}",
        type=parse_bool,
        nargs="?",
        const=True,
        default=default,
        metavar="true|false",
        help=help,
    )


def add_dataclass_options(
    parser: argparse._ActionsContainer, cls: type, without: Collection[str] = ()
) -> None:
    """Add a flag for each field of a dataclass.

    A field's type may be str, int, float, bool, a list of one of these, or any of them or None;
    its metadata may hold "help", "choices" and "metavar". A field without a default is required.

    Args:
        parser: the parser, or a group of it.
        cls: the dataclass; `cls(**vars(namespace))` is for the caller to do.
        without: fields that get none.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init or field.name in without:
            continue
        kind, is_list = _kind(hints[field.name])
        default, required = _default(field)
        help_text = field.metadata.get("help", "")
        if kind is bool and not is_list:
            add_bool(parser, field.name, default, help_text)
            continue
        options: dict[str, Any] = {"type": parse_bool if kind is bool else kind}
        options |= {
            key: field.metadata[key] for key in ("choices", "metavar") if key in field.metadata
        }
        if is_list:
            options["nargs"] = "+"
        parser.add_argument(
            f"--{field.name}", default=default, required=required, help=help_text, **options
        )


def _default(field: dataclasses.Field[Any]) -> tuple[Any, bool]:
    """The default of a field, and whether the flag must be given because it has none."""
    if field.default is not dataclasses.MISSING:
        return field.default, False
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory(), False
    return None, True


def _kind(hint: Any) -> tuple[Any, bool]:
    """The type that converts one word, and whether the flag takes several words."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0], True
    return (str, True) if hint is list else (hint, False)


def expand_config(argv: Sequence[str], known_flags: Collection[str]) -> list[str]:
    """Put the flags of the recipe that `--config` names before those of the command line.

    Args:
        argv: the words of the command line.
        known_flags: the names that a recipe may use, with or without dashes before them; in a
            name `-` and `_` count as equal.

    Returns:
        The recipe's flags, then `--config FILE` (which also ends a list of the recipe: it cannot
        swallow an argument that has no flag), then the other words; without a recipe, the words.

    Raises:
        ValueError: the recipe cannot be read, has an unknown key or one key twice, or `--config`
            stands there twice.
    """
    recipe, rest = split_config(argv)
    if recipe is None:
        return list(argv)
    return [*read_recipe(recipe, known_flags), "--config", recipe, *rest]


def split_config(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The recipe's path, None when there is none, and the words without `--config FILE`."""
    recipe: str | None = None
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            return recipe, [*rest, word, *words]
        if word != "--config" and not word.startswith("--config="):
            rest.append(word)
            continue
        if recipe is not None:
            raise ValueError("--config is given twice: join the recipes into one file")
        recipe = word.partition("=")[2] if "=" in word else next(words, None)
        if recipe is None:
            return None, list(argv)  # argparse says that --config needs a value
    return recipe, rest


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str], extra_flags: Collection[str] = ()
) -> argparse.Namespace:
    """Read the recipe and the flags of a command; leave with code 2 at a flag that is unknown.

    Args:
        parser: from `make_parser`.
        argv: the words after the command's name.
        extra_flags: further names to suggest for a misspelt flag.

    Returns:
        The values, by name.

    Raises:
        ValueError: the recipe is wrong (see `expand_config`).
    """
    words = expand_config(argv, _recipe_keys(parser, ()))
    if unknown := _unknown(parser, words):  # else argparse may name a missing flag instead
        _refuse(parser, unknown, extra_flags)
    namespace, rest = parser.parse_known_args(words)
    if rest:
        _refuse_listed(parser, rest[0], argv)
        _refuse(parser, rest, extra_flags)
    return namespace


def parse_known(
    parser: argparse.ArgumentParser, argv: Sequence[str], extra_flags: Collection[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Like `parse`, but hand back the flags that a second parser is to read.

    Args:
        parser: from `make_parser`; it must have no argument without a flag.
        argv: the words after the command's name.
        extra_flags: the flags of the second parser, with or without dashes before them; a recipe
            may set these as well.

    Returns:
        The values of this parser's flags, by name, and the words for the second parser, in order,
        the recipe's first.

    Raises:
        ValueError: the recipe is wrong (see `expand_config`).
    """
    words = expand_config(argv, _recipe_keys(parser, extra_flags))
    if unknown := _unknown(parser, words, extra_flags):
        _refuse(parser, unknown, extra_flags)
    namespace, rest = parser.parse_known_args(words)
    if rest and not rest[0].startswith("-"):
        _refuse_listed(parser, rest[0], argv)
        _refuse(parser, rest[:1], extra_flags)
    return namespace, rest


def _recipe_keys(parser: argparse.ArgumentParser, extra_flags: Collection[str]) -> list[str]:
    names = [flag.lstrip("-") for flag in (*parser._option_string_actions, *extra_flags)]
    return [name for name in names if _name(name) not in _NOT_IN_A_RECIPE]


def _unknown(
    parser: argparse.ArgumentParser, words: Sequence[str], others: Collection[str] = ()
) -> list[str]:
    """Flags that neither the parser knows nor `others` holds."""
    known = {_name(flag) for flag in (*parser._option_string_actions, *others, "--")}
    return [w for w in words if w.startswith("--") and _name(w.partition("=")[0]) not in known]


def _refuse_listed(parser: argparse.ArgumentParser, word: str, argv: Sequence[str]) -> None:
    """Leave with a word of a recipe's list that no flag takes, if it is one."""
    recipe, rest = split_config(argv)
    if recipe is not None and word not in rest and not word.startswith("-"):
        parser.error(f'{recipe}: found a list with "{word}" where one value is meant')


def _refuse(
    parser: argparse.ArgumentParser, rest: Sequence[str], extra_flags: Collection[str]
) -> NoReturn:
    """Leave with the first word that nothing takes, and the flag that it may stand for."""
    flag = next((word.partition("=")[0] for word in rest if word.startswith("-")), None)
    if flag is None:
        parser.error(f'unexpected argument "{rest[0]}"')
    if _name(flag) in (one.dest for one in parser._actions if not one.option_strings):
        parser.error(f"unrecognised flag {flag}. The {_name(flag)} stands alone: leave {flag} out")
    spellings = {_name(known): known.lstrip("-") for known in extra_flags}
    spellings |= {_name(known): known.lstrip("-") for known in parser._option_string_actions}
    nearest = difflib.get_close_matches(_name(flag), spellings, n=1, cutoff=0.63)
    hint = f" Did you mean --{spellings[nearest[0]]}?" if nearest else " --help lists the flags."
    parser.error(f"unrecognised flag {flag}.{hint}")


def _name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")
