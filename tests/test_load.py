import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders
import tiny_rag
import torch
from tokenizers import normalizers
from transformers import AutoTokenizer, BertModel, DPRContextEncoder, DPRQuestionEncoder

from rag_finetune.encoders.dpr import scale_vectors
from rag_finetune.encoders.load import load_context_encoder, load_question_encoder, require_source
from rag_finetune.encoders.network import load_config
from rag_finetune.encoders.pooled import PooledEncoder
from rag_finetune.encoders.prefix import prefix_of

FACTS = tiny_rag.facts()
TEXTS = [*(fact["text"] for fact in FACTS[:6]), "red"]
TITLES = [*(fact["title"] for fact in FACTS[:5]), "", ""]
JOINED = [f"{title} {text}".strip() for title, text in zip(TITLES, TEXTS, strict=True)]


@pytest.fixture
def parts(tmp_path) -> dict[str, str]:
    return tiny_rag.save_parts(tmp_path / "parts")


def test_the_other_encoder_of_the_pair_is_refused(parts):
    with pytest.raises(ValueError, match=r"not the weights of a context encoder.*other encoder"):
        load_context_encoder(parts["question_encoder"])
    with pytest.raises(ValueError, match=r"not the weights of a question encoder.*other encoder"):
        load_question_encoder(parts["context_encoder"])


def test_another_kind_of_network_is_refused(parts):
    with pytest.raises(ValueError, match='expected a question encoder, found model type "bart"'):
        load_question_encoder(parts["generator"])


def test_a_name_that_the_hub_does_not_give_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for load in (load_context_encoder, load_config):
        with pytest.raises(OSError, match="nobody/here: no such folder, nor to be had of the Hub"):
            load("nobody/here")
    (tmp_path / "runs").mkdir()
    with pytest.raises(
        OSError, match=r"runs/other: no such folder \(runs is one, without it\), nor"
    ):
        load_config("runs/other")
    with pytest.raises(OSError, match=r"plain: no such folder, nor"):
        load_config("plain")
    with pytest.raises(FileNotFoundError, match=r"^runs/a/b: no such folder\.$"):
        require_source("runs/a/b")


def test_a_file_is_not_taken_for_a_misspelt_folder(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(NotADirectoryError, match=r"model\.bin: expected a folder or a Hub name"):
        require_source(tmp_path / "model.bin")


def test_a_tokenizer_that_pads_on_the_left_is_turned_round(tmp_path):
    folder = tiny_encoders.save_bare(tmp_path / "bare")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"
    encoder = load_context_encoder(folder, pooling="cls", normalize=True)
    apart = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), apart, rtol=1e-4, atol=1e-5)


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


# ---- Encoders that are not DPR's ----


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_of_a_sentence_folder_are_those_computed_apart(tmp_path, pooling, normalize):
    name = tiny_encoders.save_sentence_folder(tmp_path, pooling=pooling, normalize=normalize)
    expected = tiny_encoders.reference(
        BertModel.from_pretrained(name), JOINED, pooling=pooling, normalize=normalize
    )
    is_dpr = pooling == "cls" and not normalize
    titles = [""] * len(JOINED) if is_dpr else TITLES  # DPR reads title and text as a pair
    encoder = load_context_encoder(name)
    found = encoder.encode(JOINED if is_dpr else TEXTS, titles)
    assert np.abs(found - expected.numpy()).max() < 1e-6 * np.abs(expected.numpy()).max()
    assert type(encoder.model) is (DPRContextEncoder if is_dpr else PooledEncoder)
    assert encoder.max_length == 32  # what sentence_bert_config.json says
    assert not encoder.model.training


@pytest.mark.parametrize("prefix", ["", "old red "])
@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False)])
def test_fingerprint_and_vectors_survive_saving_as_our_own(tmp_path, pooling, normalize, prefix):
    settings = {"prompts": {"query": "who ", "document": prefix}}
    name = tiny_encoders.save_sentence_folder(
        tmp_path / "source", pooling=pooling, normalize=normalize, settings=settings
    )
    encoder = load_context_encoder(name)
    vectors = encoder.encode(TEXTS, TITLES)
    encoder.save(tmp_path / "saved")
    with warnings.catch_warnings(action="error"):  # nothing is guessed any more
        loaded = load_context_encoder(str(tmp_path / "saved"))
    assert loaded.settings() == encoder.settings()
    assert loaded.settings()["prefix"] == prefix
    assert loaded.fingerprint() == encoder.fingerprint()
    assert np.array_equal(loaded.encode(TEXTS, TITLES), vectors)
    loaded.save(tmp_path / "again")
    assert load_context_encoder(str(tmp_path / "again")).fingerprint() == encoder.fingerprint()


def test_fingerprint_changes_with_all_that_changes_a_vector(tmp_path):
    name = tiny_encoders.save_sentence_folder(tmp_path)
    options = [
        {},
        {"pooling": "cls"},
        {"normalize": False},
        {"prefix": "old "},
        {"prefix": "red "},
        {"max_length": 9},
        {"pooling": "cls", "normalize": False},
    ]
    found = [load_context_encoder(name, **chosen).fingerprint() for chosen in options]
    scaled = load_context_encoder(name)
    scale_vectors(scaled.model, 2.0)
    assert len({*found, scaled.fingerprint()}) == len(options) + 1
    assert load_context_encoder(name).fingerprint() == found[0]


