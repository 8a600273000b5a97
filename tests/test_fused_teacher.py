"""BM25 and the encoders as they begin, weighed by the gold passages, as one teacher."""

import math

import pytest
import tiny_retriever
import torch

from rag_finetune.index.lexical import make_lexical
from rag_finetune.metrics.retrieval import has_answer
from rag_finetune.training import fused_teacher
from rag_finetune.training.fused_teacher import FusedTeacher

TEMPERATURE = 0.5


@pytest.fixture(scope="module")
def data():
    return tiny_retriever.examples(20, n_negatives=2)


@pytest.fixture(scope="module")
def parts(data):
    """Both scores of each question and passage, a pair at a time, in float64."""
    asks, reads = tiny_retriever.encoders()
    texts = [
        f"{title} {text}"
        for title, text in zip(data.passages.titles, data.passages.texts, strict=True)
    ]
    words = make_lexical(texts, "bm25")
    by_words = torch.zeros(len(data), len(texts), dtype=torch.float64)
    by_vectors = torch.zeros_like(by_words)
    passages = [
        reads.encode([text], [title])[0]
        for title, text in zip(data.passages.titles, data.passages.texts, strict=True)
    ]
    for row, question in enumerate(data.questions):
        scores, found = words.search([question], len(texts))
        for score, passage in zip(scores[0], found[0], strict=True):
            if passage >= 0:
                by_words[row, passage] = float(score)
        vector = asks.encode([question])[0]
        for passage, other in enumerate(passages):
            by_vectors[row, passage] = float(vector @ other) / TEMPERATURE
    return by_words, by_vectors


@pytest.fixture(scope="module")
def teacher(data):
    return FusedTeacher(data, *tiny_retriever.encoders(), TEMPERATURE)


def test_a_score_is_the_weighed_sum_of_both(data, parts, teacher):
    a, b = teacher.weights
    assert a > 0 and b > 0
    rows, passages = [3, 0, 7], [5, 1, 3, 19]
    expected = (a * parts[0] + b * parts[1])[rows][:, passages]
    torch.testing.assert_close(
        teacher.scores(rows, passages).double(), expected, rtol=1e-4, atol=1e-4
    )


def surprise(data, parts, weights) -> tuple[float, float]:
    """Mean negative log-likelihood of the gold passages, and how often they come first."""
    nats, first = [], 0
    for row in range(len(data)):
        gold = data.positives[row][0]
        rivals = [
            passage
            for passage, text in enumerate(data.passages.texts)
            if passage not in data.positives[row] and not has_answer(text, data.answers[row])
        ]
        scores = {
            p: weights[0] * float(parts[0][row, p]) + weights[1] * float(parts[1][row, p])
            for p in (gold, *rivals)
        }
        top = max(scores.values())
        total = sum(math.exp(score - top) for score in scores.values())
        nats.append(math.log(total) + top - scores[gold])
        first += scores[gold] == top
    return sum(nats) / len(nats), first / len(nats)


def test_no_other_weights_make_the_gold_passages_likelier(data, parts, teacher):
    best, first = surprise(data, parts, teacher.weights)
    assert first == pytest.approx(teacher.found, abs=1e-6)
    for factor in (0.7, 1.4):  # the penalty on weights is worth little
        for change in ((factor, 1.0), (1.0, factor)):
            weights = [weight * by for weight, by in zip(teacher.weights, change, strict=True)]
            assert surprise(data, parts, weights)[0] >= best - 1e-3
    assert best < min(surprise(data, parts, weights)[0] for weights in ((1, 0), (0, 1), (1, 1)))


def test_hard_negatives_have_their_part_in_the_fit(monkeypatch):
    data = tiny_retriever.examples(20, n_negatives=2)
    monkeypatch.setattr(fused_teacher, "FITTED_QUESTIONS", 5)
    monkeypatch.setattr(fused_teacher, "FITTED_PASSAGES", 9)
    rows, passages = fused_teacher._sample(data)
    golds = {data.positives[row][0] for row in rows}
    negatives = {passage for row in rows for passage in data.negatives[row]}
    assert len(rows) == len(golds) == 5 and golds == set(passages[:5])
    assert 0 < len(passages) - 5 <= 4 and set(passages[5:]) <= negatives - golds
    assert FusedTeacher(data, *tiny_retriever.encoders(), TEMPERATURE).fitted == (5, len(passages))


