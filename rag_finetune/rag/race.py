"""Scoring only what may still win: a candidate without a chance costs a few of its tokens."""

from copy import copy

import torch
from torch import Tensor

LOST_BY = 40.0  # nats: less than a float64 can show beside 1, and far less than a float32


class Race:
    """Sequences of which one a question is wanted: what cannot win is not scored to its end.

    The best whole pair so far is a bound from below on the score of the winner. A pair that falls
    LOST_BY nats under it can no longer change the winner or its score beyond rounding, so the rest
    of its tokens count as certain.
    """

    def __init__(self, questions: Tensor, priors: Tensor) -> None:
        """Nothing is scored yet.

        Args:
            questions: of each pair, shape (P,).
            priors: log p(z|x) of each pair in nats, shape (P,).
        """
        self.questions, self.totals = questions, priors.clone()
        self.best = priors.new_full((int(questions.max()) + 1,), -torch.inf)

    def of(self, pairs: Tensor) -> "Race":
        """The race of some of the pairs, which share the bound with all others."""
        part = copy(self)
        part.questions, part.totals = self.questions[pairs], self.totals[pairs]
        return part

    def add(self, pairs: Tensor, log_probs: Tensor, is_whole: Tensor) -> None:
        """Take in the next token of these pairs; the last one of those that are whole."""
        self.totals[pairs] += log_probs
        whole = pairs[is_whole]
        self.best.scatter_reduce_(0, self.questions[whole], self.totals[whole], "amax")

    def is_open(self, pairs: Tensor) -> Tensor:
        """Which of these pairs may still matter, bool (pairs,)."""
        return self.totals[pairs] >= self.best[self.questions[pairs]] - LOST_BY
