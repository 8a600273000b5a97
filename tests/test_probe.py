"""The probe: an index of another encoder is found out, a small or weak one is not blamed."""

import numpy as np
import pytest
import tiny_rag
from datasets import Dataset
from tiny_job import error_of, ok, tiny_job

from rag_finetune.evaluation import probe as module
from rag_finetune.evaluation.probe import (
    Probe,
    hit_matrix,
    judge,
    probe_retrieval,
    require_better_than_chance,
)
from rag_finetune.index.build import build_index

ALL = np.ones(40, dtype=bool)


def test_questions_that_find_their_own_answer_are_no_chance():
    probe = judge(np.eye(40, dtype=bool), ALL, 5)
    # Any other order finds one of forty on average; the variance of that number is 1.
    assert (probe.recall, probe.chance) == (1.0, pytest.approx(1 / 40))
    assert probe.deviations == pytest.approx(39.0, rel=0.02)
    assert probe.is_conclusive and not probe.is_near_chance


def test_questions_that_find_the_answers_of_others_are_chance():
    probe = judge(np.roll(np.eye(40, dtype=bool), 1, axis=1), ALL, 5)
    assert (probe.recall, probe.chance) == (0.0, pytest.approx(1 / 40))
    assert probe.is_near_chance


def test_passages_that_all_questions_find_are_chance_however_many_answers_they_hold():
    hits = np.zeros((40, 40), dtype=bool)
    hits[:10] = True  # a quarter of the answers stand in what everybody finds
    probe = judge(hits, ALL, 5)
    assert (probe.recall, probe.chance, probe.deviations) == (0.25, 0.25, 0.0)
    assert not probe.is_near_chance  # 40 questions are too few to tell from so high a chance
    assert judge(np.tile(hits, (5, 5)), np.ones(200, dtype=bool), 5).is_near_chance


def test_where_chance_finds_nearly_everything_nothing_is_concluded():
    hits = ~np.roll(np.eye(40, dtype=bool), 1, axis=1)
    assert not judge(hits, ALL, 5).is_conclusive


def test_few_questions_conclude_nothing():
    hits = np.roll(np.eye(29, dtype=bool), 1, axis=1)
    assert not judge(hits, np.ones(29, dtype=bool), 5).is_near_chance


def test_questions_whose_answer_is_in_no_passage_do_not_count():
    hits = np.zeros((200, 200), dtype=bool)
    is_known = np.zeros(200, dtype=bool)
    assert not judge(hits, is_known, 5).is_near_chance
    is_known[:60] = True
    probe = judge(hits, is_known, 5)
    assert (probe.n_questions, probe.is_near_chance) == (60, True)


# ---- On an index ----

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Spelling:
    """An encoder that tells texts apart by their numbers; the shuffled one is another training."""

    def __init__(self, shuffled=False):
        self.order = np.random.default_rng(0).permutation(64) if shuffled else np.arange(64)

    def encode(self, texts, titles=None, progress=""):
        numbers = [int(text.split()[1]) for text in texts]
        vectors = np.random.default_rng(1).normal(size=(400, 64)).astype(np.float32)
        return vectors[numbers][:, self.order]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """400 passages of one fact each, whose vectors are drawn."""
    encoder = tiny_rag.context_encoder(width=64)
    rows = [
        {"id": f"p{i}", "document_id": f"d{i}", "title": "", "text": f"fact {i} : {word(i)} ."}
        for i in range(400)
    ]
    opened = build_index(
        Dataset.from_list(rows), encoder, tmp_path_factory.mktemp("probe") / "index"
    )
    vectors = Spelling().encode([row["text"] for row in rows])

    class Drawn(type(opened)):
        """The same index over the drawn vectors."""

        def search(self, question_vectors, k):
            scores = question_vectors @ vectors.T
            order = np.argsort(-scores, axis=1)[:, :k]
            return np.take_along_axis(scores, order, axis=1), order

    opened.__class__ = Drawn
    return opened


