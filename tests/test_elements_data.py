import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from decimal import Decimal
from itertools import pairwise

import pytest
from conftest import ROOT

from rag_finetune.metrics.answers import has_answer
from rag_finetune.metrics.text import exact_match_score, normalize_answer

FOLDER = ROOT / "data" / "elements"
SPLITS = ("train", "validation", "test", "test_unseen")
EDITIONS = ("passages", "passages_counterfactual")
COLUMN = {
    "melting_point": "melting_point_c",
    "boiling_point": "boiling_point_c",
    "density": "density_g_per_cm3",
    "electronegativity": "electronegativity_pauling",
}
NOBLE_GASES = (2, 10, 18, 36, 54, 86, 118)
TEXT_COLUMNS = (
    "category",
    "discovery_country",
    "discoverers",
    "name_origin",
    "appearance",
    "main_use",
)
NUMBER_COLUMNS = (
    "atomic_number",
    "atomic_mass",
    "group",
    "period",
    "melting_point_c",
    "boiling_point_c",
    "density_g_per_cm3",
    "electronegativity_pauling",
    "discovery_year",
)
# The words by which a sentence with one number in it shows which number that is.
NUMBER_WORDS = {
    r"melt|becomes? liquid|solid to liquid": "melting_point_c",
    r"boil|to vapour": "boiling_point_c",
    r"densi": "density_g_per_cm3",
    r"electronegativity|Pauling": "electronegativity_pauling",
    r"discover|known since": "discovery_year",
    r"atomic mass": "atomic_mass",
    r"[Gg]roup|column": "group",
    r"[Pp]eriod \d|row": "period",
    r"protons|atomic number|element number|[Nn]umber \d": "atomic_number",
}
COMPARED = {
    "larger atomic mass than": ("atomic_mass", 1),
    "smaller atomic mass than": ("atomic_mass", -1),
    "melts at a higher temperature than": ("melting_point_c", 1),
    "melts at a lower temperature than": ("melting_point_c", -1),
    "boils at a higher temperature than": ("boiling_point_c", 1),
    "boils at a lower temperature than": ("boiling_point_c", -1),
    "denser than": ("density_g_per_cm3", 1),
    "less dense than": ("density_g_per_cm3", -1),
    "more electronegative than": ("electronegativity_pauling", 1),
    "less electronegative than": ("electronegativity_pauling", -1),
    "discovered later than": ("discovery_year", 1),
    "discovered earlier than": ("discovery_year", -1),
}
SHARED = {
    "same group|its group with|same column": "group",
    "same period|row of the table with": "period",
    "same category": "category",
    "same year": "discovery_year",
    "same country": "discovery_country",
}
NEIGHBOURS = {
    r"(?P<b>\w+) comes right after (?P<a>\w+)",
    r"(?P<b>\w+) follows (?P<a>\w+) in the periodic table and precedes (?P<c>\w+)",
    r"(?P<a>\w+) comes just before (?P<b>\w+), and (?P<c>\w+) just after",
    r"next element after (?P<a>\w+) is (?P<b>\w+)",
    r"etween (?P<a>\w+) and (?P<c>\w+) stands (?P<b>\w+)",
}


