"""The marginal likelihoods against a loop over tokens and passages, and against Transformers."""

import math
from functools import cache
from types import SimpleNamespace

import pytest
import tiny_rag
import torch
from torch import Tensor
from transformers import DPRQuestionEncoder, RagConfig

from rag_finetune.data.collator import RagCollator
from rag_finetune.losses import linear
from rag_finetune.losses.likelihood import (
    doc_log_probs,
    rag_negative_log_likelihood,
    rag_negative_log_likelihood_from_states,
    rag_sequence_log_likelihood,
    rag_token_log_likelihood,
    shift_labels,
    target_log_probs,
    vocabulary_log_probs,
)
from rag_finetune.rag.heads import MODEL_TYPES
from rag_finetune.rag.scoring import score_passages

N_DOCS = 3
BATCHES = {
    "padded": ["old black quito", "green", "red oslo"],
    "one_token": ["green", "white"],
}
HEADS = pytest.mark.parametrize("per_token", [False, True], ids=["rag_sequence", "rag_token"])
KINDS = pytest.mark.parametrize("kind", ["bart", "t5"])
ANSWERS = pytest.mark.parametrize("answers", BATCHES.values(), ids=BATCHES)


@cache
def networks(kind: str) -> dict[str, torch.nn.Module]:
    """Question encoder and generator whose outputs are far from uniform."""
    torch.manual_seed(0)
    parts = {
        "question_encoder": DPRQuestionEncoder(tiny_rag.dpr_config(dropout=0.0)),
        "generator": tiny_rag.generator(kind, dropout=0.0),
    }
    tiny_rag.spread(parts["question_encoder"], 0.3)
    tiny_rag.spread(parts["generator"], 0.7)
    return parts


@cache
def collator(kind: str) -> RagCollator:
    config = networks(kind)["generator"].config
    return RagCollator(
        tiny_rag.word_tokenizer("bert"),
        tiny_rag.word_tokenizer(kind),
        decoder_start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
    )


def rag_model(kind: str, per_token: bool):
    parts = networks(kind)
    config = RagConfig.from_question_encoder_generator_configs(
        parts["question_encoder"].config, parts["generator"].config, n_docs=N_DOCS
    )
    config.generator.bos_token_id = getattr(parts["generator"].config, "bos_token_id", None)
    head = MODEL_TYPES["rag_token" if per_token else "rag_sequence"]
    return head(config=config, **parts).eval()


def inputs(kind: str, answers: list[str]) -> SimpleNamespace:
    """Questions, contexts of N_DOCS passages each, vectors of passages and labels."""
    facts = tiny_rag.facts()
    items = [
        {"row": row, "question": facts[row]["question"], "target": answer}
        for row, answer in enumerate(answers)
    ]
    texts = [
        facts[(5 * row + passage) % 20]["text"] + " // " + item["question"]
        for row, item in enumerate(items)
        for passage in range(N_DOCS)
    ]
    contexts = tiny_rag.word_tokenizer(kind)(texts, padding=True, return_tensors="pt")
    draw = torch.Generator().manual_seed(1)
    return SimpleNamespace(
        **collator(kind)(items),
        context_input_ids=contexts["input_ids"],
        context_attention_mask=contexts["attention_mask"],
        vectors=torch.randn(len(answers), N_DOCS, 16, generator=draw),
        pad=networks(kind)["generator"].config.pad_token_id,
    )


def scores_of(model, batch: SimpleNamespace) -> Tensor:
    hidden = model.question_encoder(batch.input_ids, attention_mask=batch.attention_mask)[0]
    return score_passages(hidden, batch.vectors, torch.zeros(batch.vectors.shape[:2]))


def logits_of(model, batch: SimpleNamespace, labels: Tensor) -> Tensor:
    return model.rag.generator(
        input_ids=batch.context_input_ids,
        attention_mask=batch.context_attention_mask,
        decoder_input_ids=labels.repeat_interleave(N_DOCS, 0),
    ).logits


