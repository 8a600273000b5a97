import json
from pathlib import Path

import pytest

from rag_finetune.data.qa import TrainingQuestions, load_questions, split_by_document

SQUAD = Path(__file__).parents[2] / "shared" / "data" / "squad"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def questions_of(tmp_path):
    """Load questions from rows that lack nothing but what a test is about."""

    def load(rows):
        full = [{"question": f"q{i}?", "answers": [f"a{i}"]} | row for i, row in enumerate(rows)]
        return load_questions(write(tmp_path / "qa.json", json.dumps(full)))

    return load


def error_of(tmp_path, row):
    """Read one good row and then the given one; return the message, from the line number on."""
    path = write(tmp_path / "qa.jsonl", '{"question": "q?", "answer": "a"}\n' + row + "\n")
    with pytest.raises(ValueError) as caught:
        load_questions(path)
    assert str(caught.value).startswith(f"{path}:")
    return str(caught.value).removeprefix(f"{path}:")


def test_json_list_is_read_into_its_columns(tmp_path):
    rows = [
        {"id": 7, "question": "Où?", "answers": ["Paris", "à Paris"], "positive_ids": [3, "b#2"]},
        {"question": "Who?", "answer": "Ada", "source": "passed over"},
    ]
    dataset = load_questions(write(tmp_path / "qa.json", json.dumps(rows, indent=1)))
    assert list(dataset) == [
        {
            "id": "7",
            "question": "Où?",
            "answers": ["Paris", "à Paris"],
            "positive_ids": ["3", "b#2"],
            "positive_passages": [],
        },
        {
            "id": "1",
            "question": "Who?",
            "answers": ["Ada"],
            "positive_ids": [],
            "positive_passages": [],
        },
    ]


@pytest.mark.parametrize("name", ["qa.json", "qa.jsonl"])
@pytest.mark.parametrize(
    "text",
    [
        '[{"question": "q?", "answer": "a"}, {"question": "r?", "answer": "b"}]',
        '{"question": "q?", "answer": "a"}\n\n{"question": "r?", "answer": "b"}\n',
    ],
)
def test_content_and_not_extension_tells_a_list_from_lines(tmp_path, name, text):
    dataset = load_questions(write(tmp_path / name, text))
    assert dataset["question"][:] == ["q?", "r?"]


@pytest.mark.parametrize(
    "text",
    ['[{"question": "ä?",\r\n "answer": "ö"}]\r\n', '{"question": "ä?", "answer": "ö"}\r\n'],
)
def test_byte_order_mark_and_windows_newlines_are_read(tmp_path, text):
    path = tmp_path / "qa.json"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_questions(path)["answers"][:] == [["ö"]]


def test_string_under_answers_is_told_how_to_become_a_list(tmp_path):
    assert error_of(tmp_path, '{"question": "q?", "answers": "Paris"}') == (
        '2: "answers" must be a non-empty list of strings, found the string "Paris". '
        'Write ["Paris"].'
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"answers": ["a"]}', '2: expected the key "question", found "answers". Add it.'),
        (
            '{"question": "q?", "answrs": ["a"]}',
            '2: expected the key "answers", found "question", "answrs". '
            'Rename "answrs" to "answers" if that is meant.',
        ),
        ("{}", '2: expected the key "question", found an empty object. Add it.'),
        ('{"question": 3, "answer": "a"}', '2: "question" must be a non-empty string, found the '),
        ('{"question": " ", "answer": "a"}', '2: "question" must be a non-empty string, found an '),
        (
            '{"question": "q?", "answer": 5}',
            '2: "answer" must be a non-empty string, found the num',
        ),
        (
            '{"question": null, "answer": "a"}',
            '2: "question" must be a non-empty string, found null',
        ),
        (
            '{"question": "q?", "answer": ["a", 5]}',
            '2: "answer" must be a non-empty list of strings, found the number 5 in it.',
        ),
        ('{"question": "q?", "answer": ""}', '2: "answer" must be a non-empty string, found an em'),
        (
            '{"question": "q?", "answers": []}',
            '2: "answers" must be a non-empty list of strings, f',
        ),
        (
            '{"question": "q?", "answers": ["a", 5]}',
            '2: "answers" must be a non-empty list of strings, found the number 5 in it.',
        ),
        (
            '{"question": "q?", "answers": ["a", " "]}',
            '2: "answers" must be a non-empty list of strings, found an empty string in it.',
        ),
        (
            '{"question": "q?", "answers": ["a"], "answer": "a"}',
            '2: expected "answers" or "answer", found both. Delete one of them.',
        ),
        (
            '{"question": "q?", "answer": "a", "positive_ids": "7"}',
            '2: "positive_ids" must be a list of passage ids, found the string "7". Write ["7"].',
        ),
        (
            '{"question": "q?", "answer": "a", "positive_ids": [1.5]}',
            '2: an id in "positive_ids" must be a non-empty string or a whole number, found the ',
        ),
        (
            '{"question": "q?", "answer": "a", "id": true}',
            '2: an id in "id" must be a non-empty string or a whole number, found true.',
        ),
        ('["q?", "a"]', '2: expected an object with "question" and "answers", found a list of 2.'),
        (
            '{"question": "q?", "answer": "a"',
            "2: expected one JSON object a line, found that the line ends too soon, at column 33 (",
        ),
        (
            '{"question": "q?", "answer": "a',
            "2: expected one JSON object a line, found that the line ends too soon, at column 32 (",
        ),
        (
            '{"question": ?, "answer": "a"}',
            "2: expected one JSON object a line, found a syntax error at column 14 ",
        ),
    ],
)
def test_bad_row_names_line_key_and_what_was_found(tmp_path, row, message):
    assert error_of(tmp_path, row).startswith(message)


