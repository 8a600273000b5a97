"""The table of the elements: how each fact is written in a sentence and in an answer."""

from __future__ import annotations

import csv
import random
from decimal import Decimal
from pathlib import Path

COLUMNS = {
    "symbol": "symbol",
    "atomic_number": "atomic_number",
    "atomic_mass": "atomic_mass",
    "group": "group",
    "period": "period",
    "block": "block",
    "category": "category",
    "melting_point": "melting_point_c",
    "boiling_point": "boiling_point_c",
    "density": "density_g_per_cm3",
    "electronegativity": "electronegativity_pauling",
    "discovery_year": "discovery_year",
    "discovery_country": "discovery_country",
    "discoverers": "discoverers",
    "name_origin": "name_origin",
    "appearance": "appearance",
    "main_use": "main_use",
}
FIELDS = tuple(COLUMNS)
SEED = 118
GASES_BELOW = Decimal("0.05")  # g/cm³: less dense is a gas, whose density is told in g/L
GAS_UNITS, SOLID_UNITS = ("g/L", "grams per litre"), ("g/cm³", "grams per cubic centimetre")
CELSIUS = ("°C", "degrees Celsius")
NUMBERS = ("atomic_mass", "melting_point", "boiling_point", "density", "electronegativity")
ARTICLES = ("the ", "an ", "a ")
COUNTRY_NAMES = {
    "United Kingdom": ["the United Kingdom", "UK", "Britain", "Great Britain"],
    "United States": ["the United States", "USA", "US", "United States of America"],
}

Facts = dict[str, str]
Table = dict[str, Facts]


def read_table(path: Path) -> Table:
    """The known facts of each element by its name, in the order of the atomic numbers."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["name"]: {field: row[column] for field, column in COLUMNS.items() if row[column]}
        for row in rows
    }


def permute_facts(table: Table) -> Table:
    """Hand each column's values round among the elements that have one.

    No element keeps its value. The elements are lined up value by value and each takes the value of
    the one so far ahead that it has left its own value behind, which takes half of the elements to
    have another value.
    """
    permuted: Table = {name: {} for name in table}
    for field in FIELDS:
        rng = random.Random(f"{SEED} permute {field}")
        holders: dict[str, list[str]] = {}
        for name in having(table, field):
            holders.setdefault(_compared(table[name][field]), []).append(name)
        keys = sorted(holders)
        rng.shuffle(keys)
        line = [name for key in keys for name in holders[key]]
        step = max(len(names) for names in holders.values())
        for place, name in enumerate(line):
            permuted[name][field] = table[line[(place + step) % len(line)]][field]
    return {name: {field: row[field] for field in table[name]} for name, row in permuted.items()}


def value_span(field: str, value: str) -> str:
    """The words of a fact as a sentence holds them, without unit or article."""
    if field == "block":
        return f"{value}-block"
    if field == "discoverers":
        *others, last = value.split("; ")
        return f"{', '.join(others)} and {last}" if others else last
    if field == "density" and Decimal(value) < GASES_BELOW:
        return str(Decimal(value).scaleb(3))
    if field == "name_origin":
        return _without_article(value)
    return value


def accepted_answers(field: str, value: str) -> list[str]:
    """Every spelling of a fact that counts as right, the one that the passages hold first."""
    span = value_span(field, value)
    if field in NUMBERS:
        numbers = list(dict.fromkeys([span, _shortest(span)]))
        return numbers + [f"{number} {unit}" for unit in units(field, value) for number in numbers]
    if field in ("group", "period"):
        return [span, f"{field} {span}"]
    if field == "block":
        return [span, f"{value} block", value]
    if field == "discovery_country":
        return [span, *COUNTRY_NAMES.get(value, [])]
    return list(dict.fromkeys([span, value])) if field == "name_origin" else [span]


def units(field: str, value: str) -> tuple[str, ...]:
    """The ways to write the unit of a number; none if it is told without one."""
    if field == "density":
        return GAS_UNITS if Decimal(value) < GASES_BELOW else SOLID_UNITS
    return CELSIUS if field in ("melting_point", "boiling_point") else ()


def with_article(words: str, letter: bool = False) -> str:
    """The words after "a" or "an"; `letter` when they start with a letter that is spelt out."""
    return f"{'an' if words[0] in ('fs' if letter else 'aeiou') else 'a'} {words}"


def having(table: Table, field: str) -> list[str]:
    """The elements of which a fact is known, in the order of the table."""
    return [name for name, facts in table.items() if field in facts]


def _compared(value: str) -> str:
    """A value as scoring compares it: 2.20 is 2.2, and a sign is not seen."""
    try:
        return str(abs(Decimal(value)).normalize())
    except ArithmeticError:
        return value.casefold()


def _shortest(number: str) -> str:
    """A number without the zeros at the end of its decimals."""
    return number.rstrip("0").rstrip(".") if "." in number else number


def _without_article(words: str) -> str:
    return next((words.removeprefix(a) for a in ARTICLES if words.startswith(a)), words)