def brute_force(
    logits: Tensor,
    labels: Tensor,
    doc_scores: Tensor,
    pad: int,
    per_token: bool,
    epsilon: float = 0,
    own_weight: float = 0,
    doubt_weight: float = 0,
) -> Tensor:
    """Losses by a loop over examples, passages and tokens, in products of probabilities."""
    logits, doc_scores = logits.double(), doc_scores.double()
    n_docs = doc_scores.shape[1]
    losses = []
    for row, scores in enumerate(doc_scores):
        prior = scores.exp() / scores.exp().sum()
        counted = [t for t in range(labels.shape[1] - 1) if labels[row, t + 1] not in (pad, -100)]
        likelihoods, smooth, guesses = [], 0.0, []
        for k in range(n_docs):
            likelihoods.append([])
            guesses.append(0.0)
            for t in counted:
                words = logits[row * n_docs + k, t].exp()
                words = words / words.sum()
                likelihoods[k].append(words[labels[row, t + 1]])
                smooth -= prior[k] * words.log().mean() / len(counted)
                guesses[k] += sum((1 / len(words)) * (1 / (len(words) * p)).log() for p in words)
        if per_token:
            steps = zip(*likelihoods, strict=True)
            likelihood = math.prod(sum(prior * torch.stack(step)) for step in steps)
        else:
            likelihood = sum(prior[k] * math.prod(likelihoods[k]) for k in range(n_docs))
        nll = -likelihood.log()
        if own_weight:
            own = sum(-prior[k].detach() * math.prod(likelihoods[k]).log() for k in range(n_docs))
            nll = (1 - own_weight) * nll + own_weight * own
        fits = [math.prod(steps).detach() ** (1 / len(counted)) for steps in likelihoods]
        doubts = [(1 - fits[k] / max(fits)) * guesses[k] for k in range(n_docs)]
        loss = (1 - epsilon) * nll + epsilon * smooth + doubt_weight * sum(doubts) / n_docs
        losses.append(loss)
    return torch.stack(losses)


