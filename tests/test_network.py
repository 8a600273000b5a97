import json
from functools import partial
from pathlib import Path

import pytest
import tiny_encoders
import tiny_rag
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2Model, T5Config, T5Model

from rag_finetune.encoders.conventions import Convention
from rag_finetune.encoders.load import load_question_encoder
from rag_finetune.encoders.network import (
    QUESTION_ENCODER,
    load_config,
    load_network,
    load_tokenizer,
    usable_positions,
)
from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import load_rag


@pytest.mark.parametrize(
    ("family", "expected"),
    [("bert", 66), ("roberta", 64), ("xlm-roberta", 64), ("mpnet", 64), ("modernbert", 66)],
)
def test_positions_that_padding_takes_are_not_usable(family, expected):
    assert usable_positions(tiny_encoders.network(family)) == expected


@pytest.mark.parametrize("damage", ["truncate", "reshape"])
def test_weights_that_cannot_be_read_are_an_error_that_names_their_folder(tmp_path, damage):
    parts = tiny_rag.save_parts(tmp_path / "parts")
    bare = tiny_encoders.save_bare(tmp_path / "bare")
    assemble = partial(assemble_rag, bare, max_combined_length=40, pooling="mean")
    rag = str(assemble(parts["generator"], tmp_path / "rag"))
    loads = {
        rag: partial(load_rag, with_index=False),
        parts["generator"]: partial(assemble, output_dir=tmp_path / "other"),
        parts["question_encoder"]: load_question_encoder,
        bare: partial(load_question_encoder, pooling="mean"),
    }
    for folder, load in loads.items():
        weights = Path(folder) / "model.safetensors"
        if damage == "truncate":
            weights.write_bytes(weights.read_bytes()[:200])
        else:
            tensors = {name: torch.zeros(3, 5) for name in load_file(weights)}
            save_file(tensors, weights, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"^{folder}: its weights are damaged or do not fit"):
            load(folder)


@pytest.mark.parametrize("family", tiny_encoders.FAMILIES)
def test_as_many_tokens_as_are_usable_go_in(family, tmp_path):
    name = tiny_encoders.save_bare(
        tmp_path, tiny_encoders.network(family, len(tiny_rag.word_tokenizer("bert")))
    )
    encoder = load_question_encoder(name, 5000, pooling="mean")
    assert encoder.max_length == encoder.model.config.max_position_embeddings
    assert encoder.encode(["red " * 200]).shape == (1, 16)


def test_no_path_of_this_machine_is_saved(tmp_path):
    name = tiny_encoders.save_bare(tmp_path / "here")
    model = load_network(name, "", QUESTION_ENCODER, Convention("mean", True), 0)
    model.save_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text(encoding="utf-8")


def test_weights_of_another_network_are_refused_and_a_missing_pooler_is_not(tmp_path):
    name = tiny_encoders.save_bare(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not key.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_question_encoder(name, pooling="mean").dimension == 16
    del kept["encoder.layer.1.output.dense.weight"]
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"not the weights of a question encoder: 1 .*layer\.1\.o"):
        load_question_encoder(name, pooling="mean")


def test_networks_that_generate_are_refused_with_the_reason(tmp_path):
    decoder = GPT2Model(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2))
    pair = T5Model(T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    for model, reason in (
        (decoder, '"gpt2", no encoder of text that reads in both directions'),
        (pair, '"t5", a sequence-to-sequence model'),
    ):
        folder = tmp_path / model.config.model_type
        with pytest.raises(ValueError, match=rf"expected a question encoder, found .*{reason}"):
            load_question_encoder(tiny_encoders.save_bare(folder, model))


def test_a_network_of_unknown_kind_is_refused_and_its_code_is_not_run(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "new"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r'Transformers has no model type "new". Choose another'):
        load_config(str(tmp_path))
    code = {"model_type": "new", "auto_map": {"AutoModel": "modeling.New"}}
    path.write_text(json.dumps(code), encoding="utf-8")
    (tmp_path / "modeling.py").write_text("raise SystemExit", encoding="utf-8")
    with pytest.raises(ValueError, match="It needs code of its own, which is not run"):
        load_config(str(tmp_path))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("notes", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"not the folder of a network, config.json is"):
        load_question_encoder(str(tmp_path))


# ---- Tokenizers ----


def test_where_there_is_no_tokenizer_none_is_made_up(tmp_path):
    name = tiny_encoders.save_bare(tmp_path / "bert")
    parts = tiny_rag.save_parts(tmp_path / "parts")
    for folder in (Path(name), *map(Path, parts.values())):
        for file in folder.glob("tokenizer*"):
            file.unlink()
        with pytest.raises(ValueError, match=rf"{folder.name}: no tokenizer that can be loaded"):
            load_tokenizer(str(folder))


def test_the_tokenizer_of_another_network_is_refused(tmp_path):
    name = tiny_encoders.save_bare(tmp_path / "bert", tiny_encoders.bert(vocab_size=30))
    tokens = len(tiny_rag.word_tokenizer("bert"))
    with pytest.raises(ValueError, match=f"does not belong to the network: {tokens} tokens .* 30"):
        load_question_encoder(name, pooling="mean")


def test_a_damaged_tokenizer_is_named(tmp_path):
    name = tiny_encoders.save_bare(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = path.read_text(encoding="utf-8")
    for damaged in ("{}", whole[: len(whole) // 2], whole.replace('"WordLevel"', '"Word"'), ""):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(ValueError, match="no tokenizer that can be loaded"):
            load_tokenizer(name)
