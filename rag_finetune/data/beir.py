"""Write BEIR folders, which retrieval toolkits read: a corpus, queries, and judgements by split."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rag_finetune.data.qa_tables import QRELS_HEADER
from rag_finetune.files import staged_file, staged_folder, write_jsonl

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"


class Query(NamedTuple):
    """A question, and the grades of its gold passages by their ids.

    Attributes:
        id: differs from question to question, in all splits.
        text: the question.
        grades: whole numbers above 0; empty where no gold passage is known.
    """

    id: str
    text: str
    grades: Mapping[str, float]


def write_beir(
    folder: str | Path,
    passages: Iterable[Mapping[str, str]],
    splits: Mapping[str, Sequence[Query]],
) -> None:
    """Write a BEIR folder: `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv`.

    The folder appears, complete, in one step. `load_passages` reads it, and `load_questions` each
    file under qrels/. BEIR has no answers; a question without a gold passage stands in
    queries.jsonl alone.

    Args:
        folder: to make or to replace.
        passages: with id, title and text; read once.
        splits: the questions of each split by its name, such as "test".

    Raises:
        ValueError: an id is empty, has white space around it or a line break inside, or stands for
            two questions; a gold passage is not among the passages; a grade is no whole number
            above 0; or a split has no question with a gold passage.
        OSError: the folder cannot be written.
    """
    _check(splits)
    with staged_folder(Path(folder)) as staged:
        missing = {
            name: query for part in splits.values() for query in part for name in query.grades
        }
        write_jsonl(staged / CORPUS, _documents(passages, missing))
        if missing:
            name, query = next(iter(missing.items()))
            raise ValueError(
                f'the gold passage "{name}" of the question "{query.id}" is not among the '
                "passages. Give the passages that the questions were judged on."
            )
        queries = (query for part in splits.values() for query in part)
        write_jsonl(staged / QUERIES, ({"_id": query.id, "text": query.text} for query in queries))
        for split, part in splits.items():
            with staged_file(staged / QRELS / f"{split}.tsv") as file:
                table = csv.writer(file, delimiter="\t", lineterminator="\n")
                table.writerow(QRELS_HEADER)
                for query in part:
                    table.writerows([query.id, *pair] for pair in _judgements(query))


def _documents(
    passages: Iterable[Mapping[str, str]], missing: dict[str, Any]
) -> Iterator[dict[str, str]]:
    """Passages as BEIR has them; those that come are taken out of `missing`."""
    for passage in passages:
        _check_id(passage["id"], "passages")
        missing.pop(passage["id"], None)
        yield {"_id": passage["id"], "title": passage["title"], "text": passage["text"]}


def _judgements(query: Query) -> Iterator[tuple[str, int]]:
    """Gold passages and their grades, which BEIR's own loader reads as whole numbers."""
    for name, grade in query.grades.items():
        if grade < 1 or int(grade) != grade:
            raise ValueError(
                f'the question "{query.id}": grades in BEIR are whole numbers above 0, found '
                f'{grade:g} for "{name}". Multiply all grades until they are.'
            )
        yield name, int(grade)


def _check(splits: Mapping[str, Sequence[Query]]) -> None:
    """Raise for questions that cannot stand in one folder."""
    seen: set[str] = set()
    for split, part in splits.items():
        for query in part:
            _check_id(query.id, "questions")
            if query.id in seen:
                raise ValueError(
                    f'the id "{query.id}" stands for two questions. Give every question its own.'
                )
            seen.add(query.id)
        if not any(query.grades for query in part):
            raise ValueError(
                f"{split}: none of the {len(part):,} questions has a gold passage, and BEIR judges "
                "by them. Give positive_ids, or the gold passages themselves."
            )


def _check_id(name: str, kind: str) -> None:
    if name != name.strip() or not name or set(name) & set("\t\r\n"):
        raise ValueError(
            f"ids in BEIR have no white space around them and no tab or line break inside, found "
            f"{name!r}. Rename it in the {kind}."
        )
