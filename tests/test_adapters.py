"""An adapter of peft is taken with the model that it is for, as part of its weights."""

import json
import sys

import pytest
import tiny_causal
import torch

from rag_finetune.rag.adapters import base_of, load_adapted
from rag_finetune.rag.causal_checkpoint import load_generator


def save_adapter(folder, base):
    """A model folder/base and an adapter folder/adapter that changes what it says."""
    peft = pytest.importorskip("peft")
    tiny_causal.save_generator(folder / "base")
    model, words = load_generator(str(folder / "base"))
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(folder / "adapter")
    words.save_pretrained(folder / "adapter")
    path = folder / "adapter/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        return adapted.eval()(ids).logits, model, ids


def test_its_base_may_stand_beside_it_and_is_merged(tmp_path):
    expected, _, ids = save_adapter(tmp_path, "../base")
    loaded, _ = load_generator(str(tmp_path / "adapter"))
    assert not any("lora" in name for name in loaded.state_dict())
    with torch.no_grad():
        found = loaded(ids).logits
    plain, _ = load_generator(str(tmp_path / "base"))
    with torch.no_grad():
        before = plain(ids).logits
    assert found == pytest.approx(expected, abs=1e-5)
    assert (found - before).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("base", "error", "message"),
    [
        (None, ValueError, r'"base_model_name_or_path" must name the model .* found null'),
        ("./nowhere", FileNotFoundError, r"nowhere: no such folder"),
    ],
)
def test_a_base_that_is_not_there_is_named(tmp_path, base, error, message):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    with pytest.raises(error, match=message):
        base_of(str(tmp_path))


def test_without_peft_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"is an adapter, which needs peft.*rag-finetune\[peft\]"):
        load_adapted(str(tmp_path))
