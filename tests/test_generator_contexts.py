"""The passage that a generator is trained to answer from."""

from collections import Counter

import numpy as np
import pytest
import tiny_rag
import torch

from rag_finetune.data.qa import TrainingQuestions
from rag_finetune.evaluation.evaluate import collator_for
from rag_finetune.training.generator_contexts import (
    ChosenPassages,
    answering_rows,
    found_rows,
    with_gold,
)

GOLDS = [[0], [1, 2], [3]]
FOUND = np.array([[0, 5, 6], [7, 1, 8], [3, -1, -1]])


def chosen(probability, found=FOUND, golds=GOLDS, rag=None, collate=None, seed=1):
    items = TrainingQuestions(tiny_rag.questions(len(golds)))
    return items, ChosenPassages(rag, collate, items, golds, found, probability, seed)


def draws(probability, item, found=FOUND, epochs=400):
    items, passages = chosen(probability, found)
    counts: Counter[int] = Counter()
    for epoch in range(epochs):
        items.set_epoch(epoch)
        counts[passages.choose(item)] += 1
    return counts


def test_gold_passages_alone_are_read_where_nothing_is_searched():
    assert set(draws(1.0, 0, found=None)) == {0}
    assert set(draws(1.0, 1, found=None)) == {1, 2}


def test_each_passage_found_is_drawn_as_often_the_gold_one_too():
    counts = draws(None, 0)
    assert set(counts) == {0, 5, 6}
    assert min(counts.values()) > 100


def test_a_mix_has_the_gold_passage_as_often_as_asked_and_else_another():
    counts = draws(0.75, 1)
    assert set(counts) == {1, 2, 7, 8}
    assert counts[1] + counts[2] == pytest.approx(300, abs=30)


def test_a_mix_without_gold_passages_reads_others_alone():
    assert set(draws(0.0, 1)) == {7, 8}


def test_a_mix_falls_back_to_the_gold_passage_where_nothing_else_was_found():
    assert set(draws(0.1, 2)) == {3}


def test_no_passage_is_drawn_where_none_was_found():
    _, passages = chosen(None, np.full((3, 2), -1))
    assert passages.choose(0) == -1


def test_a_draw_depends_on_seed_epoch_and_item_alone():
    first, second = draws(0.5, 0), draws(0.5, 0)
    assert first == second
    items, passages = chosen(None)
    _, other = chosen(None, seed=2)
    items.set_epoch(3)
    once = [passages.choose(item) for item in range(3)]
    assert once == [passages.choose(item) for item in range(3)]
    assert [other.choose(0) for _ in range(3)] == [other.choose(0)] * 3


def test_a_batch_is_written_as_rag_writes_it(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    collate = collator_for(rag, 32, 8)
    items, passages = chosen(1.0, None, [[4], [9], [2]], rag, collate)
    batch = passages([items[0], items[1], items[2]])
    index = rag.retriever.index
    found = index.passages_at(np.array([4, 9, 2]))
    lists = [{"title": [p["title"]], "text": [p["text"]]} for p in found]
    questions = rag.retriever.question_texts(batch["input_ids"])
    ids, mask = rag.retriever.postprocess_docs(lists, questions, None, 1, "pt")
    assert torch.equal(batch["context_input_ids"], ids)
    assert torch.equal(batch["context_attention_mask"], mask)
    assert set(batch) >= {"rows", "labels", "input_ids"}


def test_of_several_gold_passages_those_that_hold_the_answer_are_kept(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    questions = tiny_rag.questions(2).remove_columns("positive_ids")
    questions = questions.add_column("positive_ids", [["1", "2"], ["2"]])
    telling = answering_rows(questions, rag.retriever.index)
    assert telling == [[0], [1]]
    questions = questions.remove_columns("answers").add_column("answers", [["zebra"], ["zebra"]])
    assert answering_rows(questions, rag.retriever.index) == [[0, 1], [1]]


def test_questions_without_a_gold_passage_are_left_out_with_their_number():
    questions = tiny_rag.questions(3)
    with pytest.warns(UserWarning, match='1 of 3 training questions .* the first with the id "q1"'):
        assert with_gold(questions, [[0], [], [2]]) == [0, 2]
    with pytest.raises(ValueError, match="None of the 3 training questions has a gold passage"):
        with_gold(questions, [[], [], []])


def test_what_is_found_is_what_the_index_gives_for_the_question_vectors(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    asked = tiny_rag.questions(5)["question"][:]
    rows = found_rows(rag, asked, 3, 32)
    tokens = rag.tokenizer.question_encoder(asked, padding=True, return_tensors="pt")
    rag.model.eval()
    with torch.no_grad():
        vectors = rag.model.question_encoder(**tokens)[0].numpy()
    expected = rag.retriever.index.search(vectors, 3)[1]
    assert rows.tolist() == expected.tolist()
