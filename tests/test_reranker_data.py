import pytest
import tiny_rag
from datasets import Dataset
from tiny_reranker import save_reranker

from rag_finetune.data.candidates import Candidate, Candidates
from rag_finetune.retrieval.rerank import load_reranker
from rag_finetune.training.reranker_data import (
    RerankerCollator,
    candidates_of,
    pair_of,
    with_negatives,
)
from rag_finetune.training.retriever_data import RetrieverExamples

FACTS = tiny_rag.facts()


def candidate(number):
    fact = FACTS[number]
    return Candidate(fact["title"], fact["text"], fact["id"])


def examples(counts, n_negatives):
    """Questions on the first facts, each with so many of the facts after it as negatives."""
    candidates = [
        Candidates([candidate(row)], [candidate(row + 1 + n) for n in range(count)])
        for row, count in enumerate(counts)
    ]
    questions = tiny_rag.questions(len(counts))
    return RetrieverExamples(questions, tiny_rag.passages(), candidates, n_negatives=n_negatives)


def test_mined_rows_become_candidates_of_their_questions():
    context = {"title": "T", "text": "x", "passage_id": "7", "score": 1.0}
    row = {"id": "q1", "positive_ctxs": [context], "hard_negative_ctxs": [context | {"text": "y"}]}
    questions, candidates = candidates_of(tiny_rag.questions(3), [row])
    assert questions["id"][:] == ["q1"]
    assert candidates == [Candidates([Candidate("T", "x", "7")], [Candidate("T", "y", "7")])]


def test_questions_without_negatives_are_left_out_and_counted():
    found = [Candidates([candidate(0)], []), Candidates([candidate(1)], [candidate(2)])]
    with pytest.warns(UserWarning, match="1 of 2 questions have no negative"):
        questions, kept = with_negatives(tiny_rag.questions(2), found)
    assert (questions["id"][:], kept) == (["q1"], found[1:])
    with pytest.raises(ValueError, match="None of the 1 questions has a negative"):
        with_negatives(tiny_rag.questions(1), found[:1])


def test_a_batch_holds_the_pairs_of_all_lists_the_gold_passage_first(tmp_path):
    reranker = load_reranker(save_reranker(tmp_path))
    data = examples([2, 1, 4], n_negatives=2)
    batch = RerankerCollator(data, reranker)([data[0], data[1], data[2]])
    assert batch["rows"].tolist() == [0, 1, 2]
    assert batch["places"].tolist() == [[0, 1, 2], [3, 4, -1], [5, 6, 7]]
    tokens = batch["pairs"]["input_ids"]
    tokenizer = reranker.tokenizer
    for place, row in ((0, 0), (3, 1), (5, 2)):
        pair = FACTS[row]["question"], f"{FACTS[row]['title']} {FACTS[row]['text']}"
        assert pair_of(data, row, data.positives[row][0]) == pair
        alone = tokenizer(*pair)["input_ids"]
        assert tokens[place][: len(alone)].tolist() == alone
    assert (tokens[batch["pairs"]["attention_mask"] == 0] == tokenizer.pad_token_id).all()


def test_the_items_are_drawn_anew_each_epoch():
    data = examples([8], n_negatives=3)
    first = data[0]["negatives"]
    assert data[0]["negatives"] == first and len(first) == 3
    drawn = set()
    for epoch in range(6):
        data.set_epoch(epoch)
        drawn.add(tuple(data[0]["negatives"]))
    assert len(drawn) > 1
    assert isinstance(tiny_rag.questions(1), Dataset)
