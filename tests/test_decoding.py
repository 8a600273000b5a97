"""Decoding with trained tiny models, against Transformers' `generate` and against definitions."""

import logging
from contextlib import nullcontext

import pytest
import tiny_rag
import torch
from mended_generate import mended_generate
from torch import Tensor
from trained_rag import trained_rag
from transformers import GenerationConfig

from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.decoding import Decoded, _distinct, _pad_after_end, decode
from rag_finetune.rag.scoring import Contexts

N_DOCS = 5  # the models' own: RagSequence's generate scores with it whatever was asked for
MAX_NEW_TOKENS = 7
KINDS = ["bart", "t5"]
HEADS = ["rag_sequence", "rag_token"]


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(params=HEADS)
def rag(request, kind) -> Rag:
    return trained_rag(kind, request.param)


@pytest.fixture
def sequence_rag(kind) -> Rag:
    return trained_rag(kind, "rag_sequence")


@pytest.fixture
def token_rag(kind) -> Rag:
    return trained_rag(kind, "rag_token")


def contexts_of(rag: Rag, questions: int = 6, *, padded: bool = True) -> Contexts:
    """Passages that disagree: each is read with another question; scores far from flat.

    Without `padded` the contexts of a question are of one length.
    """
    draw = torch.Generator().manual_seed(0)
    facts = tiny_rag.facts()
    texts = []
    for row in range(questions * N_DOCS):
        passage, question = torch.randint(18, (2,), generator=draw).tolist()
        if not padded:  # every third answer has as many words
            passage = passage - passage % 3 + row // N_DOCS % 3
        texts.append(
            f"{facts[passage]['title']} / {facts[passage]['text']} // {facts[question]['question']}"
        )
    tokens = rag.tokenizer.generator(texts, padding=True, return_tensors="pt")
    scores = torch.randn(questions, N_DOCS, generator=draw) * 2
    return Contexts(tokens["input_ids"], tokens["attention_mask"], scores)


def one_question(contexts: Contexts, row: int) -> Contexts:
    """One question of a batch, without the padding that others brought."""
    n_docs = contexts.doc_scores.shape[1]
    rows = slice(row * n_docs, (row + 1) * n_docs)
    length = int(contexts.attention_mask[rows].sum(-1).max())
    return Contexts(
        contexts.input_ids[rows, :length],
        contexts.attention_mask[rows, :length],
        contexts.doc_scores[row : row + 1],
    )


def native_inputs(contexts: Contexts) -> dict:
    return {
        "context_input_ids": contexts.input_ids,
        "context_attention_mask": contexts.attention_mask,
        "doc_scores": contexts.doc_scores,
        "n_docs": contexts.doc_scores.shape[1],
    }


def trimmed(rag: Rag, sequences: Tensor) -> list[tuple[int, ...]]:
    """Sequences without their padding."""
    pad = rag.model.config.generator.pad_token_id
    return [(ids[0], *(token for token in ids[1:] if token != pad)) for ids in sequences.tolist()]


def passage_log_probs(rag: Rag, contexts: Contexts, sequence: tuple[int, ...]) -> Tensor:
    """log p(y_t|x,z,y_<t) by the whole generator, one passage at a time, shape (K, T)."""
    rows = []
    for input_ids, mask in zip(contexts.input_ids, contexts.attention_mask, strict=True):
        with torch.no_grad():
            logits = rag.model.rag.generator(
                input_ids=input_ids[mask.bool()].unsqueeze(0),
                decoder_input_ids=torch.tensor([sequence[:-1]]),
            ).logits[0]
        log_probs = torch.log_softmax(logits.double(), dim=-1)
        rows.append(log_probs[range(len(sequence) - 1), list(sequence[1:])])
    return torch.stack(rows)


