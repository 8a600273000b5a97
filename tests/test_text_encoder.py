import json

import numpy as np
import pytest
import tiny_rag
import torch
from tokenizers import Tokenizer, processors
from transformers import (
    DPRContextEncoder,
    DPRContextEncoderTokenizerFast,
    PreTrainedTokenizerFast,
)

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.encoders.pooled import PooledEncoder, PooledEncoderConfig
from rag_finetune.encoders.prefix import with_prefix
from rag_finetune.encoders.text_encoder import TextEncoder

FACTS = tiny_rag.facts()
TEXTS = [fact["text"] for fact in FACTS] + ["red", "old red . " * 30]
TITLES = [fact["title"] if row % 3 else "" for row, fact in enumerate(FACTS)] + ["oslo", "rome"]


@pytest.fixture
def encoder() -> TextEncoder:
    """An encoder whose vectors differ from text to text."""
    encoder = tiny_rag.context_encoder()
    for parameter in encoder.model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return encoder


def test_a_projection_gives_the_dimension():
    model = DPRContextEncoder(tiny_rag.dpr_config())
    assert TextEncoder(model, tiny_rag.word_tokenizer("bert"), 64).dimension == 16
    config = tiny_rag.dpr_config()
    config.projection_dim = 8
    projected = TextEncoder(DPRContextEncoder(config), tiny_rag.word_tokenizer("bert"), 64)
    assert projected.dimension == 8
    assert projected.encode(["red"]).shape == (1, 8)


# ---- The fingerprint ----


def test_fingerprint_survives_use_saving_and_loading(encoder, tmp_path):
    fingerprint = encoder.fingerprint()
    encoder.save(tmp_path / "saved")
    encoder.tokenizer(["red", "old red"], truncation=True, max_length=3, padding=True)
    encoder.encode(TEXTS, TITLES)
    encoder.model.train()
    assert encoder.fingerprint() == fingerprint
    encoder.save(tmp_path / "saved_after_use")
    for name in ("saved", "saved_after_use"):
        loaded = load_context_encoder(str(tmp_path / name), max_length=64)
        assert loaded.fingerprint() == fingerprint
        assert np.array_equal(loaded.encode(TEXTS, TITLES), encoder.encode(TEXTS, TITLES))


def test_fingerprint_survives_with_the_tokenizer_of_dpr(tmp_path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: row for row, word in enumerate([*special, *dict.fromkeys(tiny_rag.WORDS)])}
    tokenizer = DPRContextEncoderTokenizerFast(vocab=vocabulary)
    config = tiny_rag.dpr_config()
    config.vocab_size = len(vocabulary)
    encoder = TextEncoder(DPRContextEncoder(config), tokenizer, max_length=64)
    encoder.save(tmp_path)
    assert load_context_encoder(str(tmp_path), 64).fingerprint() == encoder.fingerprint()
    # As on the Hub: words in vocab.txt, one a line.
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    assert load_context_encoder(str(tmp_path), 64).fingerprint() == encoder.fingerprint()


def test_fingerprint_changes_with_one_weight(encoder):
    fingerprint = encoder.fingerprint()
    weight = next(encoder.model.parameters())
    with torch.no_grad():
        before = weight.view(-1)[3].item()
        weight.view(-1)[3] = float(np.nextafter(np.float32(before), np.float32(2)))
        assert encoder.fingerprint() != fingerprint
        weight.view(-1)[3] = before
    assert encoder.fingerprint() == fingerprint


def test_fingerprint_changes_with_the_type_of_the_weights(encoder):
    fingerprint = encoder.fingerprint()
    assert TextEncoder(encoder.model.bfloat16(), encoder.tokenizer, 64).fingerprint() != fingerprint


def test_fingerprint_changes_with_tokenizer_and_max_length(encoder):
    fingerprint = encoder.fingerprint()
    assert TextEncoder(encoder.model, encoder.tokenizer, 63).fingerprint() != fingerprint
    other = tiny_rag.word_tokenizer("bert")
    other.add_tokens(["tokyo"])
    assert TextEncoder(encoder.model, other, 64).fingerprint() != fingerprint
    swapped = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    vocabulary = swapped["model"]["vocab"]
    vocabulary["red"], vocabulary["blue"] = vocabulary["blue"], vocabulary["red"]
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(swapped)))
    assert TextEncoder(encoder.model, other, 64).fingerprint() != fingerprint


def test_fingerprint_changes_with_the_template_of_special_tokens(encoder):
    other = tiny_rag.word_tokenizer("bert")
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    changed = TextEncoder(encoder.model, other, 64)
    assert changed.fingerprint() != encoder.fingerprint()


def test_fingerprint_does_not_depend_on_name_and_place(encoder):
    named = TextEncoder(encoder.model, encoder.tokenizer, 64, name="org/model", revision="abc")
    assert named.fingerprint() == encoder.fingerprint()


def test_tokenizer_without_fast_implementation_is_refused(encoder):
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow has no fast implementation"):
        TextEncoder(encoder.model, Slow(), 64).fingerprint()


def test_saved_weights_may_be_read_by_whoever_may_read_the_configuration(encoder, tmp_path):
    encoder.save(tmp_path)
    modes = {
        name: (tmp_path / name).stat().st_mode for name in ("config.json", "model.safetensors")
    }
    assert modes["model.safetensors"] == modes["config.json"]


# ---- Title and text ----


def pooled(encoder: TextEncoder, prefix: str = "") -> TextEncoder:
    config = PooledEncoderConfig(inner=encoder.model.ctx_encoder.bert_model.config.to_dict())
    return TextEncoder(PooledEncoder(config), with_prefix(encoder.tokenizer, prefix), 64)


def words_of(encoder: TextEncoder, texts: list[str], titles: list[str]) -> list[str]:
    rows = encoder.tokenize(texts, titles)
    return [" ".join(encoder.tokenizer.convert_ids_to_tokens(row["input_ids"])) for row in rows]


def test_a_pair_for_dpr_and_one_text_for_any_other(encoder):
    texts, titles = ["old red .", "blue"], ["house", ""]
    assert words_of(encoder, texts, titles) == [
        "[CLS] house [SEP] old red . [SEP]",
        "[CLS] blue [SEP]",
    ]
    assert words_of(pooled(encoder), texts, titles) == [
        "[CLS] house old red . [SEP]",
        "[CLS] blue [SEP]",
    ]
    assert encoder.settings()["template"] != pooled(encoder).settings()["template"]


def test_a_prefix_stands_once_in_front(encoder):
    texts, titles = ["old red .", "blue"], ["house", ""]
    prefixed = TextEncoder(encoder.model, with_prefix(encoder.tokenizer, "who is "), 64)
    assert words_of(prefixed, texts, titles) == [
        "[CLS] who is house [SEP] old red . [SEP]",
        "[CLS] who is blue [SEP]",
    ]
    assert words_of(pooled(encoder, "who is "), texts, titles) == [
        "[CLS] who is house old red . [SEP]",
        "[CLS] who is blue [SEP]",
    ]
    assert prefixed.settings()["prefix"] == "who is "
    assert prefixed.fingerprint() != encoder.fingerprint()


def test_text_is_cut_and_the_prefix_stays(encoder):
    prefixed = pooled(encoder, "who is ")
    prefixed.max_length = 6
    assert words_of(prefixed, ["old red blue green"], ["house"]) == ["[CLS] who is house old [SEP]"]
