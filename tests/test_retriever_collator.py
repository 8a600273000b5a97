"""Batches of retriever training."""

import tiny_retriever

from rag_finetune.training.retriever_collator import RetrieverCollator


def test_a_passage_of_several_questions_is_there_once_positives_first():
    data = tiny_retriever.examples(20, n_negatives=1)
    collator = RetrieverCollator(data, *tiny_retriever.encoders())
    items = [
        {"row": 4, "positive": 4, "negatives": [5]},
        {"row": 5, "positive": 5, "negatives": [9]},
        {"row": 4, "positive": 4, "negatives": [9]},
    ]
    batch = collator(items)
    assert batch["rows"].tolist() == [4, 5, 4]
    assert batch["positives"].tolist() == [4, 5, 4]
    assert batch["passage_rows"].tolist() == [4, 5, 9]
    assert sum(len(part["input_ids"]) for part in batch["passages"]["parts"]) == 3
