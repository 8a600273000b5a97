"""Answers of an ensemble follow the mixture of its prompts' predictions."""

import math

import pytest
import tiny_causal
import torch
from test_causal_model import asked
from transformers import GenerationConfig

from rag_finetune.rag.causal_decoding import WARPERS, Draw, Mixture, _warpers, settings_of
from rag_finetune.rag.decoding import decode

END = 1


@torch.no_grad()
def next_log_probs(rag, contexts, row, answer):
    """log p(y_t|x,z,y_<t) of every prompt of a question, a row at a time, shape (P, V)."""
    prompts = len(contexts.input_ids) // len(contexts.doc_scores)
    found = []
    for at in range(row * prompts, (row + 1) * prompts):
        ids = contexts.input_ids[at][contexts.attention_mask[at].bool()].tolist() + answer
        found.append(rag.model.generator(torch.tensor([ids])).logits[0, -1].log_softmax(-1))
    return torch.stack(found)


def brute_force(rag, contexts, row, length):
    """Greedy answer of the mixture, its log-likelihood and p(z|x,y), token by token."""
    prior = contexts.doc_scores[row].log_softmax(-1)
    answer, score, shares = [], 0.0, []
    while len(answer) < length and END not in answer:
        joint = prior.unsqueeze(-1) + next_log_probs(rag, contexts, row, answer)
        mixed = joint.exp().sum(0).log()
        token = int(mixed.argmax())
        score += mixed[token].item()
        shares.append(joint[:, token].softmax(-1))
        answer.append(token)
    return answer, score, torch.stack(shares).mean(0)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_greedy_answer_is_that_of_brute_force(tmp_path, kind):
    rag = tiny_causal.tiny_causal(tmp_path, kind, padding=kind == "llama")
    contexts, _ = asked(rag)
    contexts.doc_scores = contexts.doc_scores * 100
    contexts.doc_scores[1, 2] = -torch.inf  # a passage that was not found
    found = decode(rag.model, contexts, max_new_tokens=6)
    assert found.question_rows.tolist() == [0, 1]
    for row in range(2):
        answer, score, shares = brute_force(rag, contexts, row, 6)
        assert found.sequences[row, : len(answer)].tolist() == answer
        assert found.scores[row].item() == pytest.approx(score, abs=1e-4)
        assert found.posteriors[row].tolist() == pytest.approx(shares.tolist(), abs=1e-4)
    assert found.posteriors[1, 2] == 0


def test_the_mixture_matters(tmp_path):
    """Else the test before would pass for any one prompt's answer."""
    rag = tiny_causal.tiny_causal(tmp_path, "gpt2")
    contexts, _ = asked(rag)
    mixed = decode(rag.model, contexts, max_new_tokens=6).sequences[0].tolist()
    alone = []
    for place in range(3):
        only = torch.full_like(contexts.doc_scores, -torch.inf)
        only[:, place] = 0.0
        contexts.doc_scores = only
        alone.append(decode(rag.model, contexts, max_new_tokens=6).sequences[0].tolist())
    assert mixed not in alone


def test_beams_are_those_of_brute_force_over_two_tokens(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    contexts, _ = asked(rag)
    found = decode(
        rag.model, contexts, max_new_tokens=2, min_new_tokens=2, num_beams=3, num_return_sequences=3
    )
    prior = contexts.doc_scores[0].log_softmax(-1).unsqueeze(-1)

    def mixed(answer):
        each = next_log_probs(rag, contexts, 0, answer)
        each[:, END] = -math.inf
        return (prior + each.log_softmax(-1)).logsumexp(0)

    first = mixed([])
    beams = []
    for token in first.topk(3).indices.tolist():
        second = first[token] + mixed([token])
        beams += [(value, [token, other]) for other, value in enumerate(second.tolist())]
    best = [answer for _, answer in sorted(beams, reverse=True)[:3]]
    assert found.sequences[:3].tolist() == best


def test_draws_are_of_the_mixture_and_the_same_for_all_prompts(tmp_path):
    torch.manual_seed(0)
    scores = torch.tensor([[0.5, 0.3, 0.2]]).log().repeat(2, 1)
    counts = torch.zeros(3)
    for _ in range(2000):
        drawn = Draw(2)(None, scores).argmax(-1)
        assert drawn[0] == drawn[1]
        counts[drawn[0]] += 1
    assert (counts / 2000).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.04)


