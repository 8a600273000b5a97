import json

import numpy as np
import pytest
import tiny_rag
from datasets import Dataset
from trained_rag import trained_rag

from rag_finetune.data.qa import FEATURES
from rag_finetune.evaluation.evaluate import (
    collator_for,
    evaluate_rag,
)
from rag_finetune.index.build import build_index
from rag_finetune.metrics.text import exact_match_score, f1_score
from rag_finetune.rag.checkpoint import Rag, load_rag

FACTS = tiny_rag.facts()
RETRIEVAL = [
    *(f"{name}@{k}" for name in ("recall", "precision") for k in (1, 5, 10, 20)),
    "mrr@10",
    *(f"gold_recall@{k}" for k in (1, 5, 10, 20)),
    "ndcg@10",
    "map@20",
    *(f"answer_recall@{k}" for k in (1, 5, 10, 20)),
    "answer_in_corpus",
    "distinct_passages",
    "top1_frequency",
    "doc_entropy",
]
TEXT = ["exact_match", "f1", "bleu", "rouge1", "rouge2", "rougeL"]


@pytest.fixture(params=["rag_sequence", "rag_token"])
def rag(request) -> Rag:
    return trained_rag("bart", request.param)


def make_questions(*rows: tuple[str, list[str], list[str]]) -> Dataset:
    """A dataset of (question, answers, positive ids)."""
    columns = {"id": [f"row{i}" for i in range(len(rows))]}
    for name, values in zip(
        ("question", "answers", "positive_ids"), zip(*rows, strict=True), strict=True
    ):
        columns[name] = list(values)
    return Dataset.from_dict(columns, features=FEATURES)


# ---- evaluate_rag ----


def test_metrics_are_flat_and_named_as_the_design_says(rag):
    evaluation = evaluate_rag(rag, tiny_rag.questions(), batch_size=20)
    assert list(evaluation.metrics) == [*TEXT, *RETRIEVAL, "n_examples"]
    assert json.loads(json.dumps(evaluation.metrics)) == evaluation.metrics
    fractions = {k: v for k, v in evaluation.metrics.items() if k not in ("bleu", "n_examples")}
    assert all(0 <= value <= 1 + 1e-9 for value in fractions.values())
    assert evaluation.metrics["n_examples"] == 20


def test_figures_on_the_twenty_facts_are_those_of_the_predictions(rag):
    questions = tiny_rag.questions()
    metrics = (evaluation := evaluate_rag(rag, questions, batch_size=6)).metrics
    predictions = [prediction["prediction"] for prediction in evaluation.predictions]
    pairs = list(zip(predictions, questions["answers"][:], strict=True))
    assert metrics["exact_match"] == pytest.approx(np.mean([exact_match_score(*p) for p in pairs]))
    assert metrics["f1"] == pytest.approx(np.mean([f1_score(*pair) for pair in pairs]))
    assert metrics["exact_match"] >= 0.8

    index = rag.retriever.index
    vectors = np.array(index.passages["embeddings"][:])
    tokens = rag.tokenizer.question_encoder(
        questions["question"][:], padding=True, return_tensors="pt"
    )
    hidden = rag.model.question_encoder(**tokens).pooler_output.detach().numpy()
    order = np.argsort(-(hidden @ vectors.T), axis=1)
    ranks = [list(best).index(question) for question, best in enumerate(order)]
    for k in (1, 5, 10, 20):
        assert metrics[f"recall@{k}"] == pytest.approx(np.mean([rank < k for rank in ranks]))
        held = [
            any(f" {fact['answer']} " in FACTS[place]["text"] for place in best[:k])
            for fact, best in zip(FACTS, order, strict=True)
        ]
        assert metrics[f"answer_recall@{k}"] == pytest.approx(np.mean(held))
    assert metrics["mrr@10"] == pytest.approx(np.mean([1 / (r + 1) * (r < 10) for r in ranks]))
    assert metrics["answer_in_corpus"] == 1
    first = [best[0] for best in order]
    assert metrics["top1_frequency"] == max(first.count(place) for place in first) / 20


def test_predictions_are_in_the_order_of_the_questions(rag):
    questions = tiny_rag.questions().shuffle(seed=5)
    evaluation = evaluate_rag(rag, questions, batch_size=3)
    assert [p["id"] for p in evaluation.predictions] == questions["id"][:]
    for prediction, question in zip(evaluation.predictions, questions, strict=True):
        keys = ["id", "question", "answers", "prediction", "score", "passages"]
        assert list(prediction) == keys
        assert all(prediction[key] == question[key] for key in keys[:3])
        assert [list(p) for p in prediction["passages"]] == [
            ["id", "title", "text", "score", "posterior"]
        ] * 5
    right = [p["prediction"] == p["answers"][0] for p in evaluation.predictions]
    assert sum(right) >= 16


