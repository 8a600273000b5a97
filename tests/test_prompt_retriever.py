"""Prompts of what is retrieved: one a passage or one a question, padded in front."""

import pytest
import tiny_causal
import torch

from rag_finetune.rag.generation import retrieve, tokenize_questions
from rag_finetune.rag.prompt_retriever import pad_id, pad_in_front

DOCS = [
    {"title": ["", "Ada"], "text": ["ada has a dog", "red"]},
    {"title": ["", ""], "text": ["ben lives in oslo", "old"]},
]
ASKED = ["who ?", "where ?"]


def test_a_prompt_holds_the_question_as_it_is_written(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    texts = ["what is the house of <user> ?"]  # no word of the question encoder's tokenizer
    tokens = tokenize_questions(rag, texts, 64)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    found = retrieve(rag.model, rag.retriever, ids, mask, n_docs=1, questions=texts)
    shown = rag.tokenizer.generator.decode(found.contexts.input_ids[0])
    assert shown.endswith(f"// {texts[0]} /")


def test_passages_that_are_none_are_left_out_of_a_joined_prompt(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path, reading="joined")
    docs = {"title": ["", ""], "text": ["ada has a dog", ""]}
    ids, _ = rag.retriever.postprocess_docs([docs], ["who ?"], None, 2, "pt")
    assert rag.tokenizer.generator.decode(ids[0]) == "[1] ada has a dog // who ? /"


def test_an_ensemble_has_a_prompt_for_each_passage_padded_in_front(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    ids, mask = rag.retriever.postprocess_docs(DOCS, ASKED, None, 2, "pt")
    assert ids.shape == mask.shape and len(ids) == 4
    assert (mask.diff(dim=1) >= 0).all() and mask[:, -1].all()
    assert mask.sum(1).max() == ids.shape[1] > mask.sum(1).min()
    tokenizer = rag.tokenizer.generator
    said = [tokenizer.decode(row[real.bool()]) for row, real in zip(ids, mask, strict=True)]
    for text, passage in zip(
        said, ["ada has a dog", "red", "ben lives in oslo", "old"], strict=True
    ):
        assert passage in text
    assert [text.split(" // ")[1] for text in said] == ["who ? /"] * 2 + ["where ? /"] * 2
    assert (ids[mask == 0] == pad_id(tokenizer)).all()


def test_a_joined_prompt_holds_all_passages_of_a_question(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path, reading="joined")
    ids, _ = rag.retriever.postprocess_docs(DOCS, ASKED, None, 2, "pt")
    assert len(ids) == 2
    assert "ben lives in oslo [2] old // where ? /" in rag.tokenizer.generator.decode(ids[1])


def test_the_end_pads_where_nothing_else_does(tmp_path):
    tokenizer = tiny_causal.tokenizer(padding=False)
    assert pad_id(tokenizer) == tokenizer.eos_token_id
    own = tiny_causal.tokenizer(padding=True)
    assert pad_id(own) == own.pad_token_id != own.eos_token_id


def test_rows_are_filled_up_in_front():
    ids, mask = pad_in_front([[5], [6, 7, 8]], 9)
    assert ids.tolist() == [[9, 9, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert ids.dtype == mask.dtype == torch.long


def test_other_tensors_than_torchs_are_not_made(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    with pytest.raises(ValueError, match='return_tensors must be "pt" for prompts, found "np"'):
        rag.retriever.postprocess_docs(DOCS, ASKED, None, 2, "np")


def test_a_question_that_leaves_no_room_is_refused(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    rag.retriever.require_room(["who ?"])
    with pytest.raises(ValueError, match="does not fit into max_combined_length 40"):
        rag.retriever.require_room(["who ?", "what is the house of ada ? " * 9])


def test_the_numbers_of_all_passages_of_a_joined_prompt_need_room_too(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path, reading="joined")
    question, words = "what is the house of ada ?", rag.tokenizer.generator
    empty = [{"title": "", "text": ""}] * rag.model.config.n_docs
    [prompt] = rag.retriever.writer.write(words, [empty], [question], 100)
    need = len(prompt)
    rag.model.config.max_combined_length = need
    rag.retriever.require_room([question])
    rag.model.config.max_combined_length = need - 1
    with pytest.raises(ValueError, match=f"has {need} of the generator's tokens"):
        rag.retriever.require_room([question])
