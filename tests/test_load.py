from pathlib import Path

import numpy as np
import pytest
import tiny_rag
import torch
from transformers import (
    DPRQuestionEncoder,
)

from rag_finetune.encoders.load import load_context_encoder, load_question_encoder, require_source


@pytest.fixture
def parts(tmp_path) -> dict[str, str]:
    return tiny_rag.save_parts(tmp_path / "parts")


def test_the_other_encoder_of_the_pair_is_refused(parts):
    with pytest.raises(ValueError, match=r"not the weights of a context encoder.*other encoder"):
        load_context_encoder(parts["question_encoder"])
    with pytest.raises(ValueError, match=r"not the weights of a question encoder.*other encoder"):
        load_question_encoder(parts["context_encoder"])


def test_another_kind_of_network_is_refused(parts):
    with pytest.raises(
        ValueError, match='expected a DPR question encoder, found model type "bart"'
    ):
        load_question_encoder(parts["generator"])


@pytest.mark.parametrize("path", ["./nothing", "/nothing/here", "../nothing"])
def test_a_path_that_leads_nowhere_is_not_sought_on_the_hub(path):
    with pytest.raises(FileNotFoundError, match=f"^{path}: no such folder"):
        load_context_encoder(path)


def test_encoder_is_loaded_for_inference_in_float32(parts):
    folder = Path(parts["question_encoder"])
    DPRQuestionEncoder.from_pretrained(folder).to(torch.float16).save_pretrained(folder)
    encoder = load_question_encoder(str(folder))
    assert not encoder.model.training
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.float32}
    assert (encoder.name, encoder.revision, encoder.local) == ("question_encoder", None, True)


def test_texts_are_cut_to_what_the_network_can_take(parts):
    encoder = load_context_encoder(parts["context_encoder"], max_length=5000)
    assert encoder.max_length == 64
    assert np.isfinite(encoder.encode(["red " * 500], ["old " * 500])).all()
    assert load_context_encoder(parts["context_encoder"], max_length=10).max_length == 10


def test_encoder_of_the_hub_has_name_and_commit(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    tiny_rag.publish(parts["context_encoder"], "org/encoder", tmp_path / "cache")
    encoder = load_context_encoder("org/encoder", max_length=64)
    found = (encoder.name, encoder.revision, encoder.local)
    assert found == ("org/encoder", tiny_rag.HUB_COMMIT, False)
    local = load_context_encoder(parts["context_encoder"], max_length=64)
    assert encoder.fingerprint() == local.fingerprint()


def test_a_misspelt_folder_is_answered_with_the_one_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "model").mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match=r"runs/modl: no such folder. Did you mean runs/model"
    ):
        require_source("runs/modl")
    require_source("facebook/bart-base")  # may be on the Hub
    require_source("runs/model")
