import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny_rag
import torch

from rag_finetune.losses.likelihood import rag_negative_log_likelihood
from rag_finetune.rag import scoring
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.scoring import (
    Contexts,
    encode_by_length,
    encode_contexts,
    length_groups,
    read_contexts,
    score_passages,
    token_log_probs,
)

N_DOCS = 3


@pytest.fixture(scope="module", params=["bart", "t5"])
def rag(request, tmp_path_factory) -> Rag:
    """A model whose outputs are far from uniform; tests leave it as it is."""
    rag = tiny_rag.tiny_rag(tmp_path_factory.mktemp("scoring"), request.param)
    tiny_rag.spread(rag.model.rag.generator, 0.5)
    return rag


def contexts_of(rag: Rag, questions: int) -> Contexts:
    """Contexts of different lengths, so that most are padded."""
    facts = tiny_rag.facts()
    texts = [facts[(row * 7) % 20]["text"][: 20 + 3 * row] for row in range(questions * N_DOCS)]
    tokens = rag.tokenizer.generator(texts, padding=True, return_tensors="pt")
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(questions, N_DOCS, generator=draw) * 2
    return Contexts(tokens["input_ids"], tokens["attention_mask"], scores)


def sequences_of(rag: Rag, answers: list[str]) -> torch.Tensor:
    """Answers as the decoder gives them: start, tokens, end, padding."""
    tokens = rag.tokenizer.generator(answers, padding=True, return_tensors="pt")["input_ids"]
    start = rag.model.config.generator.decoder_start_token_id
    return torch.cat([tokens.new_full((len(tokens), 1), start), tokens], dim=1)


def test_scores_are_inner_products_and_minus_infinity_where_no_passage_is():
    draw = np.random.default_rng(0)
    hidden, embeds = draw.normal(size=(4, 8)), draw.normal(size=(4, 3, 8)) * 10
    ids = np.array([[0, 1, 2], [3, -1, 1], [-1, -1, -1], [0, 0, 0]])
    scores = score_passages(
        torch.tensor(hidden, dtype=torch.float32), torch.tensor(embeds), torch.tensor(ids)
    )
    expected = np.einsum("bd,bkd->bk", hidden, embeds)
    expected[ids < 0] = -np.inf
    expected[2, 0] = 0.0  # nothing was found: all weight lies on one empty passage
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_scores_are_float32_under_autocast():
    draw = torch.Generator().manual_seed(0)
    hidden = (torch.randn(2, 64, generator=draw) * 3).requires_grad_()
    embeds = torch.randn(2, 5, 64, generator=draw) * 3
    expected = torch.einsum("bd,bkd->bk", hidden.double(), embeds.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = score_passages(hidden, embeds, torch.zeros(2, 5))
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-4)
    scores.sum().backward()
    torch.testing.assert_close(hidden.grad, embeds.sum(1))


def test_no_gradient_is_not_a_number_where_no_passage_is():
    hidden = torch.ones(1, 2, requires_grad=True)
    scores = score_passages(hidden, torch.ones(1, 2, 2), torch.tensor([[4, -1]]))
    scores.logsumexp(-1).sum().backward()
    assert hidden.grad.tolist() == [[1.0, 1.0]]


def test_encoder_states_do_not_depend_on_padding(rag):
    contexts = contexts_of(rag, 2)
    together = encode_contexts(rag.model.rag.generator, contexts)
    assert together.shape == (*contexts.input_ids.shape, 16)
    for row in range(6):
        length = int(contexts.attention_mask[row].sum())
        alone = encode_contexts(
            rag.model.rag.generator,
            Contexts(
                contexts.input_ids[row : row + 1, :length],
                contexts.attention_mask[row : row + 1, :length],
                contexts.doc_scores[:1, :1],
            ),
        )
        torch.testing.assert_close(alone[0], together[row, :length], rtol=1e-4, atol=1e-5)


def test_known_states_are_not_computed_again(rag):
    contexts = replace(contexts_of(rag, 2), states=torch.ones(6, 1, 1))
    assert encode_contexts(None, contexts) is contexts.states