def random_case(seed: int = 0, rows: int = 2, length: int = 5, words: int = 7) -> SimpleNamespace:
    """Random logits, scores and labels; pad is 1, and the last row is shorter."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, words, (rows, length), generator=draw)
    labels[-1, 3:] = 1
    return SimpleNamespace(
        logits=torch.randn(rows * N_DOCS, length, words, generator=draw) * 2,
        doc_scores=torch.randn(rows, N_DOCS, generator=draw),
        labels=labels,
    )


def loss_of(case: SimpleNamespace, per_token: bool, **options) -> Tensor:
    return rag_negative_log_likelihood(
        case.logits, case.labels, case.doc_scores, pad_token_id=1, per_token=per_token, **options
    )


@HEADS
@KINDS
@ANSWERS
def test_loss_equals_a_loop_over_tokens_and_passages(kind, per_token, answers):
    model, batch = rag_model(kind, per_token), inputs(kind, answers)
    with torch.no_grad():
        scores, logits = scores_of(model, batch), logits_of(model, batch, batch.labels)
    loss = rag_negative_log_likelihood(
        logits, batch.labels, scores, pad_token_id=batch.pad, per_token=per_token
    )
    expected = brute_force(logits, batch.labels, scores, batch.pad, per_token)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    assert expected.std() > 0.01  # a uniform model would agree with almost anything


@HEADS
@KINDS
@ANSWERS
def test_loss_equals_that_of_transformers(kind, per_token, answers):
    model, batch = rag_model(kind, per_token), inputs(kind, answers)
    with torch.no_grad():
        scores = scores_of(model, batch)
        native = model(
            context_input_ids=batch.context_input_ids,
            context_attention_mask=batch.context_attention_mask,
            doc_scores=scores,
            labels=batch.labels,
            reduce_loss=False,
        ).loss
        logits = logits_of(model, batch, batch.labels)
    loss = rag_negative_log_likelihood(
        logits, batch.labels, scores, pad_token_id=batch.pad, per_token=per_token
    )
    torch.testing.assert_close(loss, native, rtol=1e-5, atol=0)


@HEADS
@pytest.mark.parametrize(("own_weight", "doubt"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.3, 2.0)])
def test_gradients_equal_those_of_the_loop(per_token, own_weight, doubt):
    case, reference = random_case(), random_case()
    for tensors in (case, reference):
        tensors.logits.requires_grad_()
        tensors.doc_scores.requires_grad_()
    options = {"label_smoothing": 0.2, "passage_loss_weight": own_weight, "doubt_weight": doubt}
    loss_of(case, per_token, **options).sum().backward()
    brute_force(
        reference.logits,
        reference.labels,
        reference.doc_scores,
        1,
        per_token,
        0.2,
        own_weight,
        doubt,
    ).sum().backward()
    for name in ("logits", "doc_scores"):
        ours, expected = getattr(case, name).grad, getattr(reference, name).grad
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@HEADS
@KINDS
@pytest.mark.parametrize("answers", [*BATCHES.values(), None], ids=[*BATCHES, "one_scored_token"])
def test_gradient_reaches_the_question_encoder(kind, per_token, answers):
    model, batch = rag_model(kind, per_token), inputs(kind, answers or ["green"])
    if answers is None:  # [start, token]: where Transformers masks the passage's score away
        batch.labels = batch.labels[:, :2]
    model.zero_grad()
    rag_negative_log_likelihood(
        logits_of(model, batch, batch.labels),
        batch.labels,
        scores_of(model, batch),
        pad_token_id=batch.pad,
        per_token=per_token,
    ).mean().backward()
    grads = [p.grad for p in model.question_encoder.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    assert torch.isfinite(norm) and norm > 1e-4


@HEADS
@KINDS
def test_minus_100_counts_as_padding(kind, per_token):
    model, batch = rag_model(kind, per_token), inputs(kind, BATCHES["padded"])
    marked = batch.labels.masked_fill(batch.labels == batch.pad, -100)
    marked[:, 0] = batch.labels[:, 0]  # T5 starts from its padding token
    assert (marked == -100).any()
    with torch.no_grad():
        logits, scores = logits_of(model, batch, batch.labels), scores_of(model, batch)
    losses = [
        rag_negative_log_likelihood(
            logits, labels, scores, pad_token_id=batch.pad, per_token=per_token
        )
        for labels in (batch.labels, marked)
    ]
    assert torch.equal(*losses)


@HEADS
@KINDS
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_more_padding_changes_nothing(kind, per_token, label_smoothing):
    model, batch = rag_model(kind, per_token), inputs(kind, BATCHES["padded"])
    losses = []
    for extra in (0, 1, 6):
        padding = batch.labels.new_full((len(batch.labels), extra), batch.pad)
        labels = torch.cat([batch.labels, padding], dim=1)
        with torch.no_grad():
            loss = rag_negative_log_likelihood(
                logits_of(model, batch, labels),
                labels,
                scores_of(model, batch),
                pad_token_id=batch.pad,
                per_token=per_token,
                label_smoothing=label_smoothing,
            )
        losses.append(loss)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-5, atol=0)


@HEADS
@KINDS
def test_an_example_has_the_same_loss_alone_as_in_a_batch(kind, per_token):
    model, batch = rag_model(kind, per_token), inputs(kind, BATCHES["padded"])
    with torch.no_grad():
        logits, scores = logits_of(model, batch, batch.labels), scores_of(model, batch)
    options = {"pad_token_id": batch.pad, "per_token": per_token}
    together = rag_negative_log_likelihood(logits, batch.labels, scores, **options)
    for row in range(len(together)):
        length = int((batch.labels[row, 1:] != batch.pad).sum()) + 1
        alone = rag_negative_log_likelihood(
            logits[row * N_DOCS : (row + 1) * N_DOCS, :length],
            batch.labels[row : row + 1, :length],
            scores[row : row + 1],
            **options,
        )
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=0)


@HEADS
@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_label_smoothing_equals_the_loop(per_token, epsilon):
    case = random_case()
    expected = brute_force(case.logits, case.labels, case.doc_scores, 1, per_token, epsilon)
    loss = loss_of(case, per_token, label_smoothing=epsilon)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    assert not torch.allclose(loss, loss_of(case, per_token))


@HEADS
@pytest.mark.parametrize("own_weight", [0.2, 0.9])
def test_the_loss_of_each_passage_equals_the_loop(per_token, own_weight):
    case = random_case()
    expected = brute_force(case.logits, case.labels, case.doc_scores, 1, per_token, 0, own_weight)
    loss = loss_of(case, per_token, passage_loss_weight=own_weight)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    assert (loss > loss_of(case, per_token) + 1e-3).all()  # it is an upper bound


@HEADS
@pytest.mark.parametrize("doubt", [0.3, 4.0])
def test_the_doubt_of_each_passage_equals_the_loop(per_token, doubt):
    case = random_case()
    expected = brute_force(case.logits, case.labels, case.doc_scores, 1, per_token, 0, 0, doubt)
    loss = loss_of(case, per_token, doubt_weight=doubt)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    assert (loss > loss_of(case, per_token) + 1e-3).all()


@HEADS
def test_doubt_leaves_scores_the_best_passage_and_missing_ones_alone(per_token):
    case = random_case(rows=1)
    case.doc_scores[0, 2] = -torch.inf
    best = case.logits[0].log_softmax(-1)  # passage 0 tells the answer, 1 does not, 2 is none
    for step, token in enumerate(case.labels[0, 1:]):
        best[step, token] = 9.0
    case.logits[0] = best
    case.logits.requires_grad_(), case.doc_scores.requires_grad_()

    def gradients(weight):
        loss = loss_of(case, per_token, doubt_weight=weight).sum()
        return torch.autograd.grad(loss, [case.logits, case.doc_scores])

    (plain, scores), (doubting, doubting_scores) = gradients(0.0), gradients(1.0)
    assert torch.equal(doubting_scores, scores)
    torch.testing.assert_close(doubting[0], plain[0])
    assert (doubting[1, :-1] - plain[1, :-1]).abs().amax() > 0.01
    assert torch.equal(doubting[2], plain[2])
    live = case.logits.detach()[:2], case.doc_scores.detach()[:, :2]
    alone = rag_negative_log_likelihood(
        live[0], case.labels, live[1], pad_token_id=1, per_token=per_token, doubt_weight=1.0
    )
    torch.testing.assert_close(loss_of(case, per_token, doubt_weight=1.0).detach(), alone)


@HEADS
def test_an_example_without_a_token_that_counts_has_no_doubt(per_token):
    case = random_case()
    case.labels[0, 1:] = 1
    loss = loss_of(case, per_token, doubt_weight=1.0)
    assert loss[0] == 0 and torch.isfinite(loss).all() and loss[1] > 0


@HEADS
def test_only_the_loss_of_each_passage_blames_a_passage_without_the_answer(per_token):
    case = random_case(rows=1)
    case.labels = torch.tensor([[2, 3, 1, 1, 1]])
    case.logits[0, 0, 3] = 20.0  # this passage gives the answer
    case.logits[1:, 0, 4] = 20.0  # the others are as sure of another
    case.logits.requires_grad_()

    def blame(weight):
        loss = loss_of(case, per_token, passage_loss_weight=weight).sum()
        return torch.autograd.grad(loss, case.logits)[0][1:, 0, 4]

    assert (blame(0.0).abs() < 1e-6).all()
    assert (blame(0.5) > 0.01).all()


def test_label_smoothing_of_a_uniform_model_is_the_log_of_the_vocabulary():
    case = random_case(words=7)
    case.logits.zero_()
    case.labels[0, 2:] = 1  # one scored token, whose likelihood is 1/7 whatever the passage
    for per_token in (False, True):
        for epsilon in (0.0, 0.3):
            loss = loss_of(case, per_token, label_smoothing=epsilon)[0]
            assert loss.item() == pytest.approx(math.log(7), rel=1e-6)


@HEADS
def test_loss_worked_by_hand(per_token):
    # p(z|x) = 1/4, 3/4. Passage 1 gives the two tokens 1/2 and 1/5, passage 2 gives 1/3 and 4/5.
    labels = torch.tensor([[0, 2, 3]])
    doc_scores = torch.tensor([[0.0, math.log(3)]])
    rows = [
        [[0.25, 0.15, 0.5, 0.1], [0.4, 0.3, 0.1, 0.2]],
        [[0.5, 0.1, 1 / 3, 1 / 15], [0.1, 0.05, 0.05, 0.8]],
    ]
    unused = torch.full((2, 1, 4), 9.0)  # the last position predicts nothing
    logits = torch.cat([torch.tensor(rows).log() + 5.0, unused], dim=1)
    loss = rag_negative_log_likelihood(
        logits, labels, doc_scores, pad_token_id=1, per_token=per_token
    )
    by_token = (1 / 4 * 1 / 2 + 3 / 4 * 1 / 3) * (1 / 4 * 1 / 5 + 3 / 4 * 4 / 5)
    by_sequence = 1 / 4 * (1 / 2 * 1 / 5) + 3 / 4 * (1 / 3 * 4 / 5)
    expected = -math.log(by_token if per_token else by_sequence)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_heads_agree_on_one_token_and_on_one_passage():
    case = random_case()
    case.labels[:, 2:] = 1
    torch.testing.assert_close(loss_of(case, True), loss_of(case, False))
    one = random_case(rows=2 * N_DOCS)
    one.logits = one.logits[: 2 * N_DOCS]
    one.doc_scores = one.doc_scores[:, :1]
    torch.testing.assert_close(loss_of(one, True), loss_of(one, False))
    mixed = random_case()
    assert not torch.allclose(loss_of(mixed, True), loss_of(mixed, False))


@HEADS
def test_order_of_passages_does_not_matter(per_token):
    case, shuffled = random_case(), random_case()
    order = torch.tensor([2, 0, 1])
    shuffled.doc_scores = case.doc_scores[:, order]
    shuffled.logits = case.logits.view(2, N_DOCS, 5, 7)[:, order].reshape(-1, 5, 7)
    torch.testing.assert_close(loss_of(shuffled, per_token), loss_of(case, per_token))


@HEADS
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_huge_scores_give_finite_losses_and_gradients(per_token, label_smoothing, scale):
    case = random_case()
    case.logits = (case.logits * 1e3).requires_grad_()
    case.doc_scores = torch.tensor([[scale, 0.0, -scale], [scale, scale, scale]]).requires_grad_()
    loss = loss_of(case, per_token, label_smoothing=label_smoothing)
    loss.sum().backward()
    for tensor in (loss, case.logits.grad, case.doc_scores.grad):
        assert torch.isfinite(tensor).all()


@HEADS
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("own_weight", [0.0, 0.3])
def test_a_passage_of_score_minus_infinity_has_no_weight(per_token, label_smoothing, own_weight):
    options = {"label_smoothing": label_smoothing, "passage_loss_weight": own_weight}
    options["doubt_weight"] = own_weight
    case, without = random_case(), random_case()
    case.doc_scores[:, 1] = -torch.inf
    case.logits.requires_grad_()
    case.doc_scores.requires_grad_()
    loss = loss_of(case, per_token, **options)
    loss.sum().backward()
    kept = torch.tensor([0, 2])
    without.doc_scores = without.doc_scores[:, kept]
    without.logits = without.logits.view(2, N_DOCS, 5, 7)[:, kept].reshape(-1, 5, 7)
    torch.testing.assert_close(loss, loss_of(without, per_token, **options))
    assert torch.isfinite(case.doc_scores.grad).all() and torch.isfinite(case.logits.grad).all()
    assert (case.doc_scores.grad[:, 1] == 0).all()
    assert (case.logits.grad.view(2, N_DOCS, 5, 7)[:, 1] == 0).all()
    assert (case.doc_scores.grad[:, kept] != 0).all()


@HEADS
def test_marginals_are_float32_under_bfloat16_inputs(per_token):
    case, exact = random_case(), random_case()
    case.logits = case.logits.bfloat16()
    case.doc_scores = (case.doc_scores + 105).bfloat16()
    exact.logits, exact.doc_scores = case.logits.double(), case.doc_scores.double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(case, per_token, label_smoothing=0.1)
    assert loss.dtype == torch.float32
    expected = brute_force(exact.logits, exact.labels, exact.doc_scores, 1, per_token, 0.1)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


def test_pieces_equal_the_log_softmax():
    case = random_case()
    log_probs = torch.log_softmax(case.logits, dim=-1)
    targets = torch.randint(0, 7, case.logits.shape[:2])
    chosen = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(target_log_probs(case.logits, targets), chosen)
    torch.testing.assert_close(vocabulary_log_probs(case.logits), log_probs.mean(-1))
    assert doc_log_probs(case.doc_scores).exp().sum(-1).tolist() == pytest.approx([1, 1])


def test_labels_shift_by_one_and_start_is_never_a_target():
    labels = torch.tensor([[0, 5, 6, 1], [0, 7, -100, -100]])
    targets, mask = shift_labels(labels, pad_token_id=0)
    assert targets.tolist() == [[5, 6, 1], [7, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    assert labels[1].tolist() == [0, 7, -100, -100]  # left as it was


@HEADS
@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (0.1, 0.3, 0.0), (0.0, 0.0, 0.4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_from_states_equals_that_from_their_logits(
    monkeypatch, per_token, weights, dtype, seed
):
    monkeypatch.setattr(linear, "VALUES_PER_CHUNK", 30)  # several chunks
    case = random_case(seed, rows=4)
    draw = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(*shape, generator=draw) for shape in ((12, 5, 6), (7, 6), (7,))]
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (*leaves, case.doc_scores)]
    states, weight, bias, doc_scores = leaves
    options = {"pad_token_id": 1, "per_token": per_token}
    names = ("label_smoothing", "passage_loss_weight", "doubt_weight")
    options |= dict(zip(names, weights, strict=True))
    expected = rag_negative_log_likelihood(
        torch.nn.functional.linear(states, weight, bias), case.labels, doc_scores, **options
    )
    loss = rag_negative_log_likelihood_from_states(
        states[:, :-1], weight, bias, case.labels, doc_scores, **options
    )
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected.sum(), leaves)
    for found, grad in zip(torch.autograd.grad(loss.sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(found, grad)
        assert grad.abs().max() > 1e-2


def test_shapes_that_do_not_belong_together_are_refused():
    case = random_case()
    with pytest.raises(ValueError, match=r"states must have shape \(6, 4\).*found \(6, 5\)"):
        rag_negative_log_likelihood_from_states(
            case.logits,
            torch.eye(7),
            None,
            case.labels,
            case.doc_scores,
            pad_token_id=1,
            per_token=True,
        )
    with pytest.raises(ValueError, match=r"logits must have shape \(6, 5\).*found \(5, 5\)"):
        rag_negative_log_likelihood(
            case.logits[:5], case.labels, case.doc_scores, pad_token_id=1, per_token=True
        )
    with pytest.raises(ValueError, match=r"logits must have shape \(6, 4\)"):
        rag_negative_log_likelihood(
            case.logits, case.labels[:, :4], case.doc_scores, pad_token_id=1, per_token=False
        )
    with pytest.raises(ValueError, match=r"doc_scores must have shape \(2, 4\).*found \(2, 3\)"):
        rag_sequence_log_likelihood(torch.zeros(2, 4), case.doc_scores)
    with pytest.raises(ValueError, match=r"doc_scores must have shape \(2, 4\)"):
        rag_token_log_likelihood(torch.zeros(2, 4, 5), case.doc_scores, torch.ones(2, 5).bool())
    with pytest.raises(ValueError, match=r"target_mask must have shape \(2, 5\)"):
        rag_token_log_likelihood(torch.zeros(2, 3, 5), case.doc_scores, torch.ones(2, 4).bool())
