import math

import pytest
import tiny_rag

from rag_finetune.evaluation.measure import Evaluated, measure
from rag_finetune.index.store import PassageIndex
from rag_finetune.rag.generation import Answer

FACTS = tiny_rag.facts()


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> PassageIndex:
    return tiny_rag.tiny_index(tmp_path_factory.mktemp("evaluate") / "index")


def found(*ids: str) -> list[dict]:
    """Passages of the facts with these ids, best first."""
    return [
        {
            "id": name,
            "document_id": name,
            "title": FACTS[int(name) - 1]["title"],
            "text": FACTS[int(name) - 1]["text"],
            "score": 10.0 - rank,
        }
        for rank, name in enumerate(ids)
    ]


def row(gold: str, *ids: str, prediction: str | None = None, **options) -> Evaluated:
    """An evaluated question about the fact `gold`, for which the passages `ids` were found."""
    fact = FACTS[int(gold) - 1]
    question = {
        "id": f"q{gold}",
        "question": fact["question"],
        "answers": [fact["answer"]],
        "positive_ids": [gold],
    } | options
    answer = None if prediction is None else Answer(prediction, -1.0, found(*ids[:2]))
    return Evaluated(question, found(*ids), [10.0, 9.0], answer)


def test_metrics_worked_by_hand(index):
    # Facts 1 "brown", 2 "red bonn", 6 "old black quito"; 19 is "brown", too.
    rows = [
        row("1", "1", "4", prediction="brown"),
        row("2", "4", "19", "2", prediction="red"),
        row("6", "1", "19", prediction="pink cairo"),
    ]
    rows[0].loss, rows[1].loss, rows[2].loss = 1.0, 2.0, 6.0
    metrics = measure(rows, index, 2)
    p = 1 / (1 + math.exp(-1))  # p(z|x) of scores 10 and 9
    entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    expected = {
        "exact_match": 1 / 3,
        "f1": (1 + 2 / 3 + 0) / 3,
        "rouge1": (1 + 2 / 3 + 0) / 3,
        "recall@1": 1 / 3,
        "recall@2": 1 / 3,
        "recall@5": 2 / 3,
        "mrr@10": (1 + 1 / 3) / 3,
        "ndcg@10": (1 + 1 / math.log2(4)) / 3,
        "answer_recall@1": 1 / 3,
        "answer_recall@2": 1 / 3,
        "answer_recall@5": 2 / 3,
        "answer_in_corpus": 1.0,
        "distinct_passages": 3 / 6,
        "top1_frequency": 2 / 3,
        "doc_entropy": entropy,
        "loss": 3.0,
        "n_examples": 3,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_questions_without_positive_ids_are_left_out_of_recall(index):
    known = [row("1", "1", "2"), row("2", "5", "2")]
    unknown = [row("3", "3", "4", positive_ids=[]), row("4", "1", "2", positive_ids=[])]
    metrics = measure([*known, *unknown], index, None)
    assert (metrics["recall@1"], metrics["recall@5"], metrics["mrr@10"]) == (0.5, 1.0, 0.75)
    assert metrics["answer_recall@1"] == 2 / 4  # of all four: the first and the third
    assert metrics["n_examples"] == 4


def test_recall_is_absent_without_any_positive_ids(index):
    metrics = measure([row("1", "1", positive_ids=[])], index, None)
    assert not [name for name in metrics if name.startswith(("recall", "mrr", "ndcg"))]
    assert "answer_recall@1" in metrics and "exact_match" not in metrics and "loss" not in metrics


def test_a_hit_is_any_piece_of_a_positive_document(index):
    piece = row("1", "1")
    piece.passages[0] |= {"id": "story#3", "document_id": "story"}
    for positive, hit in ((["story"], 1.0), (["story#3"], 1.0), (["story#2"], 0.0)):
        piece.question["positive_ids"] = positive
        assert measure([piece], index, None)["recall@1"] == hit


def test_the_ceiling_is_the_share_of_answers_in_the_corpus(index):
    rows = [
        row("1", "2", answers=["old black quito"]),
        row("2", "2", answers=["nowhere at all", "ada has a dog"]),
        row("3", "2", answers=["a dog . the"]),  # words of the corpus in another order
        row("4", "2", answers=["berlin"]),
    ]
    assert measure(rows, index, None)["answer_in_corpus"] == 2 / 4
    assert "answer_in_corpus" not in measure(rows, index, None, ceiling=False)


def test_nothing_to_evaluate_is_an_error(index):
    with pytest.raises(ValueError, match="no question to evaluate"):
        measure([], index, None)


def test_a_row_without_texts_gives_the_same_figures(index):
    rows = [row("1", "1", "4", prediction="brown"), row("2", "4", "2", prediction="red")]
    small = [r.without_texts() for r in rows]
    assert measure(small, index, 2) == measure(rows, index, 2)
    assert "text" not in small[0].passages[0] and small[0].answer.passages == []
    assert rows[0].passages[0]["text"] and rows[0].answer.passages


def test_questions_without_answers_are_left_out_of_what_needs_them(index):
    rows = [
        row("1", "1", "4", prediction="brown"),
        row("2", "4", "2", prediction="anything", answers=[]),
    ]
    metrics = measure(rows, index, 2)
    assert metrics["exact_match"] == metrics["answer_recall@1"] == metrics["answer_in_corpus"] == 1
    assert metrics["recall@1"] == 0.5
    assert metrics["n_examples"] == 2


def test_figures_that_need_answers_are_absent_without_any(index):
    metrics = measure([row("1", "1", prediction="brown", answers=[])], index, 2)
    assert not {"exact_match", "f1", "bleu", "rouge1", "rouge2", "rougeL"} & metrics.keys()
    assert not [name for name in metrics if name.startswith("answer_")]
    assert metrics["recall@1"] == 1.0
    assert all(math.isfinite(value) for value in metrics.values())


def test_an_unanswerable_question_counts_for_the_answer_and_not_for_passages(index):
    rows = [
        row("1", "4", prediction="brown"),
        row("2", "4", prediction="", answers=[""], positive_ids=[]),
        row("3", "4", prediction="red", answers=[""], positive_ids=[]),
    ]
    metrics = measure(rows, index, 1)
    assert metrics["exact_match"] == metrics["f1"] == pytest.approx(2 / 3)
    assert (metrics["answer_recall@1"], metrics["answer_in_corpus"]) == (0.0, 1.0)
    alone = measure(rows[1:], index, 1)
    assert alone["exact_match"] == 0.5
    assert not [name for name in alone if name.startswith("answer_")]