def test_contexts_are_encoded_with_others_of_similar_length(rag, monkeypatch):
    monkeypatch.setitem(scoring.OPERATIONS_PER_CALL, "cpu", 0.0)
    contexts = contexts_of(rag, 4)
    encoder, read = rag.model.rag.generator.get_encoder(), []
    hook = encoder.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["attention_mask"]), with_kwargs=True
    )
    encode_contexts(rag.model.rag.generator, contexts)
    hook.remove()
    assert sorted(len(mask) for mask in read) == [3, 3, 3, 3]
    assert sum(mask.sum() for mask in read) == contexts.attention_mask.sum()
    assert sum(mask.numel() for mask in read) < contexts.attention_mask.numel()


@pytest.mark.parametrize("operations", [0.0, 1e12], ids=["four_groups", "one_group"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_and_gradients_equal_those_of_one_padded_batch(rag, monkeypatch, dtype, operations):
    monkeypatch.setitem(scoring.OPERATIONS_PER_CALL, "cpu", operations)
    contexts, generator = contexts_of(rag, 3), copy.deepcopy(rag.model.rag.generator).to(dtype)
    encoder, mask = generator.get_encoder(), contexts.attention_mask
    draw = torch.Generator().manual_seed(0)
    wanted = torch.randn(*mask.shape, 16, generator=draw, dtype=dtype) * mask.unsqueeze(-1)
    found = []
    for states in (
        encoder(input_ids=contexts.input_ids, attention_mask=mask).last_hidden_state,
        encode_by_length(encoder, contexts.input_ids, mask),
    ):
        encoder.zero_grad()
        (states * wanted).sum().backward()
        grads = {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
        found.append((states[mask.bool()].detach(), grads))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-5)
    assert found[0][1]
    for name, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], grad, rtol=1e-4, atol=1e-4)


def test_rows_are_grouped_by_length_where_it_is_less_work():
    lengths = [9, 2, 9, 2, 5, 5, 1, 9]
    # Four groups are 2·2 + 2·5 + 2·9 + 2·9 = 50 tokens of work, three are 2·2 + 3·5 + 3·9 = 46.
    assert length_groups(lengths, 0.0) == [[6, 1], [3, 4, 5], [0, 2, 7]]
    assert length_groups([8, 1, 4, 2, 9], 0.0) == [[1], [3], [2], [0, 4]]
    assert length_groups(lengths, 100.0) == [[6, 1, 3, 4, 5, 0, 2, 7]]
    # One group is 72 tokens of work, two are 4·5 + 4·9 = 56 and a further call.
    assert len(length_groups(lengths, 15.0)) == 2
    assert length_groups([7, 7], 1.0) == [[0, 1]]
    assert length_groups([3], 0.0) == [[0]]


def test_padding_on_the_left_is_no_passages_end(rag):
    ids = torch.tensor([[1, 5, 6, 7], [4, 5, 6, 7]])
    contexts = Contexts(ids, torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), torch.zeros(1, 2))
    states = encode_contexts(rag.model.rag.generator, contexts)
    assert states[0, 3].abs().sum() > 0


def test_repeated_contexts_keep_the_passages_of_a_question_together():
    ids = torch.arange(4).view(4, 1)
    states = ids.view(4, 1, 1).float()
    twice = Contexts(ids, ids, torch.tensor([[0.0, 1.0], [2.0, 3.0]]), states).repeated(2)
    assert twice.input_ids.flatten().tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert twice.doc_scores.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert twice.states.flatten().tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


def test_a_context_is_read_once_however_many_sequences_it_is_paired_with(rag):
    contexts = contexts_of(rag, 2)
    sequences = sequences_of(rag, ["red oslo", "green", "old black quito", "red", "blue rome"])
    generator = rag.model.rag.generator
    decoder = generator.get_decoder()
    layer = decoder.layers[0].encoder_attn if hasattr(decoder, "layers") else None
    keys = layer.k_proj if layer else decoder.block[0].layer[1].EncDecAttention.k
    read = []
    hook = keys.register_forward_hook(lambda module, args, output: read.append(len(args[0])))
    with torch.no_grad():
        shared = read_contexts(generator, contexts)
        token_log_probs(rag.model, shared, torch.tensor([3, 0, 3, 3, 0]), sequences)
    hook.remove()
    assert read == [6]