def by_definition(rag: Rag, contexts: Contexts, beams: int, thorough: bool) -> list[tuple]:
    """Scores, posteriors and candidates of one question by RAG-Sequence, best first."""
    generator, found_by = rag.model.rag.generator, {}
    for passage, (ids, mask) in enumerate(
        zip(contexts.input_ids, contexts.attention_mask, strict=True)
    ):
        found = generator.generate(
            ids[mask.bool()].unsqueeze(0),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        for candidate in trimmed(rag, _pad_after_end(rag.model, found, {})):
            found_by.setdefault(candidate, set()).add(passage)
    bos = getattr(generator.config, "bos_token_id", None)
    skipped = int(bos is not None and all(candidate[1] == bos for candidate in found_by))
    prior = torch.log_softmax(contexts.doc_scores[0].double(), dim=-1)
    answers = []
    for candidate, passages in found_by.items():
        joint = prior + passage_log_probs(rag, contexts, candidate)[:, skipped:].sum(-1)
        if not thorough:
            out = [k for k in range(len(prior)) if k not in passages]
            joint[out] = -torch.inf
        answers.append((joint.logsumexp(0).item(), joint.softmax(0).tolist(), candidate))
    return sorted(answers, key=lambda answer: -answer[0])


def scored_by_both(rag: Rag, sequences: Tensor) -> Tensor:
    """False where the second token is padding: there Transformers leaves out p(z|x)."""
    return sequences[:, 2] != rag.model.config.generator.pad_token_id


def assert_equal(first: Decoded, second: Decoded, rag: Rag) -> None:
    assert trimmed(rag, first.sequences) == trimmed(rag, second.sequences)
    assert torch.equal(first.question_rows, second.question_rows)
    torch.testing.assert_close(first.scores, second.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.posteriors, second.posteriors, rtol=1e-3, atol=1e-5)


# ---- Against Transformers ----


@pytest.mark.parametrize(
    ("kind", "beams", "padded"),
    [
        ("bart", 1, False),
        ("bart", 4, False),
        ("t5", 1, False),
        # and with mended_generate
        ("bart", 1, True),
        ("bart", 2, True),
        ("bart", 4, True),
        ("t5", 1, True),
        ("t5", 2, True),
        ("t5", 4, True),
    ],
)
def test_thorough_decoding_equals_generate_one_question_at_a_time(kind, beams, padded):
    rag = trained_rag(kind, "rag_sequence")
    contexts = contexts_of(rag, padded=padded)
    options = {"num_beams": beams, "max_new_tokens": MAX_NEW_TOKENS}
    if kind == "bart":
        options["forced_bos_token_id"] = 0  # else a candidate without one changes all scores
    ours = decode(rag.model, contexts, **options)
    every = decode(rag.model, contexts, num_return_sequences=beams * N_DOCS, **options)
    compared = 0
    for row in range(6):
        if not scored_by_both(rag, every.sequences[every.question_rows == row]).all():
            continue
        inputs = native_inputs(one_question(contexts, row))
        assert padded or inputs["context_attention_mask"].all()
        with mended_generate(rag.model) if padded else nullcontext(), torch.no_grad():
            native = rag.model.generate(**inputs, **options)
        loss = rag.model(**inputs, labels=native, exclude_bos_score=True, reduce_loss=False).loss
        assert trimmed(rag, ours.sequences)[row] == trimmed(rag, native)[0]
        assert ours.scores[row].item() == pytest.approx(-loss.item(), rel=1e-4, abs=1e-4)
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("beams", [1, 3])
def test_all_candidates_have_the_score_and_order_of_transformers(sequence_rag, beams):
    rag, contexts = sequence_rag, contexts_of(sequence_rag)
    ours = decode(
        rag.model,
        contexts,
        num_beams=beams,
        num_return_sequences=beams * N_DOCS,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    compared = 0
    for row in range(6):
        mine = ours.question_rows == row
        candidates = ours.sequences[mine]
        inputs = native_inputs(one_question(contexts, row))
        for name in ("context_input_ids", "context_attention_mask", "doc_scores"):
            inputs[name] = inputs[name].repeat(len(candidates), 1)
        with torch.no_grad():
            loss = rag.model(
                **inputs, labels=candidates, exclude_bos_score=True, reduce_loss=False
            ).loss
        both = scored_by_both(rag, candidates)
        torch.testing.assert_close(ours.scores[mine][both], -loss[both], rtol=1e-4, atol=1e-4)
        assert (ours.scores[mine].diff() <= 0).all()
        compared += int(both.sum())
    assert compared > 12


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_rag_token_equals_generate_one_question_at_a_time(token_rag, beams):
    rag, contexts = token_rag, contexts_of(token_rag)
    ours = decode(rag.model, contexts, num_beams=beams, max_new_tokens=MAX_NEW_TOKENS)
    for row in range(6):
        inputs = native_inputs(one_question(contexts, row))
        native = rag.model.generate(
            **inputs, num_beams=beams, max_length=MAX_NEW_TOKENS + 1, use_cache=row % 2 == 0
        )
        native = _pad_after_end(rag.model, native, {})
        with torch.no_grad():
            loss = rag.model(**inputs, labels=native, reduce_loss=False).loss
        assert trimmed(rag, ours.sequences)[row] == trimmed(rag, native)[0]
        assert ours.scores[row].item() == pytest.approx(-loss.item(), rel=1e-4, abs=1e-4)


# ---- Against definitions ----


@pytest.mark.parametrize("thorough", [True, False], ids=["thorough", "fast"])
@pytest.mark.parametrize("beams", [1, 3])
def test_rag_sequence_equals_its_definition(sequence_rag, thorough, beams):
    rag, contexts = sequence_rag, contexts_of(sequence_rag, questions=4)
    ours = decode(
        rag.model, contexts, thorough=thorough, num_beams=beams, max_new_tokens=MAX_NEW_TOKENS
    )
    best = [by_definition(rag, one_question(contexts, row), beams, thorough)[0] for row in range(4)]
    assert trimmed(rag, ours.sequences) == [candidate for _, _, candidate in best]
    assert ours.scores.tolist() == pytest.approx([score for score, _, _ in best], rel=1e-4)
    for posterior, (_, expected, _) in zip(ours.posteriors.tolist(), best, strict=True):
        assert posterior == pytest.approx(expected, abs=1e-4)


def test_fast_and_thorough_differ_where_passages_disagree(sequence_rag):
    rag, contexts = sequence_rag, contexts_of(sequence_rag)
    thorough = decode(rag.model, contexts, max_new_tokens=MAX_NEW_TOKENS)
    fast = decode(rag.model, contexts, thorough=False, max_new_tokens=MAX_NEW_TOKENS)
    assert (fast.scores <= thorough.scores + 1e-5).all()
    assert (fast.posteriors == 0).any() and (thorough.posteriors > 0).all()


def test_rag_token_is_greedy_on_the_marginal_next_token_distribution(token_rag):
    rag, contexts = token_rag, contexts_of(token_rag)
    ours = decode(rag.model, contexts, max_new_tokens=MAX_NEW_TOKENS)
    config = rag.model.config.generator
    for row in range(6):
        question = one_question(contexts, row)
        prior = torch.log_softmax(question.doc_scores[0].double(), dim=-1)
        sequence, score, posteriors = [config.decoder_start_token_id], 0.0, []
        while len(sequence) <= MAX_NEW_TOKENS:
            with torch.no_grad():
                logits = rag.model.rag.generator(
                    input_ids=question.input_ids,
                    attention_mask=question.attention_mask,
                    decoder_input_ids=torch.tensor([sequence] * N_DOCS),
                ).logits[:, -1]
            joint = prior.unsqueeze(-1) + torch.log_softmax(logits.double(), dim=-1)
            step, token = joint.logsumexp(0).max(-1)
            sequence.append(int(token))
            score += float(step)
            posteriors.append(joint[:, token].softmax(0))
            if token == config.eos_token_id:
                break
        assert trimmed(rag, ours.sequences)[row] == tuple(sequence)
        assert ours.scores[row].item() == pytest.approx(score, rel=1e-4, abs=1e-5)
        expected = torch.stack(posteriors).mean(0)
        torch.testing.assert_close(ours.posteriors[row].double(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_posteriors_follow_bayes_rule_and_add_up_to_one(rag, beams):
    contexts = contexts_of(rag)
    ours = decode(rag.model, contexts, num_beams=beams, max_new_tokens=MAX_NEW_TOKENS)
    torch.testing.assert_close(ours.posteriors.sum(-1), torch.ones(6))
    assert ours.posteriors.max() > 0.7 and ours.posteriors.min() < 0.05
    bos = getattr(rag.model.config.generator, "bos_token_id", None)
    for row, sequence in enumerate(trimmed(rag, ours.sequences)):
        question = one_question(contexts, row)
        prior = question.doc_scores[0].double().softmax(-1)
        likelihoods = passage_log_probs(rag, question, sequence).exp()  # (K, T)
        if "Token" in type(rag.model).__name__:
            joint = prior.unsqueeze(-1) * likelihoods
            expected = (joint / joint.sum(0)).mean(-1)
        else:
            skipped = int(sequence[1] == bos and beams == 1)  # a beam may do without
            joint = prior * likelihoods[:, skipped:].prod(-1)
            expected = joint / joint.sum()
        torch.testing.assert_close(ours.posteriors[row].double(), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("thorough", [True, False], ids=["thorough", "fast"])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_passage_of_score_minus_infinity_yields_nothing(rag, thorough, beams):
    contexts = contexts_of(rag)
    contexts.doc_scores[:, 1] = -torch.inf
    kept = torch.tensor([0, 2, 3, 4])

    def without(tensor: Tensor) -> Tensor:
        return tensor.view(6, N_DOCS, -1)[:, kept].flatten(0, 1)

    fewer = Contexts(
        without(contexts.input_ids), without(contexts.attention_mask), contexts.doc_scores[:, kept]
    )
    options = {"thorough": thorough, "num_beams": beams, "max_new_tokens": MAX_NEW_TOKENS}
    ours, expected = (decode(rag.model, c, **options) for c in (contexts, fewer))
    assert (ours.posteriors[:, 1] == 0).all()
    ours.posteriors = ours.posteriors[:, kept]
    assert_equal(ours, expected, rag)


# ---- Batches ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 4, "num_return_sequences": 3},
        {"num_beams": 3, "thorough": False},
        {"num_beams": 2, "no_repeat_ngram_size": 1, "length_penalty": 2.0},
        {"min_new_tokens": 6},
    ],
    ids=lambda options: "-".join(options) or "greedy",
)
def test_a_batch_equals_one_by_one(rag, options):
    contexts = contexts_of(rag)
    options = {"max_new_tokens": MAX_NEW_TOKENS, **options}
    together = decode(rag.model, contexts, **options)
    for row in range(6):
        alone = decode(rag.model, one_question(contexts, row), **options)
        mine = together.question_rows == row
        picked = Decoded(
            together.sequences[mine],
            together.scores[mine],
            torch.zeros_like(alone.question_rows),
            together.posteriors[mine],
        )
        assert_equal(picked, alone, rag)


def test_answers_are_padded_behind_their_end(rag):
    decoded = decode(rag.model, contexts_of(rag), num_beams=4, max_new_tokens=MAX_NEW_TOKENS)
    config = rag.model.config.generator
    lengths = set()
    for ids in decoded.sequences.tolist():
        end = ids.index(config.eos_token_id, 1)
        lengths.add(end)
        assert ids[end + 1 :] == [config.pad_token_id] * (len(ids) - end - 1)
    assert len(lengths) > 1


def test_padding_follows_the_first_end_but_never_the_start(kind):
    model = trained_rag(kind, "rag_token").model
    start, end, pad = (2, 2, 1) if kind == "bart" else (0, 1, 0)
    rows = [[start, 9, end, end, end], [start, end, 8, end, 7], [start, 9, 8, 7, 6]]
    found = _pad_after_end(model, torch.tensor(rows), {}).tolist()
    assert found == [[start, 9, end, pad, pad], [start, end, pad, pad, pad], [start, 9, 8, 7, 6]]
    two_ends = _pad_after_end(model, torch.tensor(rows), {"eos_token_id": [9, end]}).tolist()
    assert two_ends == [
        [start, 9, pad, pad, pad],
        [start, end, pad, pad, pad],
        [start, 9, pad, pad, pad],
    ]


def test_candidates_are_told_apart_by_question_and_joined_over_passages():
    found = torch.tensor([[[[2, 5]], [[2, 6]], [[2, 5]]], [[[2, 5]], [[2, 7]], [[2, 7]]]])
    is_passage = torch.tensor([[True, True, True], [False, True, True]])
    rows, sequences, found_by = _distinct(found, is_passage)
    assert rows.tolist() == [0, 0, 1]
    assert sequences.tolist() == [[2, 5], [2, 6], [2, 7]]
    assert found_by.tolist() == [
        [True, False, True],
        [False, True, False],
        [False, True, True],
    ]


# ---- Arguments ----


@pytest.mark.parametrize("count", [1, 2, 5])
def test_max_new_tokens_limits_both_heads(rag, count):
    decoded = decode(rag.model, contexts_of(rag), max_new_tokens=count)
    assert decoded.sequences.shape[1] <= 1 + count
    forced = decode(rag.model, contexts_of(rag), max_new_tokens=count, min_new_tokens=count)
    assert forced.sequences.shape == (6, 1 + count)
    by_length = decode(rag.model, contexts_of(rag), max_length=1 + count)
    assert trimmed(rag, by_length.sequences) == trimmed(rag, decoded.sequences)


def test_max_new_tokens_of_the_settings_counts_unless_a_length_is_given(rag, monkeypatch):
    contexts = contexts_of(rag)
    monkeypatch.setattr(rag.model.generation_config, "max_new_tokens", 3)
    monkeypatch.setattr(rag.model.rag.generator.generation_config, "max_new_tokens", 3)
    assert decode(rag.model, contexts).sequences.shape[1] <= 4
    assert decode(rag.model, contexts, min_new_tokens=3).sequences.shape[1] == 4
    for limit in ({"max_new_tokens": 6}, {"max_length": 7}):
        longer = decode(rag.model, contexts, min_new_tokens=6, **limit)
        assert longer.sequences.shape[1] == 7
    both = decode(rag.model, contexts, max_new_tokens=5, max_length=7, min_new_tokens=5)
    assert both.sequences.shape[1] == 6


def test_several_answers_come_best_first(rag):
    decoded = decode(
        rag.model,
        contexts_of(rag),
        num_beams=4,
        num_return_sequences=3,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    assert decoded.question_rows.tolist() == [row for row in range(6) for _ in range(3)]
    assert len(set(trimmed(rag, decoded.sequences))) > 6
    one = decode(rag.model, contexts_of(rag), num_beams=4, max_new_tokens=MAX_NEW_TOKENS)
    assert trimmed(rag, decoded.sequences)[::3] == trimmed(rag, one.sequences)
    if "Sequence" in type(rag.model).__name__:
        assert (decoded.scores.view(6, 3).diff() <= 0).all()


def test_samples_differ_come_best_first_and_repeat_with_the_seed(rag):
    def draw(seed: int, count: int) -> Decoded:
        torch.manual_seed(seed)
        return decode(
            rag.model,
            contexts_of(rag),
            do_sample=True,
            temperature=5.0,
            suppress_tokens=[rag.model.config.generator.pad_token_id],
            num_return_sequences=count,
            max_new_tokens=4,
        )

    first = draw(0, 5)
    assert_equal(first, draw(0, 5), rag)
    assert first.question_rows.tolist() == [row for row in range(6) for _ in range(5)]
    assert len(set(trimmed(rag, first.sequences))) > 15
    assert (first.scores.view(6, 5).diff() <= 0).all()
    assert trimmed(rag, draw(1, 5).sequences) != trimmed(rag, first.sequences)
    assert draw(0, 1).sequences.shape[0] == 6


def test_each_sample_has_the_score_and_posteriors_of_its_own_sequence(token_rag):
    contexts = contexts_of(token_rag)
    torch.manual_seed(0)
    drawn = decode(
        token_rag.model,
        contexts,
        do_sample=True,
        temperature=5.0,
        suppress_tokens=[token_rag.model.config.generator.pad_token_id],
        num_return_sequences=3,
        max_new_tokens=4,
    )
    for row, sequence, score, posterior in zip(
        drawn.question_rows.tolist(),
        trimmed(token_rag, drawn.sequences),
        drawn.scores.tolist(),
        drawn.posteriors,
        strict=True,
    ):
        question = one_question(contexts, row)
        prior = torch.log_softmax(question.doc_scores[0].double(), dim=-1)
        joint = prior.unsqueeze(-1) + passage_log_probs(token_rag, question, sequence)
        assert score == pytest.approx(joint.logsumexp(0).sum().item(), rel=1e-4, abs=1e-4)
        expected = joint.softmax(0).mean(-1)
        torch.testing.assert_close(posterior.double(), expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"num_return_sequences": 0}, {"rag_sequence": N_DOCS, "rag_token": 1}),
        ({"num_return_sequences": 99}, {"rag_sequence": N_DOCS, "rag_token": 1}),
        (
            {"num_return_sequences": 99, "num_beams": 3},
            {"rag_sequence": 3 * N_DOCS, "rag_token": 3},
        ),
    ],
)
@pytest.mark.parametrize("model_type", HEADS)
def test_more_answers_than_a_search_can_give_are_refused(model_type, options, limit):
    rag = trained_rag("bart", model_type)
    message = f"num_return_sequences must be from 1 to {limit[model_type]} .*, found "
    with pytest.raises(ValueError, match=message):
        decode(rag.model, contexts_of(rag), **options)


def test_settings_may_come_as_an_object_and_none_means_the_models_own(rag):
    contexts = contexts_of(rag)
    plain = {"num_beams": 3, "max_new_tokens": 5}
    expected = decode(rag.model, contexts, num_return_sequences=2, **plain)
    own = rag.model.rag.generator.generation_config.to_dict()
    settings = GenerationConfig(**(own | plain))
    found = decode(rag.model, contexts, num_return_sequences=2, generation_config=settings)
    assert_equal(found, expected, rag)
    greedy = decode(rag.model, contexts)
    assert_equal(decode(rag.model, contexts, num_beams=None, max_new_tokens=None), greedy, rag)


def test_settings_reach_the_search_of_both_heads(rag):
    contexts = contexts_of(rag)
    red = tiny_rag.word_tokenizer("bart" if rag.model.config.pad_token_id else "t5").get_vocab()[
        "red"
    ]
    forced = decode(rag.model, contexts, forced_bos_token_id=red, max_new_tokens=MAX_NEW_TOKENS)
    assert (forced.sequences[:, 1] == red).all()
    banned = decode(rag.model, contexts, bad_words_ids=[[red]], max_new_tokens=MAX_NEW_TOKENS)
    assert not (banned.sequences[:, 1:] == red).any()


def test_a_misspelt_setting_is_an_error(rag):
    with pytest.raises(ValueError, match="num_beans"):
        decode(rag.model, contexts_of(rag), num_beans=4)


def test_a_length_of_the_settings_and_max_new_tokens_are_no_clash(rag, caplog):
    settings = rag.model.rag.generator.generation_config
    before, settings.max_length = settings.max_length, 64
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        decoded = decode(rag.model, contexts_of(rag), max_new_tokens=3, min_new_tokens=2)
        assert caplog.text == ""
        assert decoded.sequences.shape[1] <= 4
    finally:
        settings.max_length = before
        logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_settings_of_the_cache_change_no_answer(rag, options):
    contexts = contexts_of(rag, 2)
    options = {"num_beams": 2, "max_new_tokens": MAX_NEW_TOKENS, **options}
    expected = decode(rag.model, contexts, num_beams=2, max_new_tokens=MAX_NEW_TOKENS)
    assert_equal(decode(rag.model, contexts, **options), expected, rag)


def test_keys_and_values_of_a_context_are_computed_once_for_beams_and_candidates(rag):
    contexts, read = contexts_of(rag, 3), []
    decoder = rag.model.rag.generator.get_decoder()
    layer = decoder.layers[0].encoder_attn if hasattr(decoder, "layers") else None
    keys = layer.k_proj if layer else decoder.block[0].layer[1].EncDecAttention.k
    hook = keys.register_forward_hook(lambda module, args, output: read.append(len(args[0])))
    decode(rag.model, contexts, num_beams=4, max_new_tokens=MAX_NEW_TOKENS)
    hook.remove()
    assert read == [3 * N_DOCS]
