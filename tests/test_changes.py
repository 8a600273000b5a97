import numpy as np
import pytest
from datasets import Dataset, Features, Value

from rag_finetune.index.changes import Changes, ids_of, plan_changes

FEATURES = Features({"id": Value("string"), "document_id": Value("string")})
OLD = ["a", "b#1", "b#2", "c", "d#1", "d#2", "e"]


def passages(ids: list[str]) -> Dataset:
    rows = {"id": ids, "document_id": [name.partition("#")[0] for name in ids]}
    return Dataset.from_dict(rows, features=FEATURES)


def plan(replace: list[str], add: list[str], remove: list[str]) -> Changes:
    return plan_changes(passages(OLD), passages([*replace, *add]), len(replace), remove)


def ids_after(replace: list[str], add: list[str], remove: list[str]) -> list[str]:
    names = [*OLD, *replace, *add]
    return [names[row] for row in plan(replace, add, remove).order]


@pytest.mark.parametrize(
    ("replace", "add", "remove", "after"),
    [
        ([], ["f", "g"], [], [*OLD, "f", "g"]),
        ([], [], ["c"], ["a", "b#1", "b#2", "d#1", "d#2", "e"]),
        ([], [], ["b"], ["a", "c", "d#1", "d#2", "e"]),  # a document: all of its passages
        ([], [], ["b#1"], ["a", "b#2", "c", "d#1", "d#2", "e"]),  # one passage of it
        (["c"], [], [], OLD),
        (["d#1", "d#2", "d#3"], [], [], ["a", "b#1", "b#2", "c", "d#1", "d#2", "d#3", "e"]),
        (["d"], [], [], ["a", "b#1", "b#2", "c", "d", "e"]),
        (["e", "a"], [], [], OLD),  # each in the place of its own, whatever their order
        (["b"], [], ["b#2"], ["a", "b", "c", "d#1", "d#2", "e"]),
        (["c#1", "c#2"], ["f"], ["a", "b"], ["c#1", "c#2", "d#1", "d#2", "e", "f"]),
    ],
)
def test_rows_stand_in_the_order_of_a_fresh_build(replace, add, remove, after):
    assert ids_after(replace, add, remove) == after


def test_the_pieces_of_a_scattered_document_come_together_at_the_first():
    old = Dataset.from_dict(
        {"id": ["x", "p", "q", "r"], "document_id": ["1", "2", "3", "2"]}, features=FEATURES
    )
    new = Dataset.from_dict({"id": ["m", "n"], "document_id": ["2", "2"]}, features=FEATURES)
    assert plan_changes(old, new, 2, []).order.tolist() == [0, 4, 5, 2]


def test_the_new_rows_of_old_ones_and_of_those_that_come_are_told():
    changes = plan(["c"], ["f"], ["b"])
    assert changes.order.tolist() == [0, 7, 4, 5, 6, 8]
    assert changes.rows().tolist() == [0, -1, -1, -1, 2, 3, 4]
    assert changes.added().tolist() == [1, 5]
    assert (changes.removed, changes.replaced, changes.n_old) == (2, 1, 7)


@pytest.mark.parametrize(
    ("replace", "add", "remove", "message"),
    [
        ([], [], ["a", "x", "b#3"], r'"b#3", "x": to be removed, but no passage or document'),
        (["x"], [], [], r'"x": to be replaced, but no document .*--add'),
        ([], ["a"], [], r'"a": to be added, but the index has this id already.*--replace'),
        ([], ["b"], [], r'"b": to be added'),  # its pieces are b#1 and b#2
        (["c"], ["c"], [], r'"c": named in two of add, replace and remove'),
        (["c"], [], ["c"], r'"c": named in two'),
        ([], ["f"], ["f"], r'"f": named in two'),
        ([], ["f", "f"], [], r'"f": given twice'),
        ([], [], ["a", "b", "c", "d", "e"], "No passage would be left"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_it(replace, add, remove, message):
    with pytest.raises(ValueError, match=message):
        plan(replace, add, remove)


def test_a_new_passage_may_not_take_the_id_of_one_that_stays():
    new = Dataset.from_dict({"id": ["d#2"], "document_id": ["c"]}, features=FEATURES)
    with pytest.raises(ValueError, match=r'"d#2": to be added, but the index has this id'):
        plan_changes(passages(OLD), new, 1, [])
    # The name of a document that is no longer whole is free when its passages go.
    assert ids_after([], ["f"], ["d#1", "d#2"])[-1] == "f"


def test_many_ids_are_counted_and_not_all_named():
    with pytest.raises(ValueError, match=r'"x0", "x1", "x2", "x3", "x4" and 3 more: to be removed'):
        plan([], [], [f"x{n}" for n in range(8)])


def test_ids_of_passages_and_documents_are_told_from_other_words():
    assert ids_of(passages(OLD), ["b", "b#2", "x", "a"]) == {"a", "b", "b#2"}


def test_the_whole_of_an_index_may_be_replaced_at_once():
    assert plan(["a", "b", "c", "d", "e"], [], []).order.tolist() == [7, 8, 9, 10, 11]
    assert isinstance(plan([], [], ["a"]).order, np.ndarray)
