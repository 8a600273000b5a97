"""A checkpoint is one movable folder of ordinary folders; what is damaged is named."""

import json
import shutil

import pytest
import tiny_causal
import torch
from tiny_training import same, weights
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BertConfig,
    DPRQuestionEncoder,
    GPT2Config,
    LlamaConfig,
    T5Config,
)

from rag_finetune.rag.causal_checkpoint import DESCRIPTION, is_decoder_only
from rag_finetune.rag.causal_model import CausalRag
from rag_finetune.rag.checkpoint import load_rag, place_index, save_rag
from rag_finetune.rag.generation import generate_answers

QUESTIONS = ["what is the house of ada ?", "where lives ben ?"]


def answers(rag):
    found = generate_answers(rag, QUESTIONS)
    return [(best.text, best.score, best.passages) for [best] in found]


@pytest.mark.parametrize("reading", ["ensemble", "joined"])
def test_a_moved_checkpoint_is_the_same_model(tmp_path, reading):
    rag = tiny_causal.tiny_causal(tmp_path / "first", "gpt2", reading, padding=False)
    assert isinstance(rag.model, CausalRag)
    before = answers(rag)
    save_rag(rag.model, rag.tokenizer, tmp_path / "saved")
    place_index(rag.retriever.index, tmp_path / "saved", "copy", ours=False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "saved").rename(tmp_path / "elsewhere" / "moved")
    shutil.rmtree(tmp_path / "first")
    again = load_rag(tmp_path / "elsewhere" / "moved")
    assert all(same(weights(rag.model), weights(again.model)).values())
    assert again.model.template == rag.model.template
    assert (again.model.config.n_docs, again.model.max_target_length) == (3, 8)
    assert answers(again) == before


def test_its_folders_are_ordinary_ones_and_hold_no_path(tmp_path):
    tiny_causal.tiny_causal(tmp_path)
    folder = tmp_path / "assembled"
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", DESCRIPTION, "rag_index.json", "question_encoder", "generator")
    }
    assert AutoModelForCausalLM.from_pretrained(folder / "generator").config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(folder / "generator").eos_token == "</s>"
    DPRQuestionEncoder.from_pretrained(folder / "question_encoder")
    texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".md")]
    assert all(str(tmp_path) not in text for text in texts)
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    card = (folder / "README.md").read_text()
    assert "rag-with-a-decoder-only-generator" in card and "RagRetriever" not in card
    assert json.loads((folder / DESCRIPTION).read_text()) == {
        "format_version": 1,
        "kind": "causal",
        "reading": "ensemble",
        "prompt": {"template": tiny_causal.TEMPLATE, "chat": False},
        "n_docs": 3,
        "max_combined_length": 40,
        "max_target_length": 8,
    }


def test_saving_over_a_checkpoint_leaves_nothing_behind(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    (tmp_path / "assembled/generator/stray.json").write_text("{}")
    rag.model.max_target_length = 5
    save_rag(rag.model, rag.tokenizer, tmp_path / "assembled")
    assert not (tmp_path / "assembled/generator/stray.json").exists()
    assert not list((tmp_path / "assembled").glob(".partial*"))
    assert load_rag(tmp_path / "assembled").model.max_target_length == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, r'rag_finetune.json: expected "format_version" 1, found 2'),
        ({"kind": "other"}, r'expected "kind" causal, found other'),
        ({"n_docs": None}, r'"n_docs" must be a number from 1, found null'),
        ({"max_target_length": 0}, r'"max_target_length" must be .* found the number 0'),
        ({"prompt": {}}, r'"prompt" must be an object with template and chat'),
        ({"reading": "joined"}, r"expected \{passages\} once"),
        ({"reading": ...}, r'"reading" is missing'),
    ],
)
def test_a_damaged_description_names_file_and_key(tmp_path, change, message):
    made = tmp_path / "assembled"
    made.mkdir()
    whole = {
        "format_version": 1,
        "kind": "causal",
        "reading": "ensemble",
        "prompt": {"template": tiny_causal.TEMPLATE, "chat": False},
        "n_docs": 3,
        "max_combined_length": 40,
        "max_target_length": 8,
    }
    data = {key: value for key, value in (whole | change).items() if value is not ...}
    (made / DESCRIPTION).write_text(json.dumps(data))
    for name in ("question_encoder", "generator"):
        (made / name).mkdir()
    with pytest.raises(ValueError, match=message):
        load_rag(made, with_index=False)


def test_a_file_that_is_not_json_and_a_missing_part_are_named(tmp_path):
    (tmp_path / DESCRIPTION).write_text("{")
    with pytest.raises(ValueError, match=r"rag_finetune.json:1: not JSON"):
        load_rag(tmp_path, with_index=False)
    tiny_causal.tiny_causal(tmp_path / "made")
    shutil.rmtree(tmp_path / "made/assembled/generator")
    with pytest.raises(FileNotFoundError, match=r"generator/ is missing"):
        load_rag(tmp_path / "made/assembled")


def test_a_head_cannot_be_asked_for(tmp_path):
    tiny_causal.tiny_causal(tmp_path)
    with pytest.raises(ValueError, match=r"decoder-only generator, and no head"):
        load_rag(tmp_path / "assembled", model_type="rag_token")


def test_n_docs_is_lowered_to_what_the_index_holds(tmp_path):
    with pytest.warns(UserWarning, match=r"n_docs 30 is more than the 20 passages"):
        rag = tiny_causal.tiny_causal(tmp_path, n_docs=30)
    assert rag.retriever.n_docs == rag.model.config.n_docs == 20
    data = json.loads((tmp_path / "assembled" / DESCRIPTION).read_text())
    assert data["n_docs"] == 30


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GPT2Config(), True),
        (LlamaConfig(), True),
        (BartConfig(), False),
        (T5Config(), False),
        (BertConfig(), False),
    ],
)
def test_what_is_decoder_only(config, expected):
    assert is_decoder_only(config) is expected


def test_weights_that_are_those_of_another_network_are_refused(tmp_path):
    tiny_causal.tiny_causal(tmp_path)
    torch.manual_seed(0)
    other = tiny_causal.network("gpt2").transformer
    folder = tmp_path / "assembled/generator"
    config = json.loads((folder / "config.json").read_text())
    other.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"not the weights of a decoder-only generator"):
        load_rag(tmp_path / "assembled")
