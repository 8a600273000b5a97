import numpy as np
import pytest
import tiny_rag
from datasets import Dataset
from tiny_reranker import save_reranker

from rag_finetune.data.qa import FEATURES
from rag_finetune.index.build import build_index
from rag_finetune.retrieval import mining
from rag_finetune.retrieval.mining import NegativeMiner
from rag_finetune.retrieval.rerank import load_reranker, passage_text
from rag_finetune.retrieval.searchers import DenseSearcher

# id, document, title, text; the question's answer is "red", its gold passage g
PASSAGES = [
    ("g", "g", "house of ada", "the house of ada is red ."),
    ("copy", "copy", "", "The house of ada  is RED ."),
    ("answer", "answer", "", "a red dog"),
    ("titled", "titled", "red", "a dog"),
    ("n1", "n1", "T", "the house of ben is blue ."),
    ("n2", "n2", "", "reddish dog"),
    ("again", "again", "", "the house of BEN is blue ."),
    ("n3", "n3", "", "the house of cora is green ."),
    ("p#1", "p", "", "where is oslo ?"),
    ("p#2", "p", "", "oslo is old and black"),
    ("p#3", "p", "", "oslo is old and white"),
]
IDS = [row[0] for row in PASSAGES]


class Ranking:
    """A search that finds the same passages for every question; `scores` by id."""

    def __init__(self, **scores: float) -> None:
        self.scores = np.array([scores.get(name.replace("#", "_"), 0.0) for name in IDS])

    def search(self, questions, k):
        rows = np.flatnonzero(self.scores)
        rows = rows[np.argsort(-self.scores[rows], kind="stable")][:k]
        rows = np.pad(rows, (0, k - len(rows)), constant_values=-1)
        scores = np.where(rows < 0, -np.inf, self.scores[rows])
        return np.tile(scores, (len(questions), 1)), np.tile(rows, (len(questions), 1))

    def scores_at(self, questions, rows):
        return self.scores[rows]


ALL = {name.replace("#", "_"): 20.0 - place for place, name in enumerate(IDS)}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    columns = dict(
        zip(
            ("id", "document_id", "title", "text"),
            map(list, zip(*PASSAGES, strict=True)),
            strict=True,
        )
    )
    folder = tmp_path_factory.mktemp("mining") / "index"
    return build_index(Dataset.from_dict(columns), tiny_rag.context_encoder(), folder)


def asked(*rows):
    """Questions of (answers, positive ids)."""
    columns = {
        "id": [f"q{number}" for number in range(len(rows))],
        "question": ["what is the house of ada ?"] * len(rows),
        "answers": [list(answers) for answers, _ in rows],
        "positive_ids": [list(ids) for _, ids in rows],
    }
    return Dataset.from_dict(columns, features=FEATURES)


ONE = asked((["red"], ["g"]))


def ids_of(contexts):
    return [context["passage_id"] for context in contexts]


def negatives_of(miner, questions=ONE):
    return [ids_of(row["hard_negative_ctxs"]) for row in miner.mine(questions)]


def test_gold_passages_their_copies_answers_and_repeats_are_no_negatives(index):
    miner = NegativeMiner(index, {"x": Ranking(**ALL)})
    assert negatives_of(miner) == [["n1", "n2", "n3", "p#1", "p#2", "p#3"]]
    assert miner.left_out == {
        "questions without a gold passage": 0,
        "gold passages": 1,
        "repeats of gold passages or negatives": 2,
        "holding an answer": 2,
        "questions with fewer negatives": 1,
    }


def test_a_row_is_that_of_dprs_json(index):
    (row,) = NegativeMiner(index, {"x": Ranking(**ALL)}, n_negatives=1).mine(ONE)
    assert row == {
        "id": "q0",
        "question": "what is the house of ada ?",
        "answers": ["red"],
        "positive_ctxs": [{"title": PASSAGES[0][2], "text": PASSAGES[0][3], "passage_id": "g"}],
        "negative_ctxs": [],
        "hard_negative_ctxs": [
            {
                "title": "T",
                "text": PASSAGES[4][3],
                "passage_id": "n1",
                "score": 16.0,
                "retrieval": "x",
            }
        ],
    }


