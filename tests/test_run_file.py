import pytest
import tiny_rag

from rag_finetune.evaluation.retrieval_only import evaluate_retrieval
from rag_finetune.evaluation.run_file import evaluate_run
from rag_finetune.index.store import PassageIndex


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> PassageIndex:
    return tiny_rag.tiny_index(tmp_path_factory.mktemp("run_file") / "index")


def run_of(evaluation):
    return {
        row["id"]: [(passage["id"], passage["score"]) for passage in row["passages"]]
        for row in evaluation.predictions
    }


def test_a_run_of_our_own_gives_the_figures_of_the_search(index):
    encoder = tiny_rag.context_encoder(seed=2)
    searched = evaluate_retrieval(encoder, index, tiny_rag.questions())
    measured = evaluate_run(run_of(searched), tiny_rag.questions(), index)
    health = {"distinct_passages", "top1_frequency", "doc_entropy"}
    assert set(searched.metrics) - set(measured.metrics) == health
    for name, value in measured.metrics.items():
        assert value == searched.metrics[name], name
    assert measured.predictions == searched.predictions


def test_without_an_index_there_are_the_figures_of_gold_passages():
    run = {"q0": [("1#2", 2.0), ("7", 1.0)], "q1": [("9", 1.0)]}
    metrics = evaluate_run(run, tiny_rag.questions(2)).metrics
    assert (metrics["recall@1"], metrics["mrr@10"], metrics["n_examples"]) == (0.5, 0.5, 2)
    assert not [name for name in metrics if name.startswith("answer_")]


def test_questions_that_the_run_leaves_out_count_as_not_found():
    with pytest.warns(UserWarning, match='3 of 4 questions are not in the run, the first .* "q1"'):
        metrics = evaluate_run({"q0": [("1", 1.0)]}, tiny_rag.questions(4)).metrics
    assert metrics["recall@1"] == 0.25


def test_a_run_of_other_questions_is_refused():
    with pytest.raises(ValueError, match='expected ids such as "q0", found "x"'):
        evaluate_run({"x": [("1", 1.0)]}, tiny_rag.questions(2))


def test_passages_that_the_index_has_not_are_counted(index):
    run = {"q0": [("1", 1.0), ("nowhere", 0.5)]}
    with pytest.warns(UserWarning, match='1 of 2 passages of the run are not in .* "nowhere"'):
        metrics = evaluate_run(run, tiny_rag.questions(1), index).metrics
    assert metrics["answer_recall@1"] == 1.0
    with pytest.raises(ValueError, match="expected the passages of the run, found none of them"):
        evaluate_run({"q0": [("nowhere", 1.0)]}, tiny_rag.questions(1), index)


def test_grades_of_gold_passages_count():
    questions = tiny_rag.questions(1)
    run = {"q0": [("2", 2.0), ("1", 1.0)]}
    plain = evaluate_run(run, questions).metrics["ndcg@10"]
    row = questions[0] | {"positive_ids": ["1", "2"], "positive_grades": [2.0, 1.0]}
    graded = evaluate_run(run, questions.from_list([row])).metrics["ndcg@10"]
    assert plain == pytest.approx(0.6309298)
    assert graded == pytest.approx((1 + 2 * 0.6309298) / (2 + 0.6309298))
