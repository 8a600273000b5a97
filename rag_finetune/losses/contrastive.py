"""Losses that train a retriever: a question shall be near its passage, and far from the others.

Q questions, P passages, and for each question the column of its positive. Logs are natural.
"""

import torch
from torch import Tensor


def contrastive_losses(scores: Tensor, targets: Tensor, excluded: Tensor) -> Tensor:
    """Cross-entropy of each question's positive among all passages of the batch.

    loss_i = − log( exp s_{i,t(i)} / Σ_j exp s_ij ), the sum over t(i) and every j not excluded.

    Args:
        scores: inner products over the temperature, shape (Q, P).
        targets: the column of each question's positive, shape (Q,) int64.
        excluded: True where a passage is no negative of a question (it is another positive, the
            same passage again, or holds the answer), shape (Q, P). The positive itself counts,
            whatever stands there.

    Returns:
        Nats, float32 at least, shape (Q,). Gradients reach the scores that count.

    Raises:
        ValueError: the shapes do not belong together.

    Source:
        Karpukhin et al. 2020, arXiv:2004.04906, equation 2; in-batch negatives, section 3.2.
    """
    _require_shapes(scores, targets, excluded)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    chosen = scores.gather(1, targets.unsqueeze(1))  # (Q, 1)
    others = excluded.scatter(1, targets.unsqueeze(1), False)
    return torch.logsumexp(scores.masked_fill(others, -torch.inf), dim=1) - chosen.squeeze(1)


def reverse_losses(scores: Tensor, targets: Tensor, excluded: Tensor, rows: Tensor) -> Tensor:
    """Cross-entropy of each question among all questions, given its positive: the other direction.

    loss_i = − log( exp s_{i,t(i)} / Σ_j exp s_{j,t(i)} ), the sum over i and every j from which
    t(i) is not excluded; a question whose positive it is too is no negative.

    Args:
        scores: inner products over the temperature, of all questions, shape (Q, P).
        targets: the column of each question's positive, shape (Q,) int64.
        excluded: as for `contrastive_losses`, shape (Q, P).
        rows: the questions whose losses are wanted, shape (R,) int64.

    Returns:
        Nats, float32 at least, shape (R,).

    Raises:
        ValueError: the shapes do not belong together.

    Source:
        Radford et al. 2021, arXiv:2103.00020, figure 3: the mean of both directions.
    """
    _require_shapes(scores, targets, excluded)
    columns = targets[rows]  # (R,)
    none = excluded.scatter(1, targets.unsqueeze(1), True)  # a question's own positive too
    return contrastive_losses(scores[:, columns].T, rows, none[:, columns].T)


def distillation_losses(scores: Tensor, teacher_scores: Tensor, counted: Tensor) -> Tensor:
    """How far a question's passages are from the order and the shares that a teacher gives them.

    loss_i = KL( softmax_j(teacher_ij) ‖ softmax_j(scores_ij) ), over the candidates that count.

    Args:
        scores: inner products over the temperature, shape (Q, C).
        teacher_scores: on the scale of logits, as of a cross-encoder, shape (Q, C).
        counted: True for a candidate with a teacher's score, shape (Q, C).

    Returns:
        Nats, at least 0, float32 at least, shape (Q,); 0 for fewer than two candidates. No
        gradient reaches the teacher.

    Raises:
        ValueError: the shapes differ.

    Source:
        Ren et al. 2021, arXiv:2110.07367, section 3.2 (listwise distillation).
    """
    if not scores.shape == teacher_scores.shape == counted.shape:
        raise ValueError(
            "scores, teacher_scores and counted must have one shape, found "
            f"{tuple(scores.shape)}, {tuple(teacher_scores.shape)} and {tuple(counted.shape)}."
        )
    wide = torch.promote_types(scores.dtype, torch.float32)
    live = counted & (counted.sum(1, keepdim=True) > 1)
    out = torch.finfo(wide).min  # not −inf: a row of which nothing counts would be NaN
    student = torch.log_softmax(scores.to(wide).masked_fill(~live, out), dim=1)
    teacher = torch.log_softmax(teacher_scores.detach().to(wide).masked_fill(~live, out), dim=1)
    return (teacher.exp() * (teacher - student)).masked_fill(~live, 0.0).sum(1)


def _require_shapes(scores: Tensor, targets: Tensor, excluded: Tensor) -> None:
    """Raise where the arguments of a contrastive loss do not belong together."""
    if excluded.shape != scores.shape or targets.shape != scores.shape[:1]:
        raise ValueError(
            f"scores {tuple(scores.shape)} need excluded of the same shape and targets of shape "
            f"{tuple(scores.shape[:1])}, found {tuple(excluded.shape)} and {tuple(targets.shape)}."
        )
