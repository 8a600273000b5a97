import csv
import json
import runpy
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DPRContextEncoder,
    DPRQuestionEncoder,
)

TINY = ROOT / "data" / "tiny"


def read_passages():
    with open(TINY / "passages.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def read_questions():
    return json.loads((TINY / "train.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_models")
    runpy.run_path(str(TINY / "make_models.py"))["main"]([str(folder)])
    return folder


def test_every_answer_stands_in_a_positive_passage():
    passages = {row["id"]: f"{row['title']} {row['text']}".lower() for row in read_passages()}
    for row in read_questions():
        for id in row["positive_ids"]:
            assert any(answer.lower() in passages[id] for answer in row["answers"]), row


def test_ids_and_questions_are_distinct():
    questions = read_questions()
    assert len({row["id"] for row in questions}) == len(questions)
    assert len({row["question"] for row in questions}) == len(questions)
    assert len({row["id"] for row in read_passages()}) == len(read_passages())


@pytest.mark.parametrize("name", ["question_encoder", "context_encoder"])
def test_the_encoders_tokenizer_is_like_berts(models, name):
    tokenizer = AutoTokenizer.from_pretrained(models / name)
    ids = tokenizer("Orlo is")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "orlo", "is", "[SEP]"]
    assert AutoConfig.from_pretrained(models / name).vocab_size == len(tokenizer)


def test_the_generators_tokenizer_is_like_barts_and_writes_any_text(models):
    tokenizer = AutoTokenizer.from_pretrained(models / "generator")
    ids = tokenizer("Ada Quill, café")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 2)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Ada Quill, café"
    assert AutoConfig.from_pretrained(models / "generator").vocab_size == len(tokenizer)


def test_the_generator_loads_and_starts_from_its_end_token(models):
    generator = AutoModelForSeq2SeqLM.from_pretrained(models / "generator")
    assert generator.generation_config.decoder_start_token_id == 2
    assert (
        generator(torch.tensor([[0, 9, 2]]), decoder_input_ids=torch.tensor([[2]]))
        .logits.isfinite()
        .all()
    )


def test_questions_find_their_passage_more_often_than_at_random(models):
    questions, passages = read_questions(), read_passages()
    context_encoder = DPRContextEncoder.from_pretrained(models / "context_encoder")
    question_encoder = DPRQuestionEncoder.from_pretrained(models / "question_encoder")
    context_tokenizer = AutoTokenizer.from_pretrained(models / "context_encoder")
    question_tokenizer = AutoTokenizer.from_pretrained(models / "question_encoder")
    titles, texts = [row["title"] for row in passages], [row["text"] for row in passages]
    contexts = context_tokenizer(titles, texts, padding=True, return_tensors="pt")
    asked = question_tokenizer(
        [row["question"] for row in questions], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        scores = (
            question_encoder(**asked).pooler_output @ context_encoder(**contexts).pooler_output.T
        )
    found = [
        any(passages[n]["id"] in row["positive_ids"] for n in best)
        for row, best in zip(questions, scores.topk(5).indices.tolist(), strict=True)
    ]
    assert sum(found) / len(found) > 0.4  # at random: 5 of 24 passages, 0.21


def test_the_models_are_the_same_each_time(models, tmp_path):
    # In another process: what hangs on the order of a hash table differs only there.
    script = [sys.executable, str(TINY / "make_models.py"), str(tmp_path)]
    subprocess.run(script, check=True, capture_output=True)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(models) for p in models.rglob("*") if p.is_file())
    for file in files:
        assert (tmp_path / file).read_bytes() == (models / file).read_bytes(), file