def test_what_sequences_of_a_context_begin_with_is_decoded_once(rag):
    contexts = contexts_of(rag, 1)
    sequences = sequences_of(rag, ["red oslo", "red rome", "red oslo", "green"])
    rows = torch.tensor([2, 0, 0, 2])  # "red oslo", "red rome" and "red oslo", "green"
    decoded, length = [], sequences.shape[1] - 1
    shared = read_contexts(rag.model.rag.generator, contexts)
    hook = rag.model.rag.generator.register_forward_pre_hook(
        lambda module, args, kwargs: decoded.append(kwargs["decoder_input_ids"].shape),
        with_kwargs=True,
    )
    token_log_probs(rag.model, shared, rows, sequences)
    hook.remove()
    start = length - 3  # tokens before the words, beside the decoder's own
    nodes = [2] * (1 + start) + [3, 3]  # red, red and green; then oslo, oslo and rome
    assert decoded == [(count, 1) for count in nodes]


@pytest.mark.parametrize("chunk", [2**27, 1, 300])
def test_token_log_probs_equal_those_of_the_whole_generator(rag, monkeypatch, chunk):
    monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", chunk)
    contexts = contexts_of(rag, 2)
    sequences = sequences_of(rag, ["red oslo", "green", "old black quito", "red", "blue rome"])
    rows = torch.tensor([5, 0, 3, 3, 1])
    with torch.no_grad():
        read = read_contexts(rag.model.rag.generator, contexts)
        found, mask = token_log_probs(rag.model, read, rows, sequences)
        pad = rag.model.config.generator.pad_token_id
        for pair, row in enumerate(rows.tolist()):
            length = int(contexts.attention_mask[row].sum())
            target = [token for token in sequences[pair, 1:].tolist() if token != pad]
            logits = rag.model.rag.generator(
                input_ids=contexts.input_ids[row : row + 1, :length],
                decoder_input_ids=sequences[pair : pair + 1, : len(target)],
            ).logits[0]
            expected = torch.log_softmax(logits.double(), -1)[range(len(target)), target]
            assert mask[pair].tolist() == [i < len(target) for i in range(mask.shape[1])]
            torch.testing.assert_close(
                found[pair, : len(target)].double(), expected, rtol=1e-4, atol=1e-5
            )
    assert found[mask].std() > 0.1


def test_what_follows_padding_within_a_sequence_is_scored(rag):
    contexts, [plain] = contexts_of(rag, 1), sequences_of(rag, ["red oslo"])
    pad = rag.model.config.generator.pad_token_id
    holed = torch.cat([plain[:2], plain.new_tensor([pad]), plain[2:]]).unsqueeze(0)
    with torch.no_grad():
        read = read_contexts(rag.model.rag.generator, contexts)
        found, mask = token_log_probs(rag.model, read, torch.tensor([1]), holed)
    assert mask[0].tolist() == [token != pad for token in holed[0, 1:].tolist()]
    assert (found[mask] < 0).all()


@pytest.mark.parametrize("per_token", [False, True])
def test_scores_of_an_answer_add_up_to_its_loss(rag, per_token):
    contexts, labels = contexts_of(rag, 2), sequences_of(rag, ["red oslo", "green"])
    with torch.no_grad():
        read = read_contexts(rag.model.rag.generator, contexts)
        per_pair, mask = token_log_probs(
            rag.model, read, torch.arange(6), labels.repeat_interleave(N_DOCS, 0)
        )
        logits = rag.model.rag.generator(
            input_ids=contexts.input_ids,
            attention_mask=contexts.attention_mask,
            decoder_input_ids=labels.repeat_interleave(N_DOCS, 0),
        ).logits
    loss = rag_negative_log_likelihood(
        logits,
        labels,
        contexts.doc_scores,
        pad_token_id=rag.model.config.generator.pad_token_id,
        per_token=per_token,
    )
    prior = torch.log_softmax(contexts.doc_scores, -1).view(-1, 1)
    if per_token:
        tokens = (prior + per_pair).view(2, N_DOCS, -1).logsumexp(1)
        expected = tokens.masked_fill(~mask[::N_DOCS], 0).sum(-1)
    else:
        summed = per_pair.masked_fill(~mask, 0).sum(-1, keepdim=True)
        expected = (prior + summed).view(2, N_DOCS).logsumexp(-1)
    torch.testing.assert_close(-loss, expected, rtol=1e-5, atol=1e-5)