def test_prefixes_reach_each_side_once(tmp_path):
    settings = {"prompts": {"query": "who lives in ", "document": "the dog "}}
    name = tiny_encoders.save_sentence_folder(tmp_path, settings=settings)
    bert = BertModel.from_pretrained(name)
    for load, prefix in (
        (load_question_encoder, "who lives in "),
        (load_context_encoder, "the dog "),
    ):
        encoder = load(name)
        texts = [prefix + text for text in JOINED]
        expected = tiny_encoders.reference(bert, texts, pooling="mean", normalize=True)
        assert np.allclose(encoder.encode(TEXTS, TITLES), expected.numpy(), atol=1e-6)
        assert load(name, prefix="").settings()["prefix"] == ""
        assert load(name, prefix="old ").settings()["prefix"] == "old "


def test_the_prefix_of_a_name_is_used_and_said(tmp_path):
    name = tiny_encoders.save_sentence_folder(tmp_path / "e5-small-v2")
    with pytest.warns(UserWarning, match='e5-small-v2: by its name .* prefix "query: "'):
        question = load_question_encoder(name)
    with pytest.warns(UserWarning, match='encoder of passages .* prefix "passage: "'):
        passage = load_context_encoder(name)
    assert prefix_of(question.tokenizer) == "query: "
    assert prefix_of(passage.tokenizer) == "passage: "


def test_a_bare_network_is_pooled_as_asked_or_by_the_mean_with_a_warning(tmp_path):
    name = tiny_encoders.save_bare(tmp_path)
    with pytest.warns(UserWarning, match="nothing says how its vectors are made, taking mean"):
        encoder = load_question_encoder(name)
    assert encoder.settings()["pooling"] == "mean"
    with warnings.catch_warnings(action="error"):
        stored = load_question_encoder(name, pooling="cls")
        assert type(stored.model) is DPRQuestionEncoder
        normalised = load_question_encoder(name, pooling="cls", normalize=True)
    assert normalised.settings()["normalisation"] == "l2"
    bert = BertModel.from_pretrained(name)
    expected = tiny_encoders.reference(bert, TEXTS[:1], pooling="cls", normalize=False)
    np.testing.assert_allclose(stored.encode(TEXTS[:1]), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match='pooling must be cls or mean, found "max"'):
        load_question_encoder(name, pooling="max")


def test_a_dpr_model_cannot_be_pooled_otherwise(parts):
    assert load_question_encoder(parts["question_encoder"], pooling="cls", normalize=False)
    for options in ({"pooling": "mean"}, {"normalize": True}):
        with pytest.raises(ValueError, match=r"is a DPR model: .* Leave --pooling"):
            load_question_encoder(parts["question_encoder"], **options)


def test_a_dpr_model_takes_a_prefix_once_also_in_front_of_a_pair(parts):
    plain = load_context_encoder(parts["context_encoder"])
    prefixed = load_context_encoder(parts["context_encoder"], prefix="the dog ")
    titles = [f"the dog {title}" if title else "" for title in TITLES]
    pairs = zip(TEXTS, TITLES, strict=True)
    texts = [text if title else f"the dog {text}" for text, title in pairs]
    assert prefixed.tokenize(TEXTS, TITLES) == plain.tokenize(texts, titles)
    assert prefixed.fingerprint() != plain.fingerprint()


def test_the_scale_of_questions_is_left_out_for_passages(tmp_path):
    encoder = load_question_encoder(tiny_encoders.save_sentence_folder(tmp_path / "source"))
    scale_vectors(encoder.model, 20.0)
    encoder.save(tmp_path / "saved")
    assert load_question_encoder(str(tmp_path / "saved")).settings()["scale"] == 20.0
    with pytest.warns(UserWarning, match="vectors of passages are not scaled; its scale 20"):
        passages = load_context_encoder(str(tmp_path / "saved"))
    assert np.linalg.norm(passages.encode(TEXTS), axis=1) == pytest.approx(1.0, abs=1e-6)


def test_a_sentence_folder_of_the_hub_is_read_file_by_file(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    settings = {"prompts": {"query": "who ", "document": "the "}}
    name = tiny_encoders.save_sentence_folder(
        tmp_path / "source", subfolder="0_Transformer", settings=settings
    )
    tiny_rag.publish(name, "org/encoder", tmp_path / "cache")
    encoder, local = load_context_encoder("org/encoder"), load_context_encoder(name)
    assert (encoder.name, encoder.revision, encoder.local) == (
        "org/encoder",
        tiny_rag.HUB_COMMIT,
        False,
    )
    assert encoder.fingerprint() == local.fingerprint()
    assert encoder.settings()["prefix"] == "the "


def test_max_length_of_the_tokenizer_is_kept_with_a_dpr_model(tmp_path):
    name = tiny_encoders.save_sentence_folder(
        tmp_path / "source", pooling="cls", normalize=False, max_seq_length=11
    )
    encoder = load_context_encoder(name, 5000)
    encoder.save(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").model_max_length == 11
    assert load_context_encoder(str(tmp_path / "saved"), 5000).max_length == 11
    config = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    assert config["max_position_embeddings"] == 66


def test_lower_casing_that_the_tokenizer_does_not_do_is_refused(tmp_path):
    name = tiny_encoders.save_sentence_folder(tmp_path)
    tokenizer = tiny_rag.word_tokenizer("bert")
    tokenizer.add_tokens(["A", "a"])
    tokenizer.save_pretrained(tmp_path)
    tiny_encoders.bert(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    sizes = {"max_seq_length": 32, "do_lower_case": True}
    tiny_encoders.write(tmp_path / "sentence_bert_config.json", sizes)
    with pytest.raises(ValueError, match="do_lower_case is true, and the tokenizer does not"):
        load_context_encoder(name)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save_pretrained(tmp_path)
    assert load_context_encoder(name).dimension == 16