def read_elements():
    with open(FOLDER / "elements.csv", encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def read_passages(edition):
    with open(FOLDER / f"{edition}.tsv", encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}


def read_questions(split):
    return json.loads((FOLDER / f"{split}.json").read_text(encoding="utf-8"))


def fact_of(question):
    name, field, _ = question["id"].split("-")
    return name, field


def as_answer(field, value):
    """A cell as an answer, normalised by this test's own rules."""
    if field == "density" and Decimal(value) < Decimal("0.05"):
        value = f"{(Decimal(value) * 1000).normalize():f}"
    if field == "block":
        value += "-block"
    if field == "discoverers":
        value = re.sub(r"; (?=[^;]*$)", " and ", value).replace("; ", ", ")
    return normalize_answer(value)


def shown(row):
    """The numbers of a row as a passage may show them."""
    numbers = {column: {Decimal(row[column])} for column in NUMBER_COLUMNS if row[column]}
    for density in list(numbers.get("density_g_per_cm3", ())):
        numbers["density_g_per_cm3"] = {density * 1000 if density < Decimal("0.05") else density}
    return numbers


@pytest.fixture(scope="module")
def elements():
    return read_elements()


@pytest.fixture(scope="module")
def generator():
    """The generator's own table of permuted facts, which no file holds."""
    sys.path.insert(0, str(FOLDER))
    try:
        import element_facts
    finally:
        sys.path.remove(str(FOLDER))
    return element_facts


@pytest.fixture(scope="module")
def tables(elements, generator):
    """The table that each edition of the passages tells, by column."""
    permuted = generator.permute_facts(generator.read_table(FOLDER / "elements.csv"))
    columns = generator.COLUMNS
    other = {
        name: dict.fromkeys(elements[name], "")
        | {columns[field]: value for field, value in facts.items()}
        for name, facts in permuted.items()
    }
    return {"passages": elements, "passages_counterfactual": other}


@pytest.fixture(scope="module")
def passages():
    return {edition: read_passages(edition) for edition in EDITIONS}


@pytest.fixture(scope="module")
def questions():
    return {split: read_questions(split) for split in (*SPLITS, "test_counterfactual")}


def test_writing_the_data_again_gives_the_same_bytes(tmp_path):
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "5"}
    command = [sys.executable, str(FOLDER / "make_data.py"), str(tmp_path)]
    subprocess.run(command, check=True, env=environment)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted(
        path.name
        for path in FOLDER.iterdir()
        if re.fullmatch(r"passages.*\.tsv|.*t.*n?\.json", path.name)
        and path.name != "templates.json"
    )
    assert len(written) == 7
    for name in written:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_the_generator_needs_python_alone():
    modules = {path.stem for path in FOLDER.glob("*.py")}
    for path in FOLDER.glob("*.py"):
        imported = re.findall(r"^(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.M)
        assert set(imported) <= modules | set(sys.stdlib_module_names), path


def test_the_table_has_each_element_once(elements):
    assert [int(row["atomic_number"]) for row in elements.values()] == list(range(1, 119))
    assert len({row["symbol"] for row in elements.values()}) == 118
    assert all(re.fullmatch("[A-Z][a-z]?", row["symbol"]) for row in elements.values())
    assert all(re.fullmatch("[a-z]+", name) for name in elements)
    assert not any(cell != cell.strip() for row in elements.values() for cell in row.values())


def test_period_group_and_block_follow_from_the_atomic_number(elements):
    for row in elements.values():
        number = int(row["atomic_number"])
        period = sum(noble < number for noble in NOBLE_GASES) + 1
        place = number - (0, *NOBLE_GASES)[period - 1]
        left = NOBLE_GASES[period - 1] - number
        has_group = place <= 2 or left <= 14 or (left == 15 and period < 6)
        group = place if place <= 2 and number != 2 else 18 - left if has_group else ""
        assert (row["period"], row["group"]) == (str(period), str(group)), row["name"]
        block = "" if number in (57, 71, 89, 103) else "f" if group == "" else "d"
        block = "s" if place <= 2 else "p" if left <= 5 else block
        assert row["block"] == block, row["name"]


def test_categories_agree_with_the_places_in_the_table(elements):
    for row in elements.values():
        number, group = int(row["atomic_number"]), row["group"]
        expected = {
            "alkali metal": group == "1" and number > 1,
            "alkaline earth metal": group == "2",
            "lanthanide": 57 <= number <= 71,
            "actinide": 89 <= number <= 103,
            "transition metal": group in map(str, range(3, 13)) and number < 109,
            "halogen": group == "17" and number < 109,
            "noble gas": group == "18" and number < 109,
        }
        for category, holds in expected.items():
            assert (row["category"] == category) == holds, row["name"]


def test_numbers_lie_where_nature_puts_them(elements):
    for row in elements.values():
        number, mass = int(row["atomic_number"]), row["atomic_mass"]
        if mass and number > 1:
            assert 1.99 * number <= float(mass) <= 2.7 * number, row["name"]
        if row["melting_point_c"] and row["boiling_point_c"]:
            assert -273.15 < float(row["melting_point_c"]) < float(row["boiling_point_c"]) < 5600
        if row["density_g_per_cm3"]:
            is_gas = "gas" in row["appearance"]
            assert (float(row["density_g_per_cm3"]) < 0.01) == is_gas, row["name"]
            assert float(row["density_g_per_cm3"]) <= 22.59
        if row["electronegativity_pauling"]:
            assert 0.79 <= float(row["electronegativity_pauling"]) <= 3.98
        if row["boiling_point_c"]:
            assert (float(row["boiling_point_c"]) < 20) == ("gas" in row["appearance"])
        if row["discovery_year"]:
            assert 1669 <= int(row["discovery_year"]) <= 2010
    masses = [float(row["atomic_mass"]) for row in elements.values() if row["atomic_mass"]]
    falls = sum(later < earlier for earlier, later in pairwise(masses))
    # Ar-K, Co-Ni, Te-I, Th-Pa, U-Np, Pu-Am, Cm-Bk are equal or fall.
    assert falls == 6


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("hydrogen", "atomic_mass", "1.008"),
        ("helium", "name_origin", "the Greek word for Sun"),
        ("oxygen", "electronegativity_pauling", "3.44"),
        ("fluorine", "electronegativity_pauling", "3.98"),
        ("iron", "melting_point_c", "1538"),
        ("iron", "density_g_per_cm3", "7.87"),
        ("copper", "melting_point_c", "1085"),
        ("bromine", "appearance", "red-brown liquid"),
        ("technetium", "discovery_country", "Italy"),
        ("gold", "symbol", "Au"),
        ("gold", "melting_point_c", "1064"),
        ("mercury", "melting_point_c", "-38.8"),
        ("tungsten", "symbol", "W"),
        ("osmium", "density_g_per_cm3", "22.59"),
        ("lead", "atomic_mass", "207.2"),
        ("radium", "discoverers", "Marie Curie; Pierre Curie"),
        ("francium", "discoverers", "Marguerite Perey"),
        ("uranium", "discovery_year", "1789"),
        ("nihonium", "discovery_country", "Japan"),
        ("oganesson", "name_origin", "Yuri Oganessian"),
    ],
)
def test_well_known_facts_stand_in_the_table(elements, name, column, value):
    assert elements[name][column] == value


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_element_has_three_or_four_passages_of_50_to_100_words(elements, passages, edition):
    counts = Counter(row["title"].lower() for row in passages[edition].values())
    assert set(counts) == set(elements)
    assert set(counts.values()) == {3, 4}
    for row in passages[edition].values():
        assert list(row) == ["id", "text", "title"]
        assert 50 <= len(row["text"].split()) <= 100, row["id"]
        assert "{" not in row["text"] and "  " not in row["text"], row["id"]
        names = set(re.findall(r"\w+", row["text"].lower())) & set(elements)
        assert row["title"].lower() in names and len(names) > 1, row["id"]