def test_sampled_answers_differ_are_ordered_and_hold_to_the_warpers(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    contexts, _ = asked(rag)
    torch.manual_seed(0)
    options = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": 4}
    found = decode(rag.model, contexts, **options)
    assert found.question_rows.tolist() == [0] * 4 + [1] * 4
    assert len(set(map(tuple, found.sequences[:4].tolist()))) > 1
    assert found.scores[:4].tolist() == sorted(found.scores[:4].tolist(), reverse=True)
    greedy = decode(rag.model, contexts, max_new_tokens=4)
    top = decode(rag.model, contexts, **options, top_k=1)
    assert top.sequences[::4].tolist() == greedy.sequences.tolist()
    likeliest = decode(rag.model, contexts, **options, min_p=1.0)
    assert likeliest.sequences[::4].tolist() == greedy.sequences.tolist()
    with pytest.raises(ValueError, match=r"do_sample goes with num_beams 1"):
        decode(rag.model, contexts, do_sample=True, num_beams=2)


def test_what_sampling_does_to_scores_is_what_transformers_does(tmp_path):
    """The same warpers in the same order, for settings that each change something."""
    changed = {"temperature": 0.7, "top_h": 0.4, "top_k": 7, "top_p": 0.8, "min_p": 0.1}
    changed |= {"typical_p": 0.9, "epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3}
    assert changed.keys() == WARPERS.keys()
    settings = GenerationConfig(do_sample=True, **changed)
    theirs = tiny_causal.network()._get_logits_processor(settings)
    ours = _warpers(settings)
    assert [type(warper) for warper in ours] == [type(warper) for warper in theirs]
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    for warper, reference in zip(ours, theirs, strict=True):
        assert warper(None, scores).equal(reference(None, scores))
    idle = GenerationConfig(do_sample=True, **{name: idle for name, (_, idle) in WARPERS.items()})
    assert _warpers(idle) == []


def test_the_mixture_gives_all_prompts_the_same_scores():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    mixed = Mixture(torch.tensor([[0.25, 0.75]]).log())(None, scores)
    assert mixed.exp().tolist() == [pytest.approx([0.375, 0.625])] * 2


def test_a_joined_prompt_is_answered_as_plain_generation_does(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path, reading="joined")
    contexts, _ = asked(rag)
    found = decode(rag.model, contexts, max_new_tokens=5)
    plain = rag.model.generator.generate(
        contexts.input_ids, attention_mask=contexts.attention_mask, max_new_tokens=5, pad_token_id=0
    )[:, contexts.input_ids.shape[1] :]
    assert found.sequences.tolist() == plain.tolist()
    prior = contexts.doc_scores.softmax(-1)
    assert found.posteriors.tolist() == [pytest.approx(row) for row in prior.tolist()]


def test_an_answer_is_as_long_as_the_checkpoint_says(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path, answer=3)
    assert settings_of(rag.model, {}).max_new_tokens == 3
    assert settings_of(rag.model, {"max_new_tokens": 2}).max_new_tokens == 2
    assert rag.model.generation_config.max_new_tokens is None  # left as it was


def test_more_answers_than_beams_are_refused(tmp_path):
    rag = tiny_causal.tiny_causal(tmp_path)
    contexts, _ = asked(rag)
    with pytest.raises(ValueError, match=r"num_return_sequences must be from 1 to 1"):
        decode(rag.model, contexts, num_return_sequences=2)
