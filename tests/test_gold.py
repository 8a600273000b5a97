"""Gold passages are found in an index by their text."""

from pathlib import Path

import pytest
import tiny_rag
from datasets import Dataset

from rag_finetune.data.passages import load_passages
from rag_finetune.data.qa import load_questions
from rag_finetune.data.qa_fields import context_id
from rag_finetune.data.qa_formats import iter_contexts
from rag_finetune.index import gold
from rag_finetune.index.build import build_index
from rag_finetune.index.gold import Passages, gold_grades, gold_rows, resolve_positives

SQUAD = Path(__file__).parents[2] / "shared" / "data" / "squad"
LONG = " ".join(f"word{i}" for i in range(10))


@pytest.fixture
def index_of(tmp_path):
    """Build an index of passages (id, title, text); `a#1` is a piece of the document `a`."""

    def build(*rows):
        columns = ("id", "document_id", "title", "text")
        passages = [(i, i.partition("#")[0], title, text) for i, title, text in rows]
        dataset = Dataset.from_list([dict(zip(columns, row, strict=True)) for row in passages])
        return build_index(dataset, tiny_rag.context_encoder(), tmp_path / "index")

    return build


def asked(*golds, ids=()):
    """One question with these gold passages, (title, text) each."""
    passages = [{"title": title, "text": text} for title, text in golds]
    row = {"id": "q0", "question": "q?", "answers": ["a"]}
    row |= {"positive_ids": list(ids) or [context_id(**p) for p in passages]}
    return Dataset.from_list([row | {"positive_passages": passages}])


def resolved(questions, index):
    return resolve_positives(questions, index)[0]["positive_ids"]


def words(start, end):
    return " ".join(LONG.split()[start:end])


def test_a_passage_is_found_by_its_text_whatever_its_white_space(index_of):
    index = index_of(("7", "T", "some  text\n here"), ("8", "T", "other text"))
    assert resolved(asked(("T", "some text here ")), index) == ["7"]


def test_every_passage_with_the_text_is_gold_and_every_gold_passage_counts(index_of):
    index = index_of(("7", "", "same"), ("8", "", "other"), ("9", "", "same"))
    assert resolved(asked(("", "same"), ("", "other")), index) == ["7", "9", "8"]


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ("T", "T", True),
        ("T", "", True),
        ("", "T", True),
        ("A_Page", "a page", True),
        ("Caf%C3%A9", "Café", True),
        ("T", "U", False),
    ],
)
def test_titles_count_where_both_sides_have_one(index_of, ours, theirs, found, recwarn):
    index = index_of(("7", theirs, "text"))
    assert (resolved(asked((ours, "text")), index) == ["7"]) is found
    assert bool(recwarn.list) is not found


def test_a_document_that_was_cut_is_found_as_a_whole(index_of):
    pieces = [("a#1", "", words(0, 4)), ("a#2", "", words(4, 8)), ("a#3", "", words(8, 10))]
    index = index_of(("b", "", words(0, 4)), *pieces, ("c#1", "", words(0, 4)), ("c#2", "", "x"))
    assert resolved(asked(("", LONG)), index) == ["a"]


def test_a_document_whose_pieces_overlap_is_found_as_a_whole(index_of):
    index = index_of(*((f"a#{n}", "T", words(2 * n - 2, 2 * n + 2)) for n in range(1, 5)))
    assert resolved(asked(("T", LONG)), index) == ["a"]


def test_a_repetitive_document_whose_pieces_overlap_is_found(index_of):
    text = "a b a b a b a a b".split()
    index = index_of(*((f"d#{n}", "", " ".join(text[n - 1 : n + 2])) for n in range(1, 8)))
    assert resolved(asked(("", " ".join(text))), index) == ["d"]


def test_a_text_without_spaces_is_found_across_its_pieces(index_of):
    index = index_of(("a#1", "", "水是"), ("a#2", "", "液体。"))
    assert resolved(asked(("", "水是液体。")), index) == ["a"]


def test_a_piece_that_equals_the_gold_passage_is_found_by_its_own_id(index_of):
    index = index_of(("a#1", "", words(0, 5)), ("a#2", "", words(5, 10)))
    assert resolved(asked(("", words(5, 10))), index) == ["a#2"]
    assert resolved(asked(("", words(0, 5))), index) == ["a#1"]


@pytest.mark.parametrize(
    "pieces",
    [
        [words(0, 4), words(4, 8)],  # the end is missing
        [words(0, 4), words(5, 10)],  # a word is missing
        [words(4, 10), words(0, 4)],  # another order
        [words(0, 6), words(6, 10) + " more"],
        [words(1, 6), words(6, 10)],
        [words(0, 6), words(6, 10), words(0, 6)],
        [words(0, 6), words(6, 10), words(6, 10)],
    ],
)
def test_a_document_that_differs_is_not_gold(index_of, pieces):
    index = index_of(*((f"a#{n}", "", text) for n, text in enumerate(pieces, start=1)))
    with pytest.warns(
        UserWarning, match="1 of 1 questions have gold passages of which .* holds no"
    ):
        assert resolved(asked(("", LONG)), index) == [context_id("", LONG)]


def test_documents_are_told_apart_across_blocks(index_of, monkeypatch):
    monkeypatch.setattr(gold, "BLOCK", 1)
    index = index_of(("a#1", "", words(0, 5)), ("a#2", "", words(5, 10)), ("b#1", "", words(0, 5)))
    assert resolved(asked(("", LONG)), index) == ["a"]