def test_duplicate_id_names_both_lines(tmp_path):
    rows = '{"id": "x", "question": "q?", "answer": "a"}\n'
    path = write(tmp_path / "qa.jsonl", rows * 2)
    with pytest.raises(ValueError, match=r'jsonl:2: "id" must .*found "x" again, .*jsonl:1\. Ren'):
        load_questions(path)


def test_duplicate_id_on_one_line_of_a_list_is_an_error(tmp_path):
    path = write(tmp_path / "qa.json", json.dumps([{"id": 1, "question": "q", "answer": "a"}] * 2))
    with pytest.raises(ValueError, match=r'json:1 \(row 2\): "id" must differ from row'):
        load_questions(path)


def test_row_number_that_meets_a_given_id_is_an_error(tmp_path):
    rows = '{"id": 1, "question": "q?", "answer": "a"}\n{"question": "r?", "answer": "b"}\n'
    with pytest.raises(ValueError, match='found "1" again'):
        load_questions(write(tmp_path / "qa.jsonl", rows))


def test_bad_row_of_a_spread_out_list_names_the_line_of_its_object(tmp_path):
    text = '[\n {\n  "question": "q?",\n  "answer": "a"\n },\n\n {"question": "r?"}\n]\n'
    with pytest.raises(ValueError, match=r'qa\.json:7: expected the key "answers"'):
        load_questions(write(tmp_path / "qa.json", text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[\n{"question": "q?"\n"answer": "a"}\n]', 3),
        ('[\n{"question": "q?", "answer": "a"},\n', 3),
        ('[\n{"question": "q?", "answer": "a"}\n{"question": "r?", "answer": "b"}\n]', 3),
        ('[\n{"question": "q?", "answer": "a"}\n]\n{}', 4),
    ],
)
def test_syntax_error_in_a_list_names_its_line(tmp_path, text, line):
    message = rf"qa\.json:{line}: expected a JSON list of objects, found a syntax error at column"
    with pytest.raises(ValueError, match=message):
        load_questions(write(tmp_path / "qa.json", text))


def test_half_a_surrogate_pair_in_a_list_names_its_line(tmp_path):
    text = '[{"question": "q?", "answer": "a"},\n{"question": "\\ud83d?", "answer": "a"}]'
    with pytest.raises(ValueError, match=r"qa\.json:2: expected whole characters"):
        load_questions(write(tmp_path / "qa.json", text))


@pytest.mark.parametrize("text", ['{\n"version": 2}', '{\n"question": "q?"\n}'])
def test_one_object_in_place_of_a_list_says_what_is_read(tmp_path, text):
    message = r"qa\.json:1: expected a list of objects or one object a line, found one object with"
    with pytest.raises(ValueError, match=message):
        load_questions(write(tmp_path / "qa.json", text))


@pytest.mark.parametrize("text", ["", "\n\n", "[]", " [ ] ", '{"version": 2, "data": []}'])
def test_file_without_questions_is_an_error(tmp_path, text):
    with pytest.raises(ValueError, match=r"qa\.json: expected at least one question, found none"):
        load_questions(write(tmp_path / "qa.json", text))


def test_questions_on_linked_documents_stay_on_one_side(questions_of):
    linked = [{"positive_ids": ids} for ids in (["a#1"], ["c"], ["a#2", "b"], ["d"], ["b"])]
    questions = questions_of(linked)
    for seed in range(10):
        train, held_out = split_by_document(questions, 0.4, seed=seed)
        sides = {tuple(train["id"]), tuple(held_out["id"])}
        assert sides == {("0", "2", "4"), ("1", "3")}


