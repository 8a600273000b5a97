import numpy as np
import pytest

from rag_finetune.data.trec import load_run, write_run


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_run_is_read_best_first_whatever_its_lines_and_ranks_say(tmp_path):
    lines = "q2 Q0 a 1 0.5 t\n\nq1 Q0 b 1 -1 t\nq2\tQ0\tc\t2\t7e-1\tt\nq1 Q0 ä 9 2 other\n"
    assert load_run(write(tmp_path / "run", lines)) == {
        "q2": [("c", 0.7), ("a", 0.5)],
        "q1": [("ä", 2.0), ("b", -1.0)],
    }


def test_equal_scores_are_taken_as_trec_eval_does(tmp_path):
    # equal in single precision is equal; the last id comes first, character by character
    lines = "q Q0 d10 1 1 t\nq Q0 d9 2 1.00000001 t\nq Q0 e 3 0.5 t\nq Q0 d2 4 1 t\n"
    found = load_run(write(tmp_path / "run", lines))["q"]
    assert [name for name, _ in found] == ["d9", "d2", "d10", "e"]


def test_what_was_written_is_read_in_the_same_order(tmp_path):
    scores = np.array([3.3, 3.3, 3.3, 1e-9, 0.0, 0.0, -2.5], dtype=np.float32).tolist()
    found = {"q1": list(zip("abcdefg", scores, strict=True)), "q2": [], "q3": [("a", 1.0)]}
    write_run(tmp_path / "deep" / "run.trec", found, tag="mine")
    lines = (tmp_path / "deep" / "run.trec").read_text().splitlines()
    assert lines[0] == "q1 Q0 a 1 3.29999995 mine"
    assert [line.split()[3] for line in lines] == [*list("1234567"), "1"]
    run = load_run(tmp_path / "deep" / "run.trec")
    assert list(run) == ["q1", "q3"]
    assert [name for name, _ in run["q1"]] == list("abcdefg")
    assert [score for _, score in run["q1"]] == pytest.approx(scores, abs=1e-6)
    assert len({np.float32(score) for _, score in run["q1"]}) == 7


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 a 1 0.5", "2: expected the six fields qid Q0 docid rank score tag, found 5."),
        ("q Q0 a b 1 0.5 t", "2: expected the six fields qid Q0 docid rank score tag, found 7."),
        ("q Q0 b 1 high t", '2: the score must be a number, found "high".'),
        ("q Q0 b 1 nan t", '2: the score must be a number, found "nan".'),
        ("q Q0 a 2 0.1 t", '2: the passage "a" must stand once under the question "q"'),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "run", f"q Q0 a 1 0.5 t\n{line}\n")
    with pytest.raises(ValueError) as caught:
        load_run(path)
    assert str(caught.value).startswith(f"{path}:{message}")


def test_a_run_without_lines_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected lines of qid Q0 docid rank score tag, found no"):
        load_run(write(tmp_path / "run", "\n"))


@pytest.mark.parametrize("found", [{"a b": []}, {"q": [("", 1.0)]}, {"q": [("a\tb", 1.0)]}])
def test_ids_that_the_format_cannot_hold_are_refused_and_nothing_is_left(tmp_path, found):
    with pytest.raises(ValueError, match="ids in a TREC run must be without white space"):
        write_run(tmp_path / "run", found)
    assert not list(tmp_path.iterdir())