def test_gold_passages_beyond_the_index_do_not_hide_those_in_it(index_of, recwarn):
    index = index_of(("7", "", "here"))
    assert resolved(asked(("", "nowhere"), ("", "here")), index) == ["7"]
    assert not recwarn.list


def test_an_id_that_the_index_gives_to_another_text_is_no_gold(index_of):
    """DPR's passage ids are row numbers, which any other file has, too."""
    index = index_of(("7", "", "something else"))
    with pytest.warns(UserWarning, match="count as not found"):
        assert "7" not in resolved(asked(("", "text"), ids=["7"]), index)


def test_an_id_that_follows_from_the_content_is_known(index_of):
    name = context_id("T", "some text")
    index = index_of((name, "T", "some text, corrected"))
    assert resolved(asked(("T", "some text")), index) == [name]


def test_questions_that_name_ids_are_left_alone(index_of, recwarn):
    index = index_of(("7", "", "x"), ("a#1", "", "y"), ("a#2", "", "z"))
    for questions in (
        tiny_rag.questions(3).map(lambda row: {"positive_ids": ["7", "a", "a#2"]}),
        asked(ids=["7"]),
    ):
        assert resolve_positives(questions, index) is questions
    assert not recwarn.list


def test_unknown_ids_are_counted(index_of):
    index = index_of(("7", "", "x"))
    with pytest.warns(UserWarning, match="2 positive_ids are neither .* such as '8'") as caught:
        assert resolved(asked(ids=["7", "8", "9"]), index) == ["7", "8", "9"]
    assert [w.filename for w in caught] == [__file__]


def test_the_other_columns_stay(index_of):
    questions = asked(("", "x")).add_column("extra", [5])
    result = resolve_positives(questions, index_of(("7", "", "x")))
    assert result.column_names == questions.column_names
    assert result[0] == questions[0] | {"positive_ids": ["7"]}


@pytest.mark.skipif(not SQUAD.exists(), reason="the SQuAD passages are not there")
@pytest.mark.parametrize("cut", [{"passage_words": 0}, {"passage_words": 100}])
def test_squads_paragraphs_are_found_in_the_passages_made_of_them(tmp_path, cut):
    index = build_index(
        load_passages(SQUAD / "passages.tsv", **cut), tiny_rag.context_encoder(), tmp_path / "index"
    )
    nested = load_questions(SQUAD / "dev-squad-v2-format.json", keep_unanswerable=True)
    found = {row["id"]: row["positive_ids"] for row in resolve_positives(nested, index)}
    known = {row["id"]: row["positive_ids"] for row in load_questions(SQUAD / "dev.json")}
    assert {i: found[i] for i in known} == known


@pytest.mark.skipif(not SQUAD.exists(), reason="the SQuAD passages are not there")
def test_an_index_of_the_contexts_has_the_ids_of_the_questions(tmp_path, recwarn):
    path = SQUAD / "dev-squad-v2-format.json"
    rows = [row | {"document_id": row["id"]} for row in iter_contexts(path)]
    index = build_index(Dataset.from_list(rows), tiny_rag.context_encoder(), tmp_path / "index")
    recwarn.clear()
    questions = load_questions(path, keep_unanswerable=True)
    assert resolve_positives(questions, index)["positive_ids"][:] == questions["positive_ids"][:]
    assert not recwarn.list


def test_passages_that_are_in_no_index_yet_are_searched_alike(tmp_path):
    known = Dataset.from_list(
        [{"id": "7", "document_id": "7", "title": "", "text": "Ada built  it."}]
    )
    row = {"id": "q", "question": "Who?", "answers": ["Ada"], "positive_ids": ["x"]}
    gold = [{"title": "Harbour", "text": "Ada built it."}]
    questions = Dataset.from_list([{**row, "positive_passages": gold}])
    found = resolve_positives(questions, Passages(known, "files.tsv"))
    assert found["positive_ids"][:] == [["7"]]
    missing = Dataset.from_list([{**row, "positive_passages": []}])
    with pytest.warns(UserWarning, match="document_id of a passage of files.tsv, such as 'x'"):
        resolve_positives(missing, Passages(known, "files.tsv"))


def test_grades_are_those_of_the_passages_that_stand_there():
    """A document that was cut gives its grade to its pieces, the higher one where two say so."""
    columns = {"id": ["a#1", "b", "a#2"], "document_id": ["a", "b", "a"]}
    passages = Dataset.from_dict({**columns, "title": [""] * 3, "text": ["x", "y", "z"]})
    rows = [
        {"id": "0", "positive_ids": ["a", "a#2"], "positive_grades": [1.0, 3.0]},
        {"id": "1", "positive_ids": ["b", "gone"], "positive_grades": []},
        {"id": "2", "positive_ids": [], "positive_grades": []},
    ]
    questions = Dataset.from_list([{"question": "?", "answers": ["x"]} | row for row in rows])
    expected = [{"a#1": 1.0, "a#2": 3.0}, {"b": 1.0}, {}]
    with pytest.warns(UserWarning, match="1 positive_ids are neither"):
        assert gold_grades(questions, Passages(passages, "files")) == expected
    with pytest.warns(UserWarning, match="1 positive_ids are neither"):
        plain = gold_grades(questions.remove_columns("positive_grades"), Passages(passages, "f"))
    assert plain == [{"a#1": 1.0, "a#2": 1.0}, {"b": 1.0}, {}]


def test_rows_of_gold_passages_are_those_of_all_pieces(index_of):
    index = index_of(("a#1", "", "one"), ("b", "", "two"), ("a#2", "", "three"))
    assert gold_rows(asked(ids=["b", "a"]), index) == [[1, 0, 2]]
