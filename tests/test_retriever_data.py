"""Positives, negatives and masks of retriever training."""

import json

import pytest
import tiny_rag
import tiny_retriever
from datasets import Dataset

from rag_finetune.data.candidates import Candidate, Candidates
from rag_finetune.training.retriever_data import RetrieverExamples, load_mined

PASSAGES = Dataset.from_list(
    [
        {"id": "a#1", "document_id": "a", "title": "A", "text": "Ada built the harbour."},
        {"id": "a#2", "document_id": "a", "title": "A", "text": "It is deep."},
        {"id": "b", "document_id": "b", "title": "B", "text": "Ben saw Ada."},
    ]
)


def question(**changes):
    row = {"id": "q", "question": "Who?", "answers": ["Ada"], "positive_ids": ["a"]} | changes
    return {"positive_passages": [], **row}


def test_of_a_cut_document_the_pieces_that_hold_the_answer_are_positive():
    data = RetrieverExamples(Dataset.from_list([question()]), PASSAGES)
    assert [data.passages.texts[row] for row in data.positives[0]] == ["Ada built the harbour."]


def test_without_such_a_piece_all_of_them_are_and_one_is_drawn_each_epoch():
    data = RetrieverExamples(Dataset.from_list([question(answers=["Cora"])]), PASSAGES)
    assert len(data.positives[0]) == 2
    drawn = []
    for epoch in range(20):
        data.set_epoch(epoch)
        drawn.append(data[0]["positive"])
    assert set(drawn) == set(data.positives[0])
    data.set_epoch(0)
    assert data[0]["positive"] == drawn[0]


def test_a_gold_passage_that_is_not_among_the_passages_is_taken_as_it_stands():
    row = question(positive_ids=["x"], positive_passages=[{"title": "X", "text": "Ada."}])
    data = RetrieverExamples(Dataset.from_list([row]), PASSAGES)
    assert data.passages.texts == ["Ada."]


def test_questions_without_a_positive_are_left_out_and_counted():
    rows = [question(), question(id="lost", positive_ids=["x"])]
    with pytest.warns(UserWarning, match="1 of 2 questions.*'lost'"):
        data = RetrieverExamples(Dataset.from_list(rows), PASSAGES)
    assert len(data) == 1
    with pytest.raises(ValueError, match="None of the 1 questions has a gold passage"):
        RetrieverExamples(Dataset.from_list(rows[1:]), PASSAGES)


def test_gold_and_answer_bearing_passages_and_repeats_are_no_negatives():
    mined = Candidates(negatives=[Candidate("B", "Ben saw Ada."), Candidate("C", "Cora slept.")])
    data = RetrieverExamples(Dataset.from_list([question()]), PASSAGES, [mined], n_negatives=2)
    gold, answer, other = 0, 1, 2
    assert data.passages.texts[answer] == "Ben saw Ada."
    found = data.excluded([0], [gold, answer, other, other])
    assert found.tolist() == [[True, True, False, True]]


def test_what_mining_leaves_out_is_no_negative_in_the_loss_either():
    mined = Candidates(
        negatives=[
            Candidate("Ada", "She slept."),  # the answer stands in the title
            Candidate("", "ada  built the Harbour."),  # the gold passage again
            Candidate("Adamant", "She slept."),
        ]
    )
    rows = [question(), question(id="r", answers=[], positive_ids=["b"])]
    data = RetrieverExamples(Dataset.from_list(rows), PASSAGES, [mined, Candidates()])
    texts = data.passages.texts
    assert texts[1:4] == ["She slept.", "ada  built the Harbour.", "She slept."]
    assert data.passages.copies == [0, 1, 0, 1, 4]
    found = data.excluded([0, 1], range(5))
    # Passage 3 is another's title over the text of 1, and no gold passage's copy.
    assert found.tolist() == [[True, True, True, False, True], [False, False, False, False, True]]


def test_negatives_are_drawn_anew_each_epoch_and_never_the_positive():
    data = tiny_retriever.examples(20, n_negatives=1)
    data.negatives[0] = list(range(2, 12))
    drawn = []
    for epoch in range(10):
        data.set_epoch(epoch)
        drawn += data[0]["negatives"]
    assert len(drawn) == 10 and len(set(drawn)) > 3
    positive = Candidates(negatives=[Candidate("A", "Ada built the harbour.")])
    with pytest.raises(ValueError, match="no question has any"):
        RetrieverExamples(Dataset.from_list([question()]), PASSAGES, [positive], n_negatives=1)


def test_scores_of_a_teacher_are_by_question_and_passage():
    data = tiny_retriever.examples(3, n_negatives=2)
    [gold], (one, two) = data.positives[0], data.negatives[0]
    found = data.teacher_of([0], [gold, one, two, 99])[0].tolist()
    assert found[:3] == [3.0, -1.0, -2.0] and found[3] != found[3]


def test_a_passage_that_two_processes_bring_is_distilled_once():
    data = tiny_retriever.examples(3, n_negatives=2)
    [gold], (one, two) = data.positives[0], data.negatives[0]
    found = data.teacher_of([0], [gold, one, gold, two, one])[0]
    assert found[[0, 1, 3]].tolist() == [3.0, -1.0, -2.0]
    assert found.isnan().tolist() == [False, False, True, False, True]


def test_mined_candidates_belong_to_dpr_files(tmp_path):
    path = tmp_path / "dpr.json"
    row = {"question": "Who?", "answers": ["Ada"], "positive_ctxs": [{"text": "Ada."}]}
    path.write_text(json.dumps([row]))
    assert len(load_mined(str(path), 1)) == 1
    with pytest.raises(ValueError, match="candidates of 2 questions, found 1"):
        load_mined(str(path), 2)
    path.write_text(json.dumps([{"question": "Who?", "answers": ["Ada"]}]))
    assert load_mined(str(path), 1) is None


def test_the_facts_have_their_passages():
    data = tiny_retriever.examples()
    facts = tiny_rag.facts()
    assert [data.passages.texts[row[0]] for row in data.positives] == [f["text"] for f in facts]