@pytest.mark.parametrize("temperature", [1e-6, 1.0, 1e6])
def test_weights_stay_finite_where_any_put_the_gold_first(temperature):
    data = tiny_retriever.examples(2)
    teacher = FusedTeacher(data, *tiny_retriever.encoders(), temperature)
    assert all(0 < weight < math.inf for weight in teacher.weights)
    assert teacher.scores([0, 1], [0, 1]).abs().max() < 1e3


def test_vectors_that_are_no_numbers_are_refused():
    asks, reads = tiny_retriever.encoders()
    for parameter in reads.model.parameters():
        parameter.data.fill_(math.nan)
    with pytest.raises(ValueError, match="scores of the encoders are not finite"):
        FusedTeacher(tiny_retriever.examples(4), asks, reads, TEMPERATURE)


def test_examples_that_are_trained_on_again_have_the_teacher_of_that_training(tmp_path):
    data = tiny_retriever.examples(20, n_negatives=2)
    of_bm25 = {"teacher": "bm25", "distillation_weight": 0.5, "examples": data}
    tiny_retriever.make_trainer(tmp_path, **of_bm25)
    assert isinstance(data.teacher, FusedTeacher)
    tiny_retriever.make_trainer(tmp_path, distillation_weight=0.5, examples=data)
    assert data.teacher is None


def test_a_teacher_of_ones_own_is_asked(tmp_path):
    class Own:
        def scores(self, rows, passages):
            return torch.full((len(rows), len(passages)), 7.0)

    data = tiny_retriever.examples(20)
    data.teacher = Own()
    trainer = tiny_retriever.make_trainer(tmp_path, distillation_weight=1.0, examples=data)
    trainer.train()
    assert data.teacher_of([0], [1, 2]).tolist() == [[7.0, 7.0]]


def test_a_passage_that_stands_there_again_has_no_score(teacher):
    data = tiny_retriever.examples(20, n_negatives=2)
    data.teacher = teacher
    found = data.teacher_of([2, 4], [1, 6, 1])
    assert found.isnan().tolist() == [[False, False, True]] * 2
    assert found[:, :2].equal(teacher.scores([2, 4], [1, 6]))


def test_it_is_made_from_the_encoders_as_they_begin_and_stays(tmp_path):
    options = {"teacher": "bm25", "distillation_weight": 1.0, "max_steps": 30, "n_negatives": 2}
    trainer = tiny_retriever.make_trainer(tmp_path, **options)
    everything = range(20), range(len(trainer.examples.passages.texts))
    before = trainer.examples.teacher.scores(*everything)
    again = FusedTeacher(trainer.examples, *tiny_retriever.encoders(), trainer.temperature)
    assert again.weights == trainer.examples.teacher.weights
    assert trainer.describe().splitlines()[-1] == again.describe()
    start = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert trainer.examples.teacher.scores(*everything).equal(before)
    moved = [
        not now.equal(then) for now, then in zip(trainer.model.parameters(), start, strict=True)
    ]
    assert any(moved)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_all_passages_of_a_batch_are_taught(tmp_path):
    """Other than with the scores of a file, which are of a question's own candidates."""
    taught = []
    for options in ({}, {"teacher": "bm25"}):
        trainer = tiny_retriever.make_trainer(
            tmp_path, distillation_weight=1.0, n_negatives=2, **options
        )
        taught.append((~trainer.examples.teacher_of([0, 1], [0, 1, 2, 9])[0].isnan()).sum().item())
    assert taught == [3, 4]


def test_a_language_that_is_not_known_is_named(tmp_path):
    options = {"teacher": "bm25", "distillation_weight": 0.5, "teacher_language": "englisch"}
    with pytest.raises(ValueError, match='Did you mean "english"'):
        tiny_retriever.make_trainer(tmp_path, **options)


def test_distillation_without_a_score_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no candidate of the training file has a teacher's score"):
        tiny_retriever.make_trainer(tmp_path, distillation_weight=0.5)