def test_both_editions_have_the_same_ids_and_titles(passages):
    first, second = ({row["id"]: row["title"] for row in passages[e].values()} for e in EDITIONS)
    assert first == second
    assert len({row["text"] for e in EDITIONS for row in passages[e].values()}) == 2 * len(first)


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_sentence_is_true_in_the_table_of_its_edition(tables, passages, edition):
    seen, values = Counter(), pattern_of_values(tables[edition])
    for row in passages[edition].values():
        for sentence in re.split(r"\. (?=[A-Z])", row["text"].rstrip(".")):
            kind = check_sentence(sentence, row["title"].lower(), tables[edition], values)
            seen[kind] += 1
    assert set(seen) == {"comparison", "shared", "neighbours", "facts"}
    assert min(seen.values()) > 100


def check_sentence(sentence, title, table, values):
    """Assert what a sentence says against a table, by its words alone; tell its kind."""
    for words, (column, sign) in COMPARED.items():
        for other in re.findall(rf"\b{words} (\w+)", sentence):
            own, others = (Decimal(table[name][column]) for name in (title, other))
            assert (own - others) * sign > 0, sentence
    if any(words in sentence for words in COMPARED):
        return "comparison"
    if match := re.search(r"(\w+) comes between (\w+) and (\w+)$", sentence):
        own, low, high = (Decimal(table[name]["atomic_mass"]) for name in match.groups())
        assert low < own < high, sentence
        return "comparison"
    for words, column in SHARED.items():
        if re.search(words, sentence):
            names = [name for name in re.findall(r"\w+", sentence.lower()) if name in table]
            assert len(names) >= 2 and len({table[name][column] for name in names}) == 1, sentence
            return "shared"
    for pattern in NEIGHBOURS:
        if match := re.search(pattern, sentence):
            found = {key: table[name.lower()] for key, name in match.groupdict().items()}
            numbers = [int(found[key]["atomic_number"]) for key in sorted(found)]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), sentence
            return "neighbours"
    check_facts(sentence, title, table, values)
    return "facts"