def word(number):
    return f"x{LETTERS[number // 26]}{LETTERS[number % 26]}"


def questions(answered=True, count=400):
    return Dataset.from_list(
        [
            {
                "id": str(i),
                "question": f"fact {i} ?",
                "answers": [word(i)] if answered else [],
                "positive_ids": [] if answered else [f"d{i}"],
            }
            for i in range(count)
        ]
    )


@pytest.mark.parametrize("answered", [True, False], ids=["answers", "gold passages"])
def test_the_right_encoder_passes_and_another_is_refused(index, answered):
    right = probe_retrieval(Spelling(), index, questions(answered))
    assert (right.n_questions, right.depth, right.recall) == (200, 10, 1.0)
    require_better_than_chance(Spelling(), index, questions(answered), "my/encoder")
    with pytest.raises(ValueError) as error:
        require_better_than_chance(Spelling(True), index, questions(answered), "my/encoder")
    message = str(error.value)
    assert f"{index.folder}: retrieval is no better than chance. Of 200 questions" in message
    assert "The index holds vectors of tiny; this model needs those of my/encoder." in message
    assert "--probe false" in message


def test_answers_that_the_corpus_does_not_hold_conclude_nothing(index):
    unknown = questions().map(lambda row: {"answers": ["nowhere " + row["id"]]})
    assert probe_retrieval(Spelling(True), index, unknown).n_questions == 0
    nobody = questions(False).map(lambda row: {"positive_ids": ["z" + row["id"]]})
    assert probe_retrieval(Spelling(True), index, nobody).n_questions == 0


def test_questions_with_few_different_answers_conclude_nothing(index):
    # Which of the two holds has nothing to do with which passages have these words.
    rows = questions().map(lambda row: {"answers": [word(int(row["id"]) % 2)]})
    probe = probe_retrieval(Spelling(), index, rows)
    assert probe.n_questions == 200 and probe.recall < 0.1
    assert not probe.is_near_chance


def test_the_unanswerable_count_by_their_gold_passage(index):
    rows = questions(False).map(lambda row: {"answers": [""]})
    assert probe_retrieval(Spelling(), index, rows).recall == 1.0


def test_a_question_is_asked_at_a_hit_of_its_own_alone(index):
    found = np.array([[3, 4, -1], [1, 5, 6], [-1, -1, -1]])
    hits = hit_matrix(questions().select([4, 1, 2]), index, found)
    assert hits.tolist() == [[True, False, False], [False, True, False], [False, False, False]]


def test_a_passage_of_an_approximate_index_that_is_missing_is_no_hit(index, monkeypatch):
    class Empty(type(index)):
        def search(self, vectors, k):
            return np.full((len(vectors), k), -np.inf), np.full((len(vectors), k), -1)

    monkeypatch.setattr(index, "__class__", Empty)
    assert probe_retrieval(Spelling(), index, questions()).is_near_chance


def test_a_small_corpus_raises_no_alarm(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    from rag_finetune.rag.generation import question_encoder_of

    probe = probe_retrieval(question_encoder_of(rag), rag.retriever.index, tiny_rag.questions())
    assert isinstance(probe, Probe) and not probe.is_near_chance


def test_train_and_evaluate_probe_unless_told_not_to(tmp_path, monkeypatch):
    job = tiny_job()
    monkeypatch.setattr(module.Probe, "is_near_chance", True)
    evaluate = ["evaluate", "--eval_file", job / "train.json", "--output_dir", tmp_path / "e"]
    model = ["--model_name_or_path", job / "assembled"]
    encoder = ["--question_encoder", job / "parts/question_encoder", "--index", job / "index"]
    for words in (
        [*evaluate, *model],
        [*evaluate, *model, "--retrieval_only"],
        [*evaluate, *encoder, "--retrieval_only"],
        ["train", *model, "--train_file", job / "train.json", "--output_dir", tmp_path / "t"],
    ):
        assert "no better than chance" in error_of(*words)
    ok(*evaluate, *model, "--retrieval_only", "--probe", "false")
