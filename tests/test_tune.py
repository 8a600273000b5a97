"""Every way of an index tried on questions, and the best one kept."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_rag
import tiny_words
from test_evaluate import FACTS, make_questions

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.evaluation.retrieval_only import evaluate_retrieval
from rag_finetune.evaluation.tune import (
    METRICS,
    WEIGHTS,
    Trial,
    _efforts,
    best_trial,
    tune_retrieval,
    write_choice,
)
from rag_finetune.index.build import build_index
from rag_finetune.index.lexical_parts import add_lexical
from rag_finetune.index.store import open_index
from rag_finetune.index.update import update_index
from rag_finetune.retrieval.way import Retrieval, choose_retrieval


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Vectors and words; leave it as it is."""
    return tiny_words.full_index(tmp_path_factory.mktemp("tune") / "index")


@pytest.fixture(scope="module")
def encoder():
    return tiny_rag.context_encoder(seed=2)


@pytest.fixture(scope="module")
def trials(encoder, index) -> list[Trial]:
    return list(tune_retrieval(encoder, index, tiny_rag.questions()))


def test_every_way_is_tried_simple_ones_first(trials):
    ways = [trial.retrieval for trial in trials]
    assert [way.way for way in ways[:3]] == ["bm25", "tfidf", "dense"]
    hybrids = [(way.lexical, way.fusion, way.weight) for way in ways[3:]]
    assert hybrids == [
        (kind, fusion, weight)
        for kind in ("bm25", "tfidf")
        for fusion in ("rrf", "weighted")
        for weight in WEIGHTS
    ]
    assert {tuple(trial.metrics) for trial in trials} == {METRICS}


def test_figures_are_those_of_an_evaluation(trials, encoder, index):
    for trial in (trials[0], trials[2], trials[7], trials[17]):
        whole = evaluate_retrieval(
            encoder, index, tiny_rag.questions(), retrieval=trial.retrieval
        ).metrics
        assert trial.metrics == pytest.approx({name: whole[name] for name in METRICS})


def test_the_best_is_the_first_of_the_highest(trials):
    assert best_trial(trials, "recall@1") is trials[0]  # BM25 finds every house
    low = [Trial(Retrieval(), {}, dict.fromkeys(METRICS, 0.1), 0.0)]
    assert best_trial([*low, *trials], "mrr@10") is trials[0]


def test_the_choice_is_what_the_index_does_from_then_on(trials, index, tmp_path):
    copy = tiny_words.copy_of(index, tmp_path / "index")
    chosen = write_choice(copy, trials[10])
    assert choose_retrieval(open_index(copy.folder)) == chosen == trials[10].retrieval
    again = open_index(copy.folder).manifest
    assert again.n_passages == 20 and again.lexical == index.manifest.lexical


def test_an_index_that_was_updated_meanwhile_takes_the_choice_and_keeps_the_update(
    trials, index, tmp_path
):
    copy = tiny_words.copy_of(index, tmp_path / "index")
    update_index(copy.folder, remove=["3"])
    chosen = write_choice(copy, trials[10])
    again = open_index(copy.folder)
    assert choose_retrieval(again) == chosen == trials[10].retrieval
    assert len(again) == again.manifest.n_passages == 19


def test_an_index_whose_words_are_others_by_now_is_refused(trials, index, tmp_path):
    copy = tiny_words.copy_of(index, tmp_path / "index")
    add_lexical(open_index(copy.folder), {"bm25": {"k1": 0.9}})
    before = (copy.folder / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=r"changed while it was tried: lexical was .*0\.9"):
        write_choice(copy, trials[10])
    assert (copy.folder / "manifest.json").read_bytes() == before


def test_a_prior_of_the_index_stays(trials, index, tmp_path):
    copy = tiny_words.copy_of(index, tmp_path / "index")
    write_choice(copy, Trial(Retrieval("bm25", prior=0.5), {}, {}, 0.0))
    copy = open_index(copy.folder)
    retrieval = copy.manifest.retrieval | {"prior": 0.5}
    replace(copy.manifest, retrieval=retrieval).save(copy.folder)
    assert write_choice(copy, trials[0]) == Retrieval("bm25", prior=0.5)


def test_the_effort_of_an_approximate_index_is_tried_and_kept(encoder, tmp_path):
    built = build_index(
        tiny_rag.passages(), tiny_rag.context_encoder(), tmp_path / "i", index_type="hnsw"
    )
    now = built.manifest.search_parameters["efSearch"]
    trials = list(tune_retrieval(encoder, built, tiny_rag.questions()))
    tried = [trial.search_parameters["efSearch"] for trial in trials]
    assert now == 16 and tried == [20, 32, 64]  # 20 of 20 passages take 20 anyway
    assert all(trial.milliseconds > 0 for trial in trials)
    write_choice(built, trials[0])
    opened = open_index(built.folder)
    assert opened.manifest.search_parameters == {"efSearch": 20}
    vectors = np.ones((1, 16), np.float32)
    found = opened.search(vectors, 3)[1]
    assert np.array_equal(found, built.searched_with({"efSearch": 20}).search(vectors, 3)[1])


def test_efforts_are_whole_numbers_of_at_least_one():
    assert _efforts({"nprobe": 2, "k_factor_rf": 8}) == [
        {"nprobe": value, "k_factor_rf": 8} for value in (1, 2, 4, 8)
    ]
    assert _efforts({}) == [{}]


def test_no_effort_is_tried_that_a_deep_search_raises_anyway():
    assert _efforts({"efSearch": 32}, 40) == [{"efSearch": value} for value in (40, 64, 128)]
    assert _efforts({"nprobe": 4}, 40) == [{"nprobe": value} for value in (1, 2, 4, 8, 16)]


def test_words_alone_are_tried_without_an_encoder(index, tmp_path):
    found = list(tune_retrieval(None, index, tiny_rag.questions(), kinds=["tfidf"]))
    assert [trial.retrieval.way for trial in found] == ["tfidf"]
    bare = tiny_words.word_index(tmp_path / "bare")
    found = list(tune_retrieval(tiny_rag.context_encoder(), bare, tiny_rag.questions()))
    assert [trial.retrieval.way for trial in found] == ["bm25", "tfidf"]


def test_answers_stand_in_where_no_gold_is_known(index):
    asked = make_questions(*((f["question"], [f["answer"]], []) for f in FACTS))
    trial = next(tune_retrieval(None, index, asked))
    whole = evaluate_retrieval(None, index, asked, retrieval=trial.retrieval).metrics
    for k in (1, 5, 10, 20):
        assert trial.metrics[f"recall@{k}"] == pytest.approx(whole[f"answer_recall@{k}"])


def test_what_tells_nothing_is_refused(index, encoder: TextEncoder, tmp_path):
    with pytest.raises(ValueError, match="None of the questions has gold passages or answers"):
        list(tune_retrieval(encoder, index, make_questions(("who ?", [], []))))
    plain = tiny_rag.tiny_index(tmp_path / "plain")
    with pytest.raises(ValueError, match="there is nothing to try: name a question encoder"):
        list(tune_retrieval(None, plain, tiny_rag.questions()))


def test_words_that_were_added_later_are_tried(encoder, tmp_path):
    built = tiny_rag.tiny_index(tmp_path / "index")
    assert len(list(tune_retrieval(encoder, built, tiny_rag.questions()))) == 1
    add_lexical(built, {"bm25": {}})
    found = list(tune_retrieval(encoder, open_index(built.folder), tiny_rag.questions()))
    assert len(found) == 2 + 2 * len(WEIGHTS)