def check_facts(sentence, title, table, values):
    """Assert that each value in a sentence belongs to the element that it is about."""
    found = {value.lower() for value in values.findall(sentence)}
    rest = values.sub("", sentence)
    names = {name for name in re.findall(r"\w+", rest.lower()) if name in table}
    assert len(names) <= 1, sentence
    row = table[names.pop() if names else title]
    assert found <= {as_text(column, row[column]).lower() for column in TEXT_COLUMNS}, sentence
    blocks = re.findall(r"\b(\w)-block", rest)
    assert all(block == row["block"] for block in blocks), sentence
    numbers = [Decimal(n) for n in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])", rest)]
    known = shown(row)
    assert all(any(n in known[column] for column in known) for n in numbers), sentence
    if len(numbers) == 1:
        column = next(
            col
            for words, col in NUMBER_WORDS.items()
            if re.search(words, rest) or (col == "electronegativity_pauling" and "scale" in rest)
        )
        assert numbers[0] in known[column], sentence
    marks = re.search(
        r"(?:symbol|as|marked|to|written|chemistry) (?:is |the symbol )?([A-Z][a-z]?)\b(?!-)", rest
    )
    assert not marks or marks[1] == row["symbol"], sentence
    assert numbers or found or blocks or row["symbol"] in rest, sentence


def pattern_of_values(table):
    """One pattern for the words of every text column, the longest first."""
    cells = ((column, row[column]) for row in table.values() for column in TEXT_COLUMNS)
    values = sorted({as_text(*cell) for cell in cells if cell[1]}, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, values))})\b", re.IGNORECASE)


def as_text(column, value):
    if column == "discoverers":
        return re.sub(r"; (?=[^;]*$)", " and ", value).replace("; ", ", ")
    return value


def test_every_answer_is_what_the_table_says(elements, questions):
    for split in SPLITS:
        for question in questions[split]:
            name, field = fact_of(question)
            value = elements[name][COLUMN.get(field, field)]
            assert exact_match_score(as_answer(field, value), question["answers"]) == 1, question
            assert re.search(rf"\b{name}\b", question["question"]), question


@pytest.mark.parametrize("split", [*SPLITS, "test_counterfactual"])
def test_the_first_answer_stands_in_every_positive_passage(passages, questions, split):
    edition = EDITIONS["counterfactual" in split]
    for question in questions[split]:
        assert question["positive_ids"], question
        for id in question["positive_ids"]:
            row = passages[edition][id]
            assert question["answers"][0] in f"{row['title']} {row['text']}", question
            assert has_answer(row["text"], question["answers"]), question


def test_the_first_positive_passage_is_about_the_element(passages, questions):
    for split in SPLITS:
        for question in questions[split]:
            row = passages["passages"][question["positive_ids"][0]]
            assert row["title"].lower() == fact_of(question)[0], question


def test_positive_ids_name_every_passage_that_states_the_melting_point(elements, questions):
    positives = {}
    for split in SPLITS:
        for question in questions[split]:
            name, field = fact_of(question)
            if field == "melting_point":
                positives[name] = set(question["positive_ids"])
    assert len(positives) > 50
    found = defaultdict(set)
    for row in read_passages("passages").values():
        for sentence in re.split(r"\. (?=[A-Z])", row["text"]):
            value = (
                re.search(r"melt\D*?(-?[\d.]+) (?:°C|degrees)", sentence)
                or re.search(
                    r"(-?[\d.]+) (?:°C|degrees Celsius)(?: is needed to melt|, .*solid to liquid)",
                    sentence,
                )
                or re.search(r"becomes liquid at (-?[\d.]+)", sentence)
            )
            if value:
                names = [n for n in re.findall(r"\w+", sentence.lower()) if n in elements]
                found[names[0] if names else row["title"].lower()].add(row["id"])
    assert {name: found[name] for name in positives} == positives