def test_questions_without_positive_ids_are_split_singly_and_in_order(questions_of):
    train, held_out = split_by_document(questions_of([{}] * 10), 0.3)
    assert (len(train), len(held_out)) == (7, 3)
    assert sorted([*train["id"], *held_out["id"]], key=int) == [str(i) for i in range(10)]
    assert train["id"][:] == sorted(train["id"])
    assert held_out["id"][:] == sorted(held_out["id"])


def test_split_depends_on_the_seed_alone(questions_of):
    questions = questions_of([{}] * 30)
    sides = [split_by_document(questions, 0.5, seed)[1]["id"][:] for seed in (1, 1, 2)]
    assert sides[0] == sides[1] != sides[2]


def test_smallest_group_is_held_out_when_none_fits(questions_of):
    questions = questions_of([{"positive_ids": [i]} for i in "aaaabbb"])
    train, held_out = split_by_document(questions, 0.1)
    assert (len(train), len(held_out)) == (4, 3)


def test_both_sides_get_a_question_at_any_fraction(questions_of):
    questions = questions_of([{}, {}])
    assert [len(side) for side in split_by_document(questions, 0.01)] == [1, 1]
    assert [len(side) for side in split_by_document(questions, 0.99)] == [1, 1]


def test_questions_that_all_hang_together_cannot_be_split(questions_of):
    questions = questions_of([{"positive_ids": ["a", "b"]}, {"positive_ids": ["b"]}])
    with pytest.raises(ValueError, match=r"2 questions that hang together\. Give a validation"):
        split_by_document(questions, 0.5)


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.1])
def test_fraction_out_of_range_is_an_error(questions_of, fraction):
    with pytest.raises(ValueError, match=rf"fraction must lie between 0 and 1, found {fraction}\."):
        split_by_document(questions_of([{}, {}]), fraction)


def test_first_target_is_the_first_answer(questions_of):
    items = TrainingQuestions(questions_of([{"answers": ["x", "y"]}, {"answers": ["z"]}]))
    assert list(items) == [
        {"row": 0, "question": "q0?", "target": "x"},
        {"row": 1, "question": "q1?", "target": "z"},
    ]
    assert items[-1] == items[1]


def test_all_targets_make_one_item_of_each_answer(questions_of):
    questions = questions_of([{"answers": ["x", "y"]}, {"answers": ["z"]}])
    items = TrainingQuestions(questions, target="all")
    assert len(items) == 3
    assert [(item["row"], item["question"], item["target"]) for item in items] == [
        (0, "q0?", "x"),
        (1, "q0?", "y"),
        (2, "q1?", "z"),
    ]
    assert items.questions is questions


def test_random_targets_depend_on_seed_epoch_and_row_alone(questions_of):
    questions = questions_of([{"answers": ["x", "y", "z"]}] * 30)

    def targets(seed, epoch):
        items = TrainingQuestions(questions, target="random", seed=seed)
        items.set_epoch(epoch)
        return [item["target"] for item in items]

    assert targets(1, 0) == targets(1, 0)
    assert targets(1, 0) != targets(1, 1)
    assert targets(1, 0) != targets(2, 0)
    assert set(targets(1, 0)) == {"x", "y", "z"}


def test_unknown_target_names_the_choices(questions_of):
    with pytest.raises(ValueError, match='one of "first", "random", "all", found "last"'):
        TrainingQuestions(questions_of([{}]), target="last")


@pytest.mark.skipif(not SQUAD.exists(), reason="the SQuAD questions are not there")
def test_squad_questions_are_read_and_split_by_paragraph():
    train = load_questions(SQUAD / "train.json")
    assert (len(train), len(load_questions(SQUAD / "dev.json"))) == (1494, 334)
    kept, held_out = split_by_document(train, 0.1)
    assert (len(kept), len(held_out)) == (1345, 149)
    sides = [{i for ids in side["positive_ids"] for i in ids} for side in (kept, held_out)]
    assert sides[0].isdisjoint(sides[1])


@pytest.mark.skipif(not SQUAD.exists(), reason="the SQuAD questions are not there")
def test_squad_in_its_own_format_holds_the_same_questions():
    flat = {row["id"]: row for row in load_questions(SQUAD / "dev.json")}
    with pytest.warns(UserWarning, match="366 unanswerable questions were skipped") as caught:
        nested = load_questions(SQUAD / "dev-squad-v2-format.json")
    assert len(caught) == 1
    assert len(nested) == 334
    for row in nested:
        assert row["question"].split() == flat[row["id"]]["question"].split()
        assert set(row["answers"]) == set(flat[row["id"]]["answers"])


