import pytest
import tiny_causal

from rag_finetune.evaluation.evaluate import collator_for
from rag_finetune.rag.causal_collator import CausalCollator

ITEMS = [
    {"row": 4, "question": "what is the house of ada ?", "target": "red"},
    {"row": 7, "question": "who ?", "target": "old blue oslo"},
]


def test_labels_are_answers_with_their_ends_filled_up_with_what_is_ignored(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path, padding=False)
    collator = collator_for(rag, 64, 8)
    assert isinstance(collator, CausalCollator)
    batch = collator(ITEMS)
    words = rag.tokenizer.generator
    ids = [words.convert_tokens_to_ids(text.split()) for text in ("red </s>", "old blue oslo </s>")]
    assert batch["labels"].tolist() == [[*ids[0], -100, -100], ids[1]]
    assert batch["rows"].tolist() == [4, 7]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 9)


def test_an_answer_that_is_too_long_is_named_and_not_cut(tmp_path):
    collator = collator_for(tiny_causal.tiny_causal(tmp_path), 64, 3)
    with pytest.raises(ValueError, match=r"1 of 2 answers .* not cut.*length to 4.*row 1: 'old bl"):
        collator(ITEMS)
