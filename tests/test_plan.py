from dataclasses import replace

import pytest

from rag_finetune.index.plan import Plan, load_plan

PLAN = Plan("digest", "fingerprint", "float32", [2048, 16384], 7, 3, 2, [1, 2])


def test_a_plan_is_read_back_as_it_was_saved(tmp_path):
    PLAN.save(tmp_path)
    assert load_plan(tmp_path) == PLAN


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "7", "{}", '{"passages": "x", "new": 1}'])
def test_no_plan_or_one_of_another_layout_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    assert load_plan(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [{"passages": "x"}, {"encoder": "x"}, {"dtype": "bfloat16"}, {"batching": [64, 16384]}],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_a_vector_changes_the_key_and_is_named(change):
    other = replace(PLAN, **change)
    assert other.key != PLAN.key
    assert PLAN.difference(other) == next(iter(change))


def test_what_is_left_to_do_does_not_change_the_key():
    assert replace(PLAN, todo=[]).key == PLAN.key
    assert PLAN.difference(replace(PLAN, todo=[])) == ""
