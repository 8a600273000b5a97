import json
from pathlib import Path

import numpy as np
import pytest
import tiny_rag
import torch
from tokenizers import Tokenizer, processors
from transformers import (
    DPRContextEncoder,
    DPRContextEncoderTokenizerFast,
    DPRQuestionEncoder,
    PreTrainedTokenizerFast,
)

from rag_finetune.encoders import encode
from rag_finetune.encoders.encode import (
    TextEncoder,
    evaluation_mode,
    load_context_encoder,
    load_question_encoder,
    require_source,
)

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


def one_by_one(encoder: TextEncoder) -> np.ndarray:
    """Vectors as Transformers gives them, a text at a time."""
    vectors = []
    for title, text in zip(TITLES, TEXTS, strict=True):
        pair = (title, text) if title else (text,)
        tokens = encoder.tokenizer(*pair, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            vectors.append(encoder.model(**tokens).pooler_output[0].numpy())
    return np.stack(vectors)


@pytest.mark.parametrize(("tokens", "texts"), [(16_384, 8_192), (100, 5), (1, 1), (64 * 3, 7)])
def test_any_batching_equals_one_text_at_a_time(encoder, monkeypatch, tokens, texts):
    monkeypatch.setattr(encode, "TOKENS_PER_BATCH", tokens)
    monkeypatch.setattr(encode, "TEXTS_PER_BLOCK", texts)
    vectors = encoder.encode(TEXTS, TITLES)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, one_by_one(encoder), rtol=1e-5, atol=1e-5)
    assert np.ptp(vectors, axis=0).min() > 0.1  # one text's vector is not another's


def test_two_encodings_are_bit_equal(encoder):
    first = encoder.encode(TEXTS, TITLES)
    assert np.array_equal(first, encoder.encode(TEXTS, TITLES))


def test_dropout_is_off_also_for_a_model_left_in_train_mode(encoder):
    expected = encoder.encode(TEXTS, TITLES)
    encoder.model.train()
    assert np.array_equal(expected, encoder.encode(TEXTS, TITLES))
    assert encoder.model.training
    encoder.model.eval()
    encoder.encode(TEXTS)
    assert not encoder.model.training


def test_evaluation_mode_leaves_each_part_as_it_was_also_after_an_error():
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    network[0].eval()
    with pytest.raises(KeyboardInterrupt), evaluation_mode(network):
        assert not any(module.training for module in network.modules())
        raise KeyboardInterrupt
    assert [module.training for module in network.modules()] == [True, False, True]


def test_title_counts_and_no_title_is_the_text_alone(encoder):
    titled = encoder.encode(["the house is red"], ["house of ada"])
    plain = encoder.encode(["the house is red"])
    assert not np.allclose(titled, plain)
    assert np.array_equal(plain, encoder.encode(["the house is red"], [""]))


def test_nothing_to_encode_gives_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 16)


@pytest.mark.parametrize("lengths", [[], [5], [1] * 50, [70, 3, 3, 90, 1], list(range(1, 40))])
def test_batches_hold_every_row_once_and_stay_within_the_budget(monkeypatch, lengths):
    monkeypatch.setattr(encode, "TOKENS_PER_BATCH", 64)
    batches = list(encode._batches(lengths))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 64


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


# ---- Loading ----


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
