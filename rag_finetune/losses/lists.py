"""Losses that rank passages for a question: the gold above all others, or all in a given order.

Logs are natural.
"""

import torch
from torch import Tensor


def gold_losses(scores: Tensor, is_gold: Tensor, excluded: Tensor) -> Tensor:
    """Cross-entropy of a question's gold passages, any of them, among all that are compared.

    loss_i = − log( Σ_{j gold} exp s_ij / Σ_j exp s_ij ), the second sum over every j not excluded

    With one gold passage it is `contrastive_losses`. Of several, as where a gold document was cut
    into pieces, the one that the question is nearest to gets most of the gradient: one that tells
    the answer is enough.

    Args:
        scores: inner products over the temperature, shape (Q, P).
        is_gold: True for the gold passages of each question, shape (Q, P).
        excluded: True where a passage shall not count against a question, shape (Q, P). Gold
            passages count, whatever stands there.

    Returns:
        Nats, at least 0, float32 at least, shape (Q,); 0 for a question without gold passages.

    Raises:
        ValueError: the shapes differ.

    Source:
        Karpukhin et al. 2020, arXiv:2004.04906, equation 2; the sum over several, Lee et al. 2019,
        arXiv:1906.00300, section 4.
    """
    _require_alike(scores, is_gold, excluded)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    known = is_gold.any(1, keepdim=True)  # (Q, 1)
    gold = is_gold | ~known  # a row of which nothing counts would be NaN
    out = torch.finfo(scores.dtype).min
    chosen = torch.logsumexp(scores.masked_fill(~gold, out), dim=1)
    whole = torch.logsumexp(scores.masked_fill(excluded & ~gold, out), dim=1)
    return (whole - chosen).masked_fill(~known.squeeze(1), 0.0)


def listwise_losses(scores: Tensor, relevance: Tensor, counted: Tensor) -> Tensor:
    """How unlikely the scores make the right order of a question's passages (ListMLE).

    loss = − Σ_i ( s_π(i) − logsumexp_{j≥i} s_π(j) ), π the passages by falling relevance

    The order alone counts: the relevance may be on any scale, so there is no temperature to find.

    Args:
        scores: inner products over the temperature, shape (Q, K).
        relevance: of each passage, such as the log-likelihood of the answer given it, shape (Q, K).
        counted: False where there is no passage, shape (Q, K).

    Returns:
        Nats, at least 0, float32 at least, shape (Q,); 0 for fewer than two passages. No gradient
        reaches the relevance; of equally relevant passages the earlier comes first.

    Raises:
        ValueError: the shapes differ.

    Source:
        Xia et al. 2008, "Listwise approach to learning to rank: theory and algorithm", ICML,
        section 4.2.
    """
    _require_alike(scores, relevance, counted)
    wide = torch.promote_types(scores.dtype, torch.float32)
    last = relevance.detach().to(wide).masked_fill(~counted, -torch.inf)
    order = last.argsort(dim=1, descending=True, stable=True)
    counted = counted.gather(1, order)
    ranked = scores.to(wide).gather(1, order).masked_fill(~counted, torch.finfo(wide).min)
    rest = ranked.flip(1).logcumsumexp(1).flip(1)  # over those that are still to be placed
    return (rest - ranked).masked_fill(~counted, 0.0).sum(1)


def _require_alike(*tensors: Tensor) -> None:
    """Raise where tensors differ in shape."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) > 1:
        raise ValueError(f"All arguments must have one shape, found {shapes}.")
