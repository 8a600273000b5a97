"""The RAG marginal likelihoods, from the log-probabilities of the target tokens alone.

Logs are natural. B questions, K passages each, T target tokens, V words of vocabulary.

Source:
    Lewis et al. 2020, arXiv:2005.11401, section 2.1.
"""

import torch
from torch import Tensor

from rag_finetune.losses.doubt import passage_doubt
from rag_finetune.losses.linear import linear_log_probs


def target_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target token: its logit minus the logsumexp of all logits.

    The (…, T, V) log-softmax is never formed.

    Args:
        logits: unnormalised scores, shape (…, T, V).
        targets: token ids, shape (…, T).

    Returns:
        log p(target) in nats, float32 at least, shape (…, T).
    """
    chosen = _wide(logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1))  # (…, T)
    return chosen - torch.logsumexp(_wide(logits), dim=-1)


def vocabulary_log_probs(logits: Tensor) -> Tensor:
    """Mean log-probability over the whole vocabulary, which smoothing and doubt raise.

    Args:
        logits: unnormalised scores, shape (…, T, V).

    Returns:
        (1/V) Σ_v log p(v) in nats, float32 at least, shape (…, T).
    """
    logits = _wide(logits)
    return logits.mean(dim=-1) - torch.logsumexp(logits, dim=-1)


def doc_log_probs(doc_scores: Tensor) -> Tensor:
    """The retriever's log p(z|x) over the passages that were retrieved.

    Args:
        doc_scores: inner products of question and passage, shape (B, K); −inf for no passage.

    Returns:
        log p(z|x) in nats, float32 at least, shape (B, K).
    """
    return torch.log_softmax(_wide(doc_scores), dim=-1)


def rag_sequence_log_likelihood(sequence_log_probs: Tensor, doc_scores: Tensor) -> Tensor:
    """Log-likelihood of each answer where one passage explains the whole of it.

    log p(y|x) = logsumexp_k( log p(z_k|x) + log p(y|x,z_k) )

    Args:
        sequence_log_probs: log p(y|x,z) in nats, padding excluded, shape (B, K).
        doc_scores: inner products of question and passage, shape (B, K).

    Returns:
        log p(y|x) in nats, shape (B,). Gradients reach both arguments.

    Raises:
        ValueError: the two shapes differ.

    Source:
        Lewis et al. 2020, arXiv:2005.11401, section 2.1, RAG-Sequence.
    """
    _require_shape("doc_scores", doc_scores, sequence_log_probs.shape)
    return torch.logsumexp(doc_log_probs(doc_scores) + sequence_log_probs, dim=-1)


def rag_token_log_likelihood(
    token_log_probs: Tensor, doc_scores: Tensor, target_mask: Tensor
) -> Tensor:
    """Log-likelihood of each answer where every token may come from another passage.

    log p(y|x) = Σ_t logsumexp_k( log p(z_k|x) + log p(y_t|x,z_k,y_<t) )

    Args:
        token_log_probs: log p(y_t|x,z,y_<t) in nats, shape (B, K, T).
        doc_scores: inner products of question and passage, shape (B, K).
        target_mask: True where a token counts, False on padding, shape (B, T).

    Returns:
        log p(y|x) in nats, shape (B,). Gradients reach both arguments.

    Raises:
        ValueError: the shapes do not belong together.

    Source:
        Lewis et al. 2020, arXiv:2005.11401, section 2.1, RAG-Token.
    """
    batch_size, n_docs, target_length = token_log_probs.shape
    _require_shape("doc_scores", doc_scores, (batch_size, n_docs))
    _require_shape("target_mask", target_mask, (batch_size, target_length))
    joint = doc_log_probs(doc_scores).unsqueeze(-1) + token_log_probs  # (B, K, T)
    return torch.logsumexp(joint, dim=1).masked_fill(~target_mask, 0.0).sum(dim=-1)


def rag_negative_log_likelihood(
    logits: Tensor,
    labels: Tensor,
    doc_scores: Tensor,
    *,
    pad_token_id: int,
    per_token: bool,
    label_smoothing: float = 0.0,
    passage_loss_weight: float = 0.0,
    doubt_weight: float = 0.0,
    seen: list[Tensor] | None = None,
) -> Tensor:
    """Loss of each example, from the generator's logits on labels that were its decoder input.

    Labels are `[decoder_start_token_id] + answer`: position t of the logits predicts label t + 1,
    so the last position predicts nothing. Ids of −100 count as padding.

    Args:
        logits: the generator's scores, shape (B·K, T + 1, V).
        labels: decoder input ids, shape (B, T + 1), padded with `pad_token_id`.
        doc_scores: inner products of question and passage, shape (B, K); −inf for no passage.
        pad_token_id: the generator's padding id.
        per_token: True for RAG-Token, False for RAG-Sequence.
        label_smoothing: ε in [0, 1): the loss is (1 − ε)·NLL + ε·(mean over the target's tokens of
            the mean negative log-probability of the vocabulary, averaged over passages by p(z|x)).
        passage_loss_weight: λ in [0, 1): in place of the NLL stands (1 − λ)·NLL + λ·(each passage's
            own −log p(y|x,z), averaged by p(z|x); no gradient reaches the retriever through it).
            The marginal forgives a passage without the answer any guess; its own loss does not.
        doubt_weight: μ ≥ 0: what is added is μ times the mean over passages of `passage_doubt`: a
            passage that does not tell the answer is taught to guess nothing.
        seen: takes log p(y_t|x,z,y_<t) in nats, shape (B, K, T), without gradient.

    Returns:
        The loss of each example in nats, shape (B,).

    Raises:
        ValueError: the shapes do not belong together.
    """
    batch_size, n_docs = doc_scores.shape
    targets, mask = shift_labels(labels, pad_token_id)  # (B, T) each
    _require_shape("logits", logits[..., 0], (batch_size * n_docs, labels.shape[1]))
    logits = logits[:, :-1].view(batch_size, n_docs, targets.shape[1], -1)  # (B, K, T, V)
    per_passage = targets.unsqueeze(1).expand(-1, n_docs, -1)  # (B, K, T)
    spread_out = label_smoothing or doubt_weight
    mean_log_probs = vocabulary_log_probs(logits) if spread_out else None
    weights = (label_smoothing, passage_loss_weight, doubt_weight)
    log_probs = target_log_probs(logits, per_passage)
    if seen is not None:
        seen.append(log_probs.detach())
    return example_losses(
        log_probs, mean_log_probs, doc_scores, mask, per_token, weights, logits.shape[-1]
    )


def rag_negative_log_likelihood_from_states(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    doc_scores: Tensor,
    *,
    pad_token_id: int,
    per_token: bool,
    label_smoothing: float = 0.0,
    passage_loss_weight: float = 0.0,
    doubt_weight: float = 0.0,
    seen: list[Tensor] | None = None,
) -> Tensor:
    """Loss of each example, without the logits of all of them at once.

    Equal to `rag_negative_log_likelihood` of states · weightᵀ + bias. Only what a target counts
    for is scored, a chunk of positions at a time.

    Args:
        states: what the generator's output layer reads at the first T positions, shape
            (B·K, T, width).
        weight: of that layer, shape (V, width).
        bias: of that layer, shape (V,); None for none.
        labels: as for `rag_negative_log_likelihood`.
        doc_scores: likewise.
        pad_token_id: likewise.
        per_token: likewise.
        label_smoothing: likewise.
        passage_loss_weight: likewise.
        doubt_weight: likewise.
        seen: likewise; 0 where no token counts.

    Returns:
        The loss of each example in nats, shape (B,).

    Raises:
        ValueError: the shapes do not belong together.
    """
    batch_size, n_docs = doc_scores.shape
    targets, mask = shift_labels(labels, pad_token_id)  # (B, T) each
    shape = (batch_size, n_docs, targets.shape[1])
    _require_shape("states", states[..., 0], (batch_size * n_docs, targets.shape[1]))
    counted = mask.unsqueeze(1).expand(shape)  # (B, K, T); R of them are True
    chosen, mean = linear_log_probs(
        states.unflatten(0, shape[:2])[counted],  # (R, width)
        weight,
        bias,
        targets.unsqueeze(1).expand(shape)[counted],
        with_mean=label_smoothing > 0.0 or doubt_weight > 0.0,
    )

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(shape).masked_scatter(counted, values)

    mean_log_probs = None if mean is None else spread(mean)
    weights = (label_smoothing, passage_loss_weight, doubt_weight)
    log_probs = spread(chosen)
    if seen is not None:
        seen.append(log_probs.detach())
    return example_losses(
        log_probs, mean_log_probs, doc_scores, mask, per_token, weights, len(weight)
    )


def example_losses(
    token_log_probs: Tensor,
    mean_log_probs: Tensor | None,
    doc_scores: Tensor,
    mask: Tensor,
    per_token: bool,
    weights: tuple[float, float, float],
    vocab_size: int,
) -> Tensor:
    """The loss of each example in nats, shape (B,), from log-probabilities of its tokens.

    They are (B, K, T); the mask (B, T). The weights are label_smoothing, passage_loss_weight and
    doubt_weight; for the rest see `rag_negative_log_likelihood`.
    """
    label_smoothing, passage_loss_weight, doubt_weight = weights
    summed = token_log_probs.masked_fill(~mask.unsqueeze(1), 0.0).sum(-1)  # (B, K)
    if per_token:
        log_likelihood = rag_token_log_likelihood(token_log_probs, doc_scores, mask)
    else:
        log_likelihood = rag_sequence_log_likelihood(summed, doc_scores)
    if passage_loss_weight:
        expected = (doc_log_probs(doc_scores).exp().detach() * summed).sum(-1)  # (B,)
        log_likelihood = torch.lerp(log_likelihood, expected, passage_loss_weight)
    losses = -log_likelihood
    if mean_log_probs is None:
        return losses
    if label_smoothing:
        smoothing = _smoothing_loss(mean_log_probs, doc_scores, mask)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * smoothing
    if doubt_weight:
        live = doc_scores > -torch.inf
        doubt = passage_doubt(token_log_probs, mean_log_probs, mask, live, vocab_size)
        losses = losses + doubt_weight * doubt.sum(-1) / live.sum(-1)
    return losses


def shift_labels(labels: Tensor, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Split labels into what the decoder must predict, and which of it counts.

    Args:
        labels: decoder input ids, shape (B, T + 1), padded with `pad_token_id` or −100.
        pad_token_id: the generator's padding id.

    Returns:
        Targets, shape (B, T), and their mask, True where a token counts, shape (B, T).
    """
    targets = labels[:, 1:]
    targets = targets.masked_fill(targets == -100, pad_token_id)
    return targets, targets != pad_token_id


def _smoothing_loss(mean_log_probs: Tensor, doc_scores: Tensor, mask: Tensor) -> Tensor:
    """Label smoothing's share of the loss, shape (B,), from mean log-probabilities (B, K, T)."""
    doc_probs = doc_log_probs(doc_scores).exp().unsqueeze(-1)  # (B, K, 1)
    expected = (doc_probs * mean_log_probs).sum(1).masked_fill(~mask, 0.0)  # (B, T)
    return -expected.sum(-1) / mask.sum(-1).clamp(min=1)


def _wide(tensor: Tensor) -> Tensor:
    """A tensor in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _require_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raise where a tensor has another shape than its companions give."""
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(
            f"{name} must have shape {tuple(expected)} to fit the other arguments, "
            f"found {tuple(tensor.shape)}."
        )