def test_no_piece_of_a_gold_document_is_a_negative_and_those_with_an_answer_are_positives(index):
    questions = asked((["black"], ["p"]), (["nothing"], ["p"]))
    rows = list(NegativeMiner(index, {"x": Ranking(**ALL)}).mine(questions))
    assert [ids_of(row["positive_ctxs"]) for row in rows] == [["p#2"], ["p#1", "p#2", "p#3"]]
    assert not {"p#1", "p#2", "p#3"} & {*ids_of(rows[0]["hard_negative_ctxs"])}


def test_ranks_are_those_of_the_search(index):
    miner = NegativeMiner(index, {"x": Ranking(**ALL)}, from_rank=6, to_rank=9)
    assert negatives_of(miner) == [["n2", "again", "n3", "p#1"]]


def test_a_search_that_finds_few_is_no_matter(index):
    assert negatives_of(NegativeMiner(index, {"x": Ranking(n1=1.0)})) == [["n1"]]
    assert negatives_of(NegativeMiner(index, {"x": Ranking(n1=1.0)}, from_rank=2)) == [[]]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, ["n1", "n2", "n3"]),
        ({"margin": 0.0}, ["n2", "n3"]),
        ({"margin": 2.0}, ["n3"]),
        ({"max_share": 0.9}, ["n2", "n3"]),
        ({"max_share": 0.5}, ["n3"]),
        ({"max_share": 0.9, "margin": 2.0}, ["n3"]),
    ],
    ids=str,
)
def test_negatives_near_the_gold_passage_are_left_out(index, rules, expected):
    miner = NegativeMiner(index, {"x": Ranking(g=10.0, n1=11.0, n2=9.0, n3=5.0)}, **rules)
    assert negatives_of(miner) == [expected]
    assert miner.left_out["too near to the gold passage"] == 3 - len(expected)


def test_a_share_of_a_score_below_zero_lies_further_below(index):
    ranking = Ranking(g=-10.0, n1=-9.5, n2=-10.5, n3=-11.5)
    assert negatives_of(NegativeMiner(index, {"x": ranking}, max_share=0.9)) == [["n3"]]


def test_of_several_gold_passages_the_best_counts(index):
    ranking = Ranking(g=10.0, answer=6.0, n1=9.0, n2=7.0)
    miner = NegativeMiner(index, {"x": ranking}, margin=2.0)
    assert negatives_of(miner, asked((["red"], ["answer", "g"]))) == [["n2"]]


def test_two_searches_take_turns_and_either_may_rule_out(index):
    searchers = {"x": Ranking(g=5.0, n1=4.0, n2=3.0), "y": Ranking(n3=9.0, n2=8.0, g=8.5, p_1=1.0)}
    miner = NegativeMiner(index, searchers)
    (row,) = miner.mine(ONE)
    found = [(one["passage_id"], one["retrieval"]) for one in row["hard_negative_ctxs"]]
    assert found == [("n3", "y"), ("n1", "x"), ("n2", "x"), ("p#1", "y")]
    assert negatives_of(NegativeMiner(index, searchers, margin=1.0)) == [["n1", "p#1"]]


def test_a_search_rules_out_what_only_another_one_finds_in_its_window(index):
    # n2 is y's third, outside of its window, and nearer to the gold passage there than allowed.
    by_y = Ranking(g=9.0, n1=1.0, n2=8.9, n3=8.95)
    searchers = {"x": Ranking(n2=4.0, n1=3.0, g=5.0), "y": by_y}
    assert negatives_of(NegativeMiner(index, searchers, to_rank=2)) == [["n2", "n3"]]
    miner = NegativeMiner(index, searchers, to_rank=2, max_share=0.9)
    assert negatives_of(miner) == [[]]
    assert miner.left_out["too near to the gold passage"] == 2
    miner = NegativeMiner(index, searchers, to_rank=3, max_share=0.9)
    assert negatives_of(miner) == [["n1"]]


