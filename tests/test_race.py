"""A race of candidates, by hand, and in decoding against scoring all of them to the end."""

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from rag_finetune.rag import decoding, race, scoring
from rag_finetune.rag.decoding import Decoded, decode
from rag_finetune.rag.race import LOST_BY, Race
from rag_finetune.rag.scoring import Contexts


def pairs(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


def test_a_pair_is_out_once_it_is_far_under_a_whole_one_of_its_question():
    one = Race(pairs(0, 0, 1), torch.tensor([-1.0, -0.5, -0.5]))
    one.add(pairs(0, 1, 2), torch.tensor([-1.0, -LOST_BY - 1, -90.0]), torch.tensor([False] * 3))
    assert one.is_open(pairs(0, 1, 2)).all()  # nothing is whole yet
    one.add(pairs(0), torch.tensor([-0.25]), torch.tensor([True]))
    assert one.is_open(pairs(0, 1, 2)).tolist() == [True, True, True]
    one.add(pairs(1), torch.tensor([-1.0]), torch.tensor([False]))
    assert one.is_open(pairs(0, 1, 2)).tolist() == [True, False, True]  # question 1 has its own


def test_blocks_share_the_bound():
    whole = Race(pairs(0, 1, 0), torch.zeros(3))
    first, second = whole.of(pairs(0, 1)), whole.of(pairs(2))
    first.add(pairs(0), torch.tensor([-1.0]), torch.tensor([True]))
    second.add(pairs(0), torch.tensor([-LOST_BY - 2]), torch.tensor([False]))
    assert not second.is_open(pairs(0)).item()
    assert first.is_open(pairs(1)).item()


def untrained(kind: str, seed: int, spread: float) -> SimpleNamespace:
    """A RAG model's generator with random weights, the surer of itself the larger their spread."""
    torch.manual_seed(seed)
    size = {"vocab_size": 40, "d_model": 16}
    if kind == "bart":
        sizes = "encoder_layers decoder_layers encoder_ffn_dim decoder_ffn_dim".split()
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        layers = dict(zip(sizes, (1, 1, 32, 32), strict=True))
        config = BartConfig(**size, **layers, **heads, init_std=spread, max_position_embeddings=64)
        generator = BartForConditionalGeneration(config).eval()
    else:
        config = T5Config(
            **size,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            initializer_factor=8 * spread,
            decoder_start_token_id=0,
            bos_token_id=None,
            tie_word_embeddings=False,
        )
        generator = T5ForConditionalGeneration(config).eval()
    whole = SimpleNamespace(generator=config, bos_token_id=config.bos_token_id)
    return SimpleNamespace(rag=SimpleNamespace(generator=generator), config=whole)


def random_contexts(seed: int, spread: float) -> Contexts:
    """Four passages for each of four questions, their scores as far apart as asked."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 40, (16, 12), generator=draw)
    return Contexts(ids, torch.ones_like(ids), torch.randn(4, 4, generator=draw) * spread)


def decode_both(monkeypatch, model, contexts, **options) -> list[tuple[Decoded, int]]:
    """With the race and without: what comes out, and how many tokens the decoder read."""
    plain = scoring.sequence_log_probs

    def counted(score) -> tuple[Decoded, int]:
        read = []
        monkeypatch.setattr(decoding, "sequence_log_probs", score)
        hook = model.rag.generator.register_forward_pre_hook(
            lambda *call: read.append(len(call[2]["decoder_input_ids"])), with_kwargs=True
        )
        try:
            return decode(model, contexts, **options), sum(read)
        finally:
            hook.remove()

    return [counted(plain), counted(lambda *args: plain(*args[:-1], None))]


@pytest.mark.parametrize("kind", ["bart", "t5"])
@pytest.mark.parametrize("options", [{}, {"thorough": False}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize("chunk", [scoring.LOGITS_PER_CHUNK, 300])
def test_the_best_answer_is_that_of_scoring_all(monkeypatch, kind, options, chunk):
    monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", chunk)
    monkeypatch.setattr(race, "LOST_BY", 12.0)  # these candidates are short
    model, contexts = untrained(kind, 1, 1.0), random_contexts(1, 10.0)
    if kind == "bart":  # answers of different lengths: one is whole before others
        model.rag.generator.final_logits_bias[0, model.config.generator.eos_token_id] = 4.0
    (found, read), (expected, read_all) = decode_both(
        monkeypatch, model, contexts, max_new_tokens=12, **options
    )
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.posteriors, expected.posteriors, rtol=1e-4, atol=1e-4)
    assert read < read_all or not options.get("thorough", True)


@pytest.mark.parametrize("std", [0.3, 1.0])
@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("options", [{}, {"forced_bos_token_id": 0}], ids=str)
def test_a_narrow_bound_leaves_the_best_answer_of_random_weights(monkeypatch, std, spread, options):
    monkeypatch.setattr(race, "LOST_BY", 2.0)  # whatever is wrong by a token shows
    options |= {"max_new_tokens": 20, "num_beams": 3}
    for seed in range(3):
        model, contexts = untrained("bart", seed, std), random_contexts(seed, spread)
        (found, _), (expected, _) = decode_both(monkeypatch, model, contexts, **options)
        # What falls 2 nats behind may add to the winner's score, but not win.
        assert torch.equal(found.sequences, expected.sequences)


@pytest.mark.parametrize("options", [{}, {"forced_bos_token_id": 0}], ids=str)
def test_what_is_not_a_number_is_not_taken_for_certain(options):
    model, contexts = untrained("bart", 0, 0.3), random_contexts(0, 1.0)
    contexts.states = scoring.encode_contexts(model.rag.generator, contexts).clone()
    contexts.states[0] = torch.nan  # as where half precision overflows
    decoded = decode(model, contexts, max_new_tokens=8, **options)
    assert decoded.scores.isnan().tolist() == [True, False, False, False]


def test_a_forced_token_that_cannot_be_does_not_count(monkeypatch):
    model, contexts = untrained("bart", 0, 0.3), random_contexts(0, 1.0)
    model.rag.generator.final_logits_bias[0, 0] = -torch.inf
    options = {"forced_bos_token_id": 0, "max_new_tokens": 8, "num_beams": 2}
    (found, _), (expected, _) = decode_both(monkeypatch, model, contexts, **options)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
    assert (found.scores < -1).all()


def test_several_answers_are_all_scored_to_the_end(monkeypatch):
    model, contexts = untrained("bart", 0, 0.3), random_contexts(0, 1.0)
    seen, plain = [], decoding.sequence_log_probs
    monkeypatch.setattr(
        decoding, "sequence_log_probs", lambda *args: (seen.append(args[-1]), plain(*args))[1]
    )
    decode(model, contexts, num_return_sequences=2, max_new_tokens=7)
    decode(model, contexts, num_return_sequences=1, max_new_tokens=7)
    assert seen[0] is None and seen[1] is not None
