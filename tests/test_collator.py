import pytest
import tiny_rag
import torch
from torch.utils.data import DataLoader

from rag_finetune.data.collator import RagCollator
from rag_finetune.data.qa import TrainingQuestions

START_PAD = {"bart": (2, 1), "t5": (0, 0)}


def make_collator(kind: str = "bart", **options) -> RagCollator:
    start, pad = START_PAD[kind]
    return RagCollator(
        tiny_rag.word_tokenizer("bert"),
        tiny_rag.word_tokenizer(kind),
        decoder_start_token_id=start,
        pad_token_id=pad,
        **options,
    )


def ids(kind: str, text: str) -> list[int]:
    vocabulary = tiny_rag.word_tokenizer(kind).get_vocab()
    return [vocabulary[word] for word in text.split()]


def test_bart_labels_are_start_bos_answer_end_and_padding():
    labels = make_collator("bart").labels(["red oslo", "old red oslo", "green"])
    red, oslo, old, green = ids("bart", "red oslo old green")
    assert labels.tolist() == [
        [2, 0, red, oslo, 2, 1],
        [2, 0, old, red, oslo, 2],
        [2, 0, green, 2, 1, 1],
    ]
    assert labels.dtype == torch.int64


def test_t5_labels_are_start_answer_end_and_padding():
    labels = make_collator("t5").labels(["red oslo", "green"])
    red, oslo, green = ids("t5", "red oslo green")
    assert labels.tolist() == [[0, red, oslo, 1], [0, green, 1, 0]]


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_long_answer_loses_its_tail_and_keeps_its_end(kind):
    labels = make_collator(kind, max_target_length=5).labels(["old black quito is red", "red"])
    words = ids(kind, "old black quito is red")
    start, end = ([2, 0], 2) if kind == "bart" else ([0], 1)
    assert labels[0].tolist() == [*start, *words[: 4 - len(start)], end]
    assert labels[1].tolist()[: len(start) + 2] == [*start, words[-1], end]


def test_t5_answer_of_max_target_length_is_whole():
    labels = make_collator("t5", max_target_length=5).labels(["old black quito"])
    assert labels.tolist() == [[0, *ids("t5", "old black quito"), 1]]


def test_empty_answer_is_its_end_alone():
    assert make_collator("t5").labels([""]).tolist() == [[0, 1]]
    assert make_collator("bart").labels([""]).tolist() == [[2, 0, 2]]


def test_batch_holds_rows_questions_and_labels():
    items = [
        {"row": 7, "question": "who lives in oslo ?", "target": "ada"},
        {"row": 3, "question": "what is red ?", "target": "old red oslo"},
    ]
    batch = make_collator("bart")(items)
    question = [2, *ids("bert", "who lives in oslo ?"), 3]
    assert set(batch) == {"rows", "input_ids", "attention_mask", "labels"}
    assert batch["rows"].tolist() == [7, 3]
    assert batch["input_ids"].tolist() == [question, [2, *ids("bert", "what is red ?"), 3, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 7, [1] * 6 + [0]]
    assert batch["labels"][0].tolist() == [2, 0, *ids("bart", "ada"), 2, 1, 1]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_long_question_is_cut_to_max_question_length():
    items = [{"row": 0, "question": "what is the house of ada ?", "target": "red"}]
    batch = make_collator(max_question_length=5)(items)
    assert batch["input_ids"].tolist() == [[2, *ids("bert", "what is the"), 3]]


def test_a_batch_does_not_depend_on_the_one_before():
    collator = make_collator("bart", max_target_length=4)
    short = [{"row": 0, "question": "who is ada ?", "target": "red"}]
    long = [{"row": 1, "question": "who is the old dog of ada ?", "target": "old red oslo"}]
    before = collator(short)
    collator(long)
    after = collator(short)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("max_target_length", [0, 1, 2])
def test_no_room_for_an_answer_is_refused(max_target_length):
    with pytest.raises(ValueError, match=f"at least 3, found {max_target_length}"):
        make_collator(max_target_length=max_target_length)


def test_a_loader_with_workers_collates_training_questions():
    loader = DataLoader(
        TrainingQuestions(tiny_rag.questions(7)),
        batch_size=4,
        collate_fn=make_collator("t5"),
        num_workers=2,
    )
    batches = list(loader)
    assert [batch["rows"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6]]
    answers = tiny_rag.word_tokenizer("t5").batch_decode(
        torch.cat([row for row in batches[1]["labels"]]).view(3, -1), skip_special_tokens=True
    )
    assert answers == [fact["answer"] for fact in tiny_rag.facts()[4:7]]
