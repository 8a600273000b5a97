import dataclasses
import threading

import numpy as np
import pytest
import tiny_rag
import torch
from transformers import DPRConfig, DPRContextEncoder

from rag_finetune.encoders import encode
from rag_finetune.encoders.dpr import encoder_of
from rag_finetune.encoders.encode import (
    best_dtype,
    encode_block,
    evaluation_mode,
    read_ahead,
    tokenize_block,
)
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


def test_the_last_layer_is_asked_for_the_first_token_alone(encoder):
    shapes = []
    last = encoder_of(encoder.model).bert_model.encoder.layer[-1]
    last.output.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    encoder.encode(TEXTS)
    assert shapes == [(len(TEXTS), 1, 16)]


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
def test_batches_hold_every_row_once_and_stay_within_the_budget(lengths):
    batches = list(encode.length_batches(lengths, 64))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 64


@pytest.mark.parametrize(
    ("width", "device", "tokens"),
    [(768, "cpu", 1024), (1024, "cpu", 768), (16, "cpu", 16_384), (768, "meta", 16_384)],
)
def test_a_processor_gets_batches_whose_states_it_need_not_ask_the_system_for(
    width, device, tokens
):
    config = DPRConfig(vocab_size=8, hidden_size=width, num_attention_heads=1, num_hidden_layers=1)
    with torch.device("meta"):
        model = DPRContextEncoder(config)
    if device == "cpu":
        model.to_empty(device="cpu")
    assert encode.tokens_per_batch(model) == tokens


def test_batches_of_a_processor_are_within_that_and_their_vectors_as_before(encoder, monkeypatch):
    expected = encoder.encode(TEXTS, TITLES)
    monkeypatch.setattr(encode, "CPU_NUMBERS_PER_BATCH", 100 * 16)
    shapes, forward = [], encoder.model.forward

    def watched(**batch):
        shapes.append(batch["input_ids"].numel())
        return forward(**batch)

    monkeypatch.setattr(encoder.model, "forward", watched)
    np.testing.assert_allclose(encoder.encode(TEXTS, TITLES), expected, rtol=1e-5, atol=1e-5)
    assert len(shapes) > 2
    assert max(shapes) <= 100


def test_a_batch_that_is_large_enough_takes_no_text_that_is_much_shorter(monkeypatch):
    monkeypatch.setattr(encode, "ENOUGH_TOKENS", 32)
    lengths = [16, 3, 15, 14, 13, 2, 3]
    assert list(encode.length_batches(lengths)) == [[0, 2, 3], [4, 1, 6], [5]]


def test_a_block_gives_its_vectors_and_the_rows_that_are_too_long(encoder):
    advanced = []
    vectors, reached = encode_block(encoder, TEXTS, TITLES, advance=advanced.append)
    np.testing.assert_allclose(vectors, one_by_one(encoder), rtol=1e-5, atol=1e-5)
    assert reached == [21]  # "old red . " thirty times
    assert sum(advanced) == len(TEXTS)


def test_a_text_with_no_room_for_its_words_counts_as_too_long(encoder):
    narrow = dataclasses.replace(encoder, max_length=1)
    assert encode_block(narrow, ["old red", "green"], ["red", ""])[1] == [0, 1]


def test_a_block_does_not_depend_on_what_was_encoded_before(encoder):
    first, _ = encode_block(encoder, TEXTS[:10], TITLES[:10])
    encode_block(encoder, TEXTS[10:], TITLES[10:])
    assert np.array_equal(encode_block(encoder, TEXTS[:10], TITLES[:10])[0], first)
    assert np.array_equal(encoder.encode(TEXTS[:10], TITLES[:10]), first)


def test_bfloat16_is_near_float32_and_leaves_the_weights_as_they_are(encoder):
    before = encoder.fingerprint()
    exact, _ = encode_block(encoder, TEXTS, TITLES)
    rounded, _ = encode_block(encoder, TEXTS, TITLES, dtype="bfloat16")
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1
    assert encoder.fingerprint() == before
    assert np.array_equal(encode_block(encoder, TEXTS, TITLES)[0], exact)


def test_known_token_ids_are_not_made_again(encoder, monkeypatch):
    expected, _ = encode_block(encoder, TEXTS, TITLES)
    token_ids = tokenize_block(encoder, TEXTS, TITLES)
    monkeypatch.setattr(type(encoder), "tokenize", None)
    assert np.array_equal(encode_block(encoder, TEXTS, token_ids=token_ids)[0], expected)


def test_the_next_is_read_while_one_is_worked_on_and_no_more_than_that():
    began = [threading.Event() for _ in range(4)]

    def read(number: int) -> int:
        began[number].set()
        return number * 10

    found = []
    for number, value in enumerate(read_ahead(range(4), read)):
        found.append(value)
        assert number == 3 or began[number + 1].wait(10)
        assert not any(event.is_set() for event in began[number + 2 :])
    assert found == [0, 10, 20, 30]
    assert list(read_ahead([], read)) == []


def test_an_error_of_reading_ahead_is_raised_in_its_place():
    found = []
    with pytest.raises(ZeroDivisionError):
        for value in read_ahead([1, 2, 0], lambda number: 2 // number):
            found.append(value)
    assert found == [2, 1]


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "expected"),
    [(True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")],
)
def test_bfloat16_is_best_where_the_processor_has_units_for_it(
    monkeypatch, amx, avx512_bf16, expected
):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert best_dtype("cpu") == expected
    assert best_dtype(torch.device("meta")) == "float32"
