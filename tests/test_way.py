"""Who decides how passages are found, and what an index must have for it."""

import re
from types import SimpleNamespace

import pytest

from rag_finetune.index.manifest import Manifest
from rag_finetune.retrieval.way import Retrieval, choose_retrieval, retrieval_of


def index(dimension=16, lexical=(), retrieval=None):
    """What `choose_retrieval` asks of an opened index."""
    manifest = Manifest(
        encoder={},
        fingerprint="",
        dimension=dimension,
        n_passages=3,
        n_documents=3,
        passage_words=0,
        lexical={kind: {} for kind in lexical},
        retrieval=retrieval.data() if retrieval else {},
    )
    return SimpleNamespace(folder="D", manifest=manifest)


HYBRID = Retrieval("hybrid", "tfidf", "weighted", 0.3)


def test_vectors_are_searched_where_nobody_chose():
    assert choose_retrieval(index(lexical=["bm25"])).way == "dense"


def test_words_are_searched_where_there_are_no_vectors_bm25_first():
    assert choose_retrieval(index(0, ["tfidf", "bm25"])).way == "bm25"
    assert choose_retrieval(index(0, ["tfidf"])).way == "tfidf"


def test_what_was_chosen_for_the_index_holds():
    assert choose_retrieval(index(16, ["tfidf"], HYBRID)) == HYBRID


def test_a_checkpoint_wins_over_its_index_and_a_flag_over_both():
    mine = index(16, ["tfidf", "bm25"], HYBRID)
    of_model = Retrieval("tfidf", prior=2.0).data()
    assert choose_retrieval(mine, remembered=of_model, place="M") == Retrieval("tfidf", prior=2.0)
    assert choose_retrieval(mine, "bm25", 0.0, remembered=of_model, place="M").way == "bm25"


def test_a_flag_that_says_the_same_keeps_what_was_tuned():
    assert choose_retrieval(index(16, ["tfidf"], HYBRID), "hybrid") == HYBRID


def test_a_flag_takes_what_the_index_was_tuned_for_where_a_checkpoint_remembers_another_way():
    mine = index(16, ["bm25", "tfidf"], HYBRID)
    remembered = Retrieval("dense").data()
    assert choose_retrieval(mine, "hybrid", remembered=remembered, place="M") == HYBRID
    assert choose_retrieval(mine, remembered=remembered, place="M").way == "dense"
    assert choose_retrieval(mine, "bm25", remembered=remembered, place="M").weight != 0.3
    trained = Retrieval("dense", "bm25", prior=2.0).data()  # whose scale is of BM25's scores
    found = choose_retrieval(mine, "hybrid", remembered=trained, place="M")
    assert (found.kind, found.fusion, found.prior) == ("bm25", "rrf", 2.0)


def test_a_hybrid_and_a_prior_take_the_words_that_there_are():
    remembered = Retrieval().data()  # from an index that had no words
    mine = index(16, ["tfidf"])
    assert choose_retrieval(mine, "hybrid", remembered=remembered, place="M").kind == "tfidf"
    assert choose_retrieval(mine, prior=0.5, remembered=remembered, place="M").kind == "tfidf"


@pytest.mark.parametrize(
    ("mine", "way", "remembered", "message"),
    [
        (index(), "bm25", None, "--retrieval bm25: retrieval by bm25 needs bm25, but D has vect"),
        (
            index(),
            None,
            HYBRID,
            "M: retrieval by hybrid (vectors and tfidf by weighted scores, words 0.3)",
        ),
        (index(0, ["bm25"]), "dense", None, "needs vectors, but D has bm25 only"),
        (index(0, ["bm25"]), None, Retrieval(), "M: retrieval by dense needs vectors"),
        (index(0, ["bm25"]), None, Retrieval("tfidf"), "M: retrieval by tfidf needs tfidf"),
        (index(16, [], HYBRID), None, None, "D: retrieval by hybrid"),
    ],
)
def test_a_way_that_the_index_lacks_is_an_error_with_a_remedy(mine, way, remembered, message):
    remembered = remembered and remembered.data()
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        choose_retrieval(mine, way, remembered=remembered, place="M")
    assert "Choose what it has with --retrieval, or" in str(caught.value)


def test_a_prior_needs_words():
    with pytest.raises(ValueError, match=r"dense, lexical prior 0\.5 needs bm25"):
        choose_retrieval(index(), prior=0.5)


@pytest.mark.parametrize(
    "values",
    [{"way": "magic"}, {"lexical": "dense"}, {"fusion": "sum"}, {"weight": 1.1}, {"prior": -1.0}],
    ids=lambda values: next(iter(values)),
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="must be"):
        Retrieval(**values)


@pytest.mark.parametrize("data", [[], {"ways": "dense"}, {"way": "magic"}, {"prior": "much"}])
def test_what_describes_no_way_is_refused_with_its_place(data):
    with pytest.raises(ValueError, match='M: "retrieval" cannot be read: '):
        retrieval_of(data, "M")


def test_a_way_survives_its_data():
    assert retrieval_of(HYBRID.data(), "M") == HYBRID
