"""RAG heads are loaded as they were saved; what is none, or is not whole, is named."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_causal
import tiny_rag
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from rag_finetune.rag.checkpoint import load_rag, save_rag
from rag_finetune.rag.heads import load_head, require_heads, set_generation_config


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A folder with a checkpoint without an index, which tests leave as they are."""
    return tiny_rag.bare_rag(tmp_path_factory.mktemp("heads"))


@pytest.fixture
def bare(job, tmp_path) -> Path:
    """A copy of the checkpoint."""
    return shutil.copytree(job / "bare", tmp_path / "checkpoint")


def test_model_is_loaded_for_inference_in_float32(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    save_rag(rag.model.to(torch.bfloat16), rag.tokenizer, tmp_path / "half")
    loaded = load_rag(tmp_path / "half", with_index=False)
    assert not loaded.model.training and loaded.retriever is None
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_folder_without_config_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.json is missing. Make one with"):
        load_head(tmp_path, None)


def test_another_model_is_no_checkpoint(job):
    for name, found in (("generator", "bart"), ("question_encoder", "dpr")):
        with pytest.raises(ValueError, match=rf'found model type "{found}".*rag-finetune assemble'):
            load_head(job / "parts" / name, None)


def test_unknown_head_is_refused(bare):
    with pytest.raises(ValueError, match='rag_sequence or rag_token, found "rag"'):
        load_head(bare, "rag")
    path = bare / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"architectures": ["RagModel"]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"Say which: --model_type rag_sequence or rag_token"):
        load_head(bare, None)
    assert load_head(bare, "rag_token")


def test_missing_weights_are_named_not_drawn(bare):
    weights = load_file(bare / "model.safetensors")
    removed = next(name for name in sorted(weights) if name.endswith("fc1.weight"))
    del weights[removed]
    save_file(weights, bare / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf'not the weights of a RAG model: 1 .*"{removed}"'):
        load_head(bare, None)


@pytest.mark.parametrize("name", ["question_encoder_tokenizer", "generator_tokenizer"])
def test_a_tokenizer_that_is_gone_is_named_not_made_up(bare, name):
    shutil.rmtree(bare / name)
    with pytest.raises(ValueError, match=rf"{name}: no tokenizer that can be loaded"):
        load_head(bare, None)


def test_model_and_generator_share_their_generation_settings(bare):
    model, _ = load_head(bare, None)
    settings = GenerationConfig(num_beams=6)
    set_generation_config(model, settings)
    assert model.generation_config is settings is model.generator.generation_config


def test_a_checkpoint_without_settings_has_those_of_its_generator(bare):
    (bare / "generation_config.json").unlink()
    model, _ = load_head(bare, None)
    assert model.generation_config is model.generator.generation_config


def test_a_decoder_only_generator_is_no_head(tmp_path, bare):
    require_heads(load_head(bare, None)[0])
    with pytest.raises(ValueError, match="Train it with CausalRagTrainer"):
        require_heads(tiny_causal.tiny_causal(tmp_path / "causal").model)