def test_no_fact_is_asked_in_two_splits(questions):
    facts = {split: {fact_of(q)[:2] for q in questions[split]} for split in SPLITS}
    assert sum(map(len, facts.values())) == len(set().union(*facts.values()))


def test_no_other_split_speaks_of_an_unseen_element(questions):
    unseen = {fact_of(question)[0] for question in questions["test_unseen"]}
    assert 15 <= len(unseen) <= 20
    for split in ("train", "validation", "test"):
        for question in questions[split]:
            words = " ".join([question["question"], *question["answers"]]).lower()
            assert not unseen & set(re.findall(r"\w+", words)), question


def test_every_known_kind_of_fact_is_in_every_split(questions):
    kinds = {split: {fact_of(question)[1] for question in questions[split]} for split in SPLITS}
    assert all(len(kinds[split]) == 17 for split in SPLITS)


def test_counts_are_those_of_the_readme(passages, questions):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for split, rows in questions.items():
        line = next(line for line in readme.splitlines() if f"`{split}.json` |" in line)
        assert f" {len(rows):,} " in line
    for edition in EDITIONS:
        line = next(line for line in readme.splitlines() if f"`{edition}.tsv` |" in line)
        assert f" {len(passages[edition])} passages" in line
    lengths = [len(row["text"].split()) for row in passages["passages"].values()]
    assert f"{min(lengths)}–{max(lengths)} words" in readme
    assert 2000 <= sum(len(questions[split]) for split in SPLITS) <= 4000
    asked = [question for split in SPLITS for question in questions[split]]
    assert len({question["id"] for question in asked}) == len(asked)
    assert len({question["question"] for question in asked}) == len(asked)
    wordings = Counter(fact_of(question)[:2] for question in asked)
    assert set(wordings.values()) <= {2, 3, 4}


def test_the_folder_is_small():
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000


def test_the_most_frequent_value_of_each_kind_is_seldom_right(questions):
    frequent = defaultdict(Counter)
    for question in questions["train"]:
        frequent[fact_of(question)[1:]][question["answers"][0]] += 1
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for split in ("test", "test_unseen"):
        scores = [
            exact_match_score(frequent[fact_of(q)[1:]].most_common(1)[0][0], q["answers"])
            for q in questions[split]
        ]
        score = 100 * sum(scores) / len(scores)
        assert score < 10
        assert f"{score:.1f} % of `{split}.json`" in " ".join(readme.split())


def test_permuting_keeps_every_column_and_no_cell(elements, tables):
    for column in next(iter(elements.values())):
        if column == "name":
            continue
        true, other = ([row[column] for row in tables[e].values()] for e in EDITIONS)
        assert sorted(true) == sorted(other), column
        assert all((a == "") == (b == "") for a, b in zip(true, other, strict=True)), column
        assert not any(a == b != "" for a, b in zip(true, other, strict=True)), column


def test_counterfactual_questions_are_those_of_the_tests(questions):
    both = [*questions["test"], *questions["test_unseen"]]
    asked = [question for question in both if question["id"].endswith("-1")]
    changed = questions["test_counterfactual"]
    assert len({fact_of(question) for question in both}) == len(asked) == len(changed)
    assert [(q["id"], q["question"]) for q in changed] == [(q["id"], q["question"]) for q in asked]
    assert [q["true_answers"] for q in changed] == [q["answers"] for q in asked]


def test_counterfactual_answers_are_false(elements, tables, questions):
    for question in questions["test_counterfactual"]:
        name, field = fact_of(question)
        column = COLUMN.get(field, field)
        for answer in question["answers"]:
            assert exact_match_score(answer, question["true_answers"]) == 0, question
        told = tables["passages_counterfactual"][name][column]
        assert exact_match_score(as_answer(field, told), question["answers"]) == 1, question
        true = as_answer(field, elements[name][column])
        assert exact_match_score(true, question["answers"]) == 0, question