@pytest.mark.parametrize("batch_size", [1, 7])
def test_figures_do_not_depend_on_the_batch_size(rag, batch_size):
    questions = tiny_rag.questions(21)
    whole = evaluate_rag(rag, questions, batch_size=21, num_beams=2)
    parts = evaluate_rag(rag, questions, batch_size=batch_size, num_beams=2)
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-5)
    for one, other in zip(parts.predictions, whole.predictions, strict=True):
        assert one["prediction"] == other["prediction"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-4, abs=1e-5)


def test_n_docs_changes_what_is_read_and_adds_its_recall(rag):
    evaluation = evaluate_rag(rag, tiny_rag.questions(), n_docs=3)
    assert {len(p["passages"]) for p in evaluation.predictions} == {3}
    assert {"recall@3", "answer_recall@3", "recall@20"} <= set(evaluation.metrics)


def test_generation_options_reach_the_decoder(rag):
    evaluation = evaluate_rag(rag, tiny_rag.questions(), max_new_tokens=2)
    assert {len(p["prediction"].split()) for p in evaluation.predictions} <= {0, 1}


def test_of_several_answers_the_best_is_measured(rag):
    questions = tiny_rag.questions()
    options = {"num_beams": 3, "batch_size": 20}
    several = evaluate_rag(rag, questions, num_return_sequences=3, **options)
    one = evaluate_rag(rag, questions, **options)
    assert several.metrics == pytest.approx(one.metrics)


def test_several_gold_answers_count_as_one(rag):
    rows = [(fact["question"], ["nothing", fact["answer"]], [fact["id"]]) for fact in FACTS]
    metrics = evaluate_rag(rag, make_questions(*rows), batch_size=20).metrics
    plain = evaluate_rag(rag, tiny_rag.questions(), batch_size=20).metrics
    assert metrics["exact_match"] == plain["exact_match"] >= 0.8
    assert metrics["answer_recall@5"] == plain["answer_recall@5"]


def test_an_index_of_few_passages_is_searched_whole(tmp_path):
    tiny_rag.tiny_rag(tmp_path)
    small = build_index(
        tiny_rag.passages().select(range(3)), tiny_rag.context_encoder(), tmp_path / "small"
    )
    with pytest.warns(UserWarning, match="n_docs 5 is more than the 3 passages"):
        rag = load_rag(tmp_path / "assembled", index=small)
    metrics = evaluate_rag(rag, tiny_rag.questions(6), max_new_tokens=2).metrics
    assert metrics["recall@3"] == metrics["recall@20"] == 0.5
    assert metrics["distinct_passages"] == 1


def test_dropout_is_off_also_right_after_training(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path, dropout=0.5)
    expected = evaluate_rag(rag, tiny_rag.questions(5), max_new_tokens=3)
    rag.model.train()
    assert evaluate_rag(rag, tiny_rag.questions(5), max_new_tokens=3) == expected
    assert rag.model.training


def test_without_an_index_nothing_is_evaluated(tmp_path):
    tiny_rag.tiny_rag(tmp_path)
    rag = load_rag(tmp_path / "assembled", with_index=False)
    with pytest.raises(ValueError, match="load the model with its index"):
        evaluate_rag(rag, tiny_rag.questions())


def test_no_questions_and_no_batch_are_errors(rag):
    with pytest.raises(ValueError, match="no question to evaluate"):
        evaluate_rag(rag, tiny_rag.questions().select([]))
    with pytest.raises(ValueError, match="batch_size must be at least 1, found 0"):
        evaluate_rag(rag, tiny_rag.questions(), batch_size=0)


# ---- Collating ----


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_collator_fits_the_model(tmp_path, kind):
    rag = tiny_rag.tiny_rag(tmp_path, kind)
    collator = collator_for(rag, max_question_length=1000, max_target_length=9)
    config = rag.model.config.generator
    assert collator.decoder_start_token_id == config.decoder_start_token_id
    assert collator.pad_token_id == config.pad_token_id
    assert (collator.max_question_length, collator.max_target_length) == (64, 9)
    batch = collator([{"row": 0, "question": "who is ada ?", "target": "red"}])
    assert batch["labels"][0, 0] == config.decoder_start_token_id
