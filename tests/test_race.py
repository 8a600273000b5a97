"""A race of candidates, by hand, and in decoding against scoring all of them to the end."""

from types import SimpleNamespace

import pytest
import torch
from test_decoding import contexts_of
from trained_rag import trained_rag
from transformers import BartConfig, BartForConditionalGeneration

from rag_finetune.rag import decoding, race, scoring
from rag_finetune.rag.decoding import decode
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


@pytest.mark.parametrize("kind", ["bart", "t5"])
@pytest.mark.parametrize("options", [{}, {"thorough": False}, {"num_beams": 3}])
@pytest.mark.parametrize("chunk", [scoring.LOGITS_PER_CHUNK, 300])
def test_the_best_answer_is_that_of_scoring_all(monkeypatch, kind, options, chunk):
    monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", chunk)
    monkeypatch.setattr(race, "LOST_BY", 12.0)  # these candidates are short
    rag = trained_rag(kind, "rag_sequence")
    contexts = contexts_of(rag, 24)
    counted = []
    plain, step = scoring.sequence_log_probs, rag.model.rag.generator.register_forward_pre_hook

    def without_a_race(*args):
        return plain(*args[:-1], None)

    def run():
        counted.append(0)
        hook = step(
            lambda *call: counted.append(counted.pop() + len(call[2]["decoder_input_ids"])),
            with_kwargs=True,
        )
        try:
            return decode(rag.model, contexts, max_new_tokens=7, **options)
        finally:
            hook.remove()

    found = run()
    monkeypatch.setattr(decoding, "sequence_log_probs", without_a_race)
    expected = run()
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.posteriors, expected.posteriors, rtol=1e-4, atol=1e-4)
    if options.get("thorough", True):
        assert counted[0] < counted[1]


def untrained(seed: int, std: float) -> SimpleNamespace:
    """A RAG model's generator with random weights, the surer of itself the larger their spread."""
    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        init_std=std,
    )
    generator = BartForConditionalGeneration(config).eval()
    config = SimpleNamespace(generator=config, bos_token_id=config.bos_token_id)
    return SimpleNamespace(rag=SimpleNamespace(generator=generator), config=config)


def random_contexts(seed: int, spread: float) -> Contexts:
    """Four passages for each of four questions, their scores as far apart as asked."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 40, (16, 12), generator=draw)
    return Contexts(ids, torch.ones_like(ids), torch.randn(4, 4, generator=draw) * spread)


@pytest.mark.parametrize("std", [0.3, 1.0])
@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("options", [{}, {"forced_bos_token_id": 0}], ids=str)
def test_a_narrow_bound_leaves_the_best_answer_of_random_weights(monkeypatch, std, spread, options):
    monkeypatch.setattr(race, "LOST_BY", 2.0)  # whatever is wrong by a token shows
    plain = scoring.sequence_log_probs
    for seed in range(3):
        found = {}
        for name, score in {
            "race": plain,
            "all": lambda *args: plain(*args[:-1], None),
        }.items():
            monkeypatch.setattr(decoding, "sequence_log_probs", score)
            model, contexts = untrained(seed, std), random_contexts(seed, spread)
            found[name] = decode(model, contexts, max_new_tokens=20, num_beams=3, **options)
        # What falls 2 nats behind may add to the winner's score, but not win.
        assert torch.equal(found["race"].sequences, found["all"].sequences)


@pytest.mark.parametrize("options", [{}, {"forced_bos_token_id": 0}], ids=str)
def test_what_is_not_a_number_is_not_taken_for_certain(options):
    model, contexts = untrained(0, 0.3), random_contexts(0, 1.0)
    contexts.states = scoring.encode_contexts(model.rag.generator, contexts).clone()
    contexts.states[0] = torch.nan  # as where half precision overflows
    decoded = decode(model, contexts, max_new_tokens=8, **options)
    assert decoded.scores.isnan().tolist() == [True, False, False, False]


def test_a_forced_token_that_cannot_be_does_not_count(monkeypatch):
    model, contexts = untrained(0, 0.3), random_contexts(0, 1.0)
    model.rag.generator.final_logits_bias[0, 0] = -torch.inf
    options = {"forced_bos_token_id": 0, "max_new_tokens": 8, "num_beams": 2}
    found = decode(model, contexts, **options)
    plain = scoring.sequence_log_probs
    monkeypatch.setattr(decoding, "sequence_log_probs", lambda *args: plain(*args[:-1], None))
    expected = decode(model, contexts, **options)
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-5)
    assert (found.scores < -1).all()


def test_several_answers_are_all_scored_to_the_end(monkeypatch):
    rag = trained_rag("bart", "rag_sequence")
    seen = []
    plain = decoding.sequence_log_probs
    monkeypatch.setattr(
        decoding, "sequence_log_probs", lambda *args: (seen.append(args[-1]), plain(*args))[1]
    )
    decode(rag.model, contexts_of(rag), num_return_sequences=2, max_new_tokens=7)
    decode(rag.model, contexts_of(rag), num_return_sequences=1, max_new_tokens=7)
    assert seen[0] is None and seen[1] is not None