def squad_like(*answers):
    """Rows as the Hub's copies of SQuAD have them, with these answers."""
    return [
        {"question": f"q{i}?", "context": "A town.", "answers": {"text": texts}}
        for i, texts in enumerate(answers)
    ]


def test_unanswerable_questions_are_skipped_with_one_warning(tmp_path):
    path = write(tmp_path / "qa.json", json.dumps(squad_like(["a"], [], [], ["b"])))
    with pytest.warns(UserWarning, match=r"qa\.json: 2 unanswerable questions were sk") as caught:
        dataset = load_questions(path)
    assert [str(w.filename) == __file__ for w in caught] == [True]
    assert (dataset["id"][:], dataset["answers"][:]) == (["0", "3"], [["a"], ["b"]])


def test_unanswerable_questions_are_kept_with_the_empty_string(tmp_path, recwarn):
    path = write(tmp_path / "qa.json", json.dumps(squad_like(["a"], [])))
    dataset = load_questions(path, keep_unanswerable=True)
    assert dataset["answers"][:] == [["a"], [""]]
    assert not recwarn.list


def test_a_file_of_unanswerable_questions_alone_is_an_error(tmp_path):
    path = write(tmp_path / "qa.json", json.dumps(squad_like([])))
    message = "at least one question, found 1 unanswerable ones"
    with (
        pytest.warns(UserWarning, match="1 unanswerable questions were skipped"),
        pytest.raises(ValueError, match=message),
    ):
        load_questions(path)


def test_answers_are_optional_where_they_are_not_needed(tmp_path):
    rows = [{"question": "q?", "context": "A town."}, {"question": "r?", "answer": "b"}]
    path = write(tmp_path / "qa.json", json.dumps(rows))
    assert load_questions(path, need_answers=False)["answers"][:] == [[], ["b"]]
    message = r'json:1: expected the key "answers", found "question", "context"\. .*`train` needs'
    with pytest.raises(ValueError, match=message):
        load_questions(path)


def test_answers_that_cannot_be_read_are_warned_about_where_none_are_needed(tmp_path):
    rows = [{"question": "q?", "answers": "Paris"}, {"question": "r?", "answer": 5}]
    rows += [{"question": "s?", "answer": None}, {"question": "t?", "answers": []}]
    path = write(tmp_path / "qa.json", json.dumps(rows))
    with pytest.warns(UserWarning, match=r'2 questions have answers .*json:1: "answers" must be'):
        assert load_questions(path, need_answers=False)["answers"][:] == [[], [], [], []]


def test_first_so_many_questions_are_read_and_no_more(tmp_path):
    rows = [f'{{"question": "q{i}?", "answer": "a"}}\n' for i in range(5)]
    path = write(tmp_path / "qa.jsonl", "".join(rows) + "broken\n")
    assert load_questions(path, max_samples=5)["question"][:] == [f"q{i}?" for i in range(5)]
    with pytest.raises(ValueError, match="max_samples must be at least 1, found 0"):
        load_questions(path, max_samples=0)


def test_skipped_questions_do_not_count_as_samples(tmp_path):
    path = write(tmp_path / "qa.json", json.dumps(squad_like(["a"], [], ["b"], ["c"])))
    with pytest.warns(UserWarning, match="1 unanswerable"):
        assert load_questions(path, max_samples=2)["id"][:] == ["0", "2"]


def test_repeated_questions_are_warned_about_with_their_lines(tmp_path):
    rows = [("q?", "a"), ("q?", "b"), ("q?", "a"), ("r?", "a"), ("q?", "b")]
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer in rows]
    path = write(tmp_path / "qa.jsonl", "\n".join(lines))
    message = r"2 questions are there twice.*jsonl:3 \(as .*jsonl:1\), .*jsonl:5 \(as .*jsonl:2\)\."
    with pytest.warns(UserWarning, match=message):
        assert len(load_questions(path)) == 5


def test_a_context_is_gold_where_no_id_is_given(tmp_path):
    rows = [
        {"question": "q?", "answer": "a", "context": "A town.", "title": "Towns"},
        {"question": "r?", "answer": "a", "context": "A town.", "positive_ids": ["7"]},
    ]
    dataset = load_questions(write(tmp_path / "qa.json", json.dumps(rows)))
    assert dataset["positive_passages"][:] == [[{"title": "Towns", "text": "A town."}], []]
    assert [len(dataset[0]["positive_ids"][0]), dataset[1]["positive_ids"]] == [16, ["7"]]


def test_a_question_without_an_answer_cannot_be_trained_on(questions_of):
    questions = questions_of([{}, {}]).map(
        lambda row: {"answers": row["answers"][: 1 - int(row["id"])]}
    )
    with pytest.raises(ValueError, match='none to 1 of 2, the first with the id "1"'):
        TrainingQuestions(questions)