def test_a_draw_depends_on_seed_and_question_alone(index, monkeypatch):
    questions = asked(*[(["red"], ["g"])] * 6)
    rules = {"n_negatives": 2, "sampling": "random"}
    first = negatives_of(NegativeMiner(index, {"x": Ranking(**ALL)}, **rules), questions)
    monkeypatch.setattr(mining, "BLOCK", 2)
    again = negatives_of(NegativeMiner(index, {"x": Ranking(**ALL)}, **rules), questions)
    other = negatives_of(NegativeMiner(index, {"x": Ranking(**ALL)}, **rules, seed=1), questions)
    assert first == again != other
    assert len({*map(tuple, first)}) > 1 and {len(names) for names in first} == {2}


def test_a_cross_encoder_leaves_out_what_it_finds_as_good_as_the_gold(index, tmp_path):
    reranker = load_reranker(save_reranker(tmp_path))
    by_id = {row[0]: passage_text(dict(title=row[2], text=row[3])) for row in PASSAGES}
    scores = reranker.score([(ONE[0]["question"], by_id[name]) for name in IDS])
    scores = dict(zip(IDS, scores.tolist(), strict=True))
    plain = ["n1", "n2", "n3", "p#1", "p#2", "p#3"]
    margin = scores["g"] - sorted(scores[name] for name in plain)[2] - 1e-4
    miner = NegativeMiner(index, {"x": Ranking(**ALL)}, reranker=reranker, reranker_margin=margin)
    (row,) = miner.mine(ONE)
    assert ids_of(row["hard_negative_ctxs"]) == [
        name for name in plain if scores[name] <= scores["g"] - margin
    ]
    assert len(row["hard_negative_ctxs"]) == 3
    for context in row["positive_ctxs"] + row["hard_negative_ctxs"]:
        expected = scores[context["passage_id"]]
        assert context["cross_encoder_score"] == pytest.approx(expected, abs=1e-5)


def test_questions_without_gold_are_counted_and_without_answers_named(index):
    miner = NegativeMiner(index, {"x": Ranking(**ALL)})
    with pytest.warns(UserWarning, match="1 of 1 questions have no answer"):
        rows = list(miner.mine(asked(([], ["g"]), (["red"], []))))
    assert [row["id"] for row in rows] == ["q0"]
    assert miner.left_out["questions without a gold passage"] == 1
    assert "answer" in ids_of(rows[0]["hard_negative_ctxs"])
    with pytest.raises(ValueError, match="holds the gold passage of none of the 1 questions"):
        list(miner.mine(asked((["red"], []))))


def test_negatives_of_a_real_search_hold_no_answer(tmp_path):
    index = tiny_rag.tiny_index(tmp_path / "index")
    searcher = DenseSearcher(tiny_rag.context_encoder(seed=2), index)
    for row in NegativeMiner(index, {"dense": searcher}).mine(tiny_rag.questions()):
        assert row["hard_negative_ctxs"]
        for context in row["hard_negative_ctxs"]:
            assert f" {row['answers'][0]} " not in context["text"]


@pytest.mark.parametrize(
    "rules",
    [
        {"n_negatives": 0},
        {"from_rank": 0},
        {"from_rank": 5, "to_rank": 4},
        {"max_share": 0.0},
        {"max_share": 1.1},
        {"sampling": "best"},
    ],
    ids=str,
)
def test_rules_out_of_range_are_refused(index, rules):
    with pytest.raises(ValueError, match=f"{next(iter(rules))}.* found"):
        NegativeMiner(index, {}, **rules)
