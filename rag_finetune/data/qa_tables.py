"""Questions in plain tables: DPR's two columns, BEIR's qrels, and a line each in two files."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from rag_finetune.data.json_rows import first_line, list_keys
from rag_finetune.data.qa_fields import (
    ANSWERLESS,
    Example,
    Reading,
    read_answers,
    read_id,
    read_string,
)
from rag_finetune.files import check_file, describe, read_json_lines, read_lines

QRELS_HEADER = ["query-id", "corpus-id", "score"]
QUESTION_HEADER = {"question", "questions"}, {"answer", "answers"}


def read_dpr_table(path: str | Path, reading: Reading) -> Iterator[Example]:
    """DPR's question files: a question, and its answers as Python writes a list of strings.

    The columns stand apart by tabs (in a .csv without a tab on its first line, by commas); a header
    with the two names is passed over. What is no list is one answer.
    """
    for number, (line, cells) in enumerate(_read_cells(path, _delimiter(path))):
        place = f"{path}:{line}"
        if len(cells) != 2:
            raise ValueError(
                f"{place}: expected 2 fields, the question and a list of answers, found "
                f"{len(cells)}. Quote a field that holds the delimiter or a newline."
            )
        names = [cell.strip().lower() for cell in cells]
        if number == 0 and all(map(set.__contains__, QUESTION_HEADER, names)):
            continue
        question = read_string({"question": cells[0]}, "question", place, "Write it.")
        yield Example(place, question, _read_cell(cells[1], place, reading))


def read_lines_in_pairs(path: str | Path, reading: Reading) -> Iterator[Example]:
    """A question a line in `train.source`, its answer on the same line of `train.target`.

    An answer may be a list of strings as Python writes it. Empty lines at the end do not count.
    """
    source = Path(path)
    if source.suffix.lower() != ".source":
        raise ValueError(
            f'{path}: expected the questions in a file that ends in ".source", found '
            f'"{source.name}". Give that file; its answers are read from the .target beside it.'
        )
    target = source.with_suffix(".target")
    questions = _stripped_lines(source)
    answers = [""] * len(questions)
    if reading.need_answers or target.exists():
        answers = _stripped_lines(target)
    if len(questions) != len(answers):
        raise ValueError(
            f"{source}: expected as many lines as {target.name} has, found {len(questions)} "
            f"questions and {len(answers)} answers. Give every question its answer on its line."
        )
    for line, (question, answer) in enumerate(zip(questions, answers, strict=True), start=1):
        place = f"{source}:{line}"
        text = read_string({"question": question}, "question", place, "Write it.")
        yield Example(place, text, _read_cell(answer, f"{target}:{line}", reading))


def read_beir(path: str | Path, reading: Reading) -> Iterator[Example]:
    """BEIR: relevance judgements under qrels/, the questions in queries.jsonl one folder up.

    The questions that the file of judgements names are read, in the order of queries.jsonl; their
    gold documents are those with a score above 0, which is their grade. There are no answers.
    """
    if reading.need_answers:
        raise ValueError(f"{path}: expected questions with answers, found BEIR's. {ANSWERLESS}")
    judged, lines = _read_qrels(path)
    queries = Path(path).parent.parent / "queries.jsonl"
    for line, row in read_json_lines(queries):
        place = f"{queries}:{line}"
        if not isinstance(row, Mapping):
            raise ValueError(
                f'{place}: expected an object with "_id" and "text", found {describe(row)}. '
                f'Write {{"_id": "…", "text": "…"}}.'
            )
        query_id = read_id(row, place, ("_id", "id"))
        if query_id is None or query_id not in judged:
            continue
        question = read_string(row, "text", place, "Write it, or delete the row.")
        gold = judged[query_id]
        grades = list(gold.values()) if len({1.0, *gold.values()}) > 1 else []
        yield Example(
            place, question, [], id=query_id, positive_ids=list(gold), positive_grades=grades
        )
        lines.pop(query_id, None)
    if lines:
        query_id, line = next(iter(lines.items()))
        raise ValueError(
            f'{path}:{line}: the query-id "{query_id}" is in no row of {queries}. '
            f"Do the two files belong together?"
        )


def is_qrels(path: str | Path) -> bool:
    """Tell whether a .tsv holds BEIR's relevance judgements, by its first line."""
    return first_line(path).split() == QRELS_HEADER


def refuse_beir_folder(path: str | Path) -> None:
    """Name the files to choose from where a folder of BEIR's was given for one of them.

    Raises:
        IsADirectoryError: the path is such a folder.
    """
    found = [f"qrels/{file.name}" for file in sorted(Path(path).glob("qrels/*.tsv"))]
    if found:
        raise IsADirectoryError(
            f"{path}: expected a file of questions, found a BEIR folder. "
            f"Give one of {', '.join(found)} in it."
        )


def _read_cell(cell: str, place: str, reading: Reading) -> list[str]:
    """The answers in one cell: a list as Python writes it, or one answer."""
    bare = cell.strip()
    is_list = bare.startswith("[") and bare.endswith("]")
    row = {"answers": bare if is_list or not bare else [bare]}
    return read_answers(row, ("answers",), place, reading)


def _delimiter(path: str | Path) -> str:
    is_csv = Path(path).suffix.lower() == ".csv"
    return "," if is_csv and "\t" not in first_line(path) else "\t"


def _read_cells(path: str | Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the default, 131,072 characters, refuses a long cell
    reader = csv.reader(read_lines(path), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}:{line}: the row that begins here cannot be read ({error}). A field that "
                f"begins with a quote must end with one, and each quote inside it must be doubled."
            ) from error
        if cells:
            yield line, cells


def _stripped_lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _read_qrels(path: str | Path) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """The gold ids of each question with their scores, and the line that first names it."""
    check_file(path)
    rows = _read_cells(path, "\t")
    line, header = next(rows, (1, []))
    if [name.strip() for name in header] != QRELS_HEADER:
        raise ValueError(
            f"{path}:{line}: expected a header with the columns {list_keys(QRELS_HEADER)}, found "
            f"{list_keys(header) or 'nothing'}. Put that header on the first line."
        )
    judged: dict[str, dict[str, float]] = {}
    lines: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) != 3 or not all(cell.strip() for cell in cells):
            raise ValueError(
                f"{path}:{line}: expected 3 fields ({list_keys(QRELS_HEADER)}), found "
                f"{len(list(filter(str.strip, cells)))}. Separate them by tabs."
            )
        query_id, passage_id, score = (cell.strip() for cell in cells)
        gold = judged.setdefault(query_id, {})
        lines.setdefault(query_id, line)
        grade = _read_score(score, f"{path}:{line}")
        if grade > 0:
            gold.setdefault(passage_id, grade)
    return judged, lines


def _read_score(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f'{place}: "score" must be a number, found the string "{text[:60]}". '
            f"Write 1 for a relevant document, 0 for another."
        ) from None
