"""Token ids in flat arrays give the batches that the tokenizer's padding gives."""

import tiny_rag
import tiny_retriever
import torch

from rag_finetune.training.token_rows import TokenRows


def encoded(encoder, ids):
    with torch.no_grad():
        return encoder.forward([ids])[0]


ROWS = [{"input_ids": [2, 5, 3]}, {"input_ids": [2, 5, 6, 7, 3]}, {"input_ids": [2, 3]}]


def test_a_batch_is_padded_to_its_longest_and_its_order_leads_back():
    batch = TokenRows(ROWS, 0).batch([2, 1])
    [part] = batch["parts"]
    assert part["input_ids"].tolist() == [[2, 5, 6, 7, 3], [2, 3, 0, 0, 0]]
    assert part["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch["order"].tolist() == [1, 0]
    assert "token_type_ids" not in part


def test_parts_hold_no_more_texts_than_asked_for():
    batch = TokenRows(ROWS, 0).batch([0, 1, 2], most_texts=2)
    assert [len(part["input_ids"]) for part in batch["parts"]] == [2, 1]
    assert batch["parts"][1]["input_ids"].tolist() == [[2, 3]]
    assert batch["order"].tolist() == [1, 0, 2]


def test_vectors_are_those_that_the_encoder_gives_titles_and_types_included():
    _, context = tiny_retriever.encoders()
    passages = tiny_rag.passages()
    ids = context.tokenize(passages["text"][:], passages["title"][:])
    for row in ids:
        row["token_type_ids"] = [0] * 3 + [1] * (len(row["input_ids"]) - 3)
    rows = TokenRows(ids, context.tokenizer.pad_token_id)
    batch = rows.batch([3, 0, 7])
    with torch.no_grad():
        parts = [context.model(**part)[0] for part in batch["parts"]]
    found = torch.cat(parts)[batch["order"]]
    for vector, row in zip(found, (3, 0, 7), strict=True):
        expected = encoded(context, ids[row])
        assert torch.allclose(vector, torch.tensor(expected), atol=1e-6)
