"""A teacher without weights of its own: words and vectors, weighed so that they find the gold."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.lexical import make_lexical
from rag_finetune.training.retriever_data import RetrieverExamples

# The two weights are fitted on so many questions, and on so many passages, their gold ones first.
FITTED_QUESTIONS = 1_000
FITTED_PASSAGES = 2_000
ITERATIONS = 100
# Nats for a weight that is e times, or a part of e, what scores of spread 1 would have: where the
# gold passages come first by whatever weights, these would grow without end.
PENALTY = 1e-3


class FusedTeacher:
    """Scores each question with each passage of training by BM25 and by the encoders as they began.

    s(q, z) = a · BM25(q, z) + b · q·d_z / temperature. The weights a and b, both above 0, are those
    by which softmax_z s(q, z) gives the gold passages of training the greatest likelihood, so that
    they also set how sharp the teacher is: that of a sample of questions among the gold passages
    and hard negatives of that sample. Passages that hold an answer compete with no gold there.

    Each process makes its own, holds the vectors of all questions and passages of training and the
    BM25 of the passages, and scores all of them by words for each question of a step. It does not
    change: a run that goes on has the same teacher.

    Attributes:
        weights: a and b.
        fitted: numbers of questions and of passages that they were fitted on.
        found: the share of these questions whose gold passage comes first.
    """

    def __init__(
        self,
        examples: RetrieverExamples,
        question_encoder: TextEncoder,
        context_encoder: TextEncoder,
        temperature: float,
        *,
        language: str | None = None,
        progress: str = "",
    ) -> None:
        """Encode, index, and fit the weights.

        Args:
            examples: what is trained on.
            question_encoder: as training begins.
            context_encoder: as training begins.
            temperature: what inner products are divided by, above 0.
            language: of stop words and stemmer; None for words as they are.
            progress: what the progress bars say; empty for none.

        Raises:
            ValueError: a package is missing, the language is not known, no passage has a word, or
                the scores are not finite.
        """
        passages = examples.passages
        titled = zip(passages.titles, passages.texts, strict=True)
        self._words = make_lexical((f"{a} {b}" for a, b in titled), "bm25", language=language)
        self._texts = examples.questions
        questions = question_encoder.encode(examples.questions, progress=progress)
        contexts = context_encoder.encode(passages.texts, passages.titles, progress=progress)
        self._questions = torch.from_numpy(questions) / temperature  # (Q, dim)
        self._passages = torch.from_numpy(contexts)  # (P, dim)
        rows, passage_rows = _sample(examples)
        self.fitted = len(rows), len(passage_rows)
        self.weights, self.found = self._fit(examples, rows, passage_rows)

    def scores(self, rows: Sequence[int], passages: Sequence[int]) -> Tensor:
        """Of each question with each passage, on the processor, shape (rows, passages) float32."""
        by_words, by_vectors = self._parts(rows, passages)
        return self.weights[0] * by_words + self.weights[1] * by_vectors

    def describe(self) -> str:
        """One line for whoever runs it."""
        a, b = self.weights
        return (
            f"Teacher: {a:.3g} × BM25 + {b:.3g} × the scores of the encoders as they are; the gold "
            f"passage comes first for {self.found:.1%} of {self.fitted[0]:,} training questions, "
            f"among {self.fitted[1]:,} passages."
        )

    def _parts(self, rows: Sequence[int], passages: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Both scores, each of shape (rows, passages)."""
        asked = [self._texts[row] for row in rows]
        wanted = np.tile(np.asarray(passages, np.int64), (len(rows), 1))
        by_words = torch.from_numpy(self._words.scores_at(asked, wanted))
        return by_words, self._questions[list(rows)] @ self._passages[list(passages)].T

    def _fit(
        self, examples: RetrieverExamples, rows: list[int], passages: list[int]
    ) -> tuple[tuple[float, float], float]:
        """The weights, and how often the gold passage comes first by them."""
        places = {passage: column for column, passage in enumerate(passages)}
        targets = torch.tensor([places[examples.positives[row][0]] for row in rows])
        out = examples.excluded(rows, passages).scatter(1, targets.unsqueeze(1), False)
        parts = torch.stack(self._parts(rows, passages))  # (2, rows, passages)
        spread = parts.flatten(1).std(1, correction=0)  # (2,)
        spread = torch.where(spread > 0, spread, 1.0)
        logs = torch.zeros(2, requires_grad=True)  # of the weights of scores of spread 1
        optimizer = torch.optim.LBFGS([logs], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def scores() -> Tensor:
            summed = torch.einsum("s,sqp->qp", logs.exp() / spread, parts)
            return summed.masked_fill(out, -torch.inf)

        def closure() -> Tensor:
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = torch.nn.functional.cross_entropy(scores(), targets)
                loss = loss + PENALTY * logs.square().sum()
                loss.backward()
            return loss

        if parts.isfinite().all():
            optimizer.step(closure)
        with torch.no_grad():
            found = (scores().argmax(1) == targets).float().mean().item()
            weights = logs.exp() / spread
        if not (parts.isfinite().all() and weights.isfinite().all()):
            raise ValueError(
                "teacher bm25: the scores of the encoders are not finite, or too large to be "
                "weighed. Look at the encoders' weights, or raise --temperature."
            )
        a, b = weights.tolist()
        return (a, b), found


def _sample(examples: RetrieverExamples) -> tuple[list[int], list[int]]:
    """Questions, and their gold passages and some of their hard negatives, drawn alike each time.

    Where there are hard negatives, they get half of the room at least.
    """
    draw = random.Random(0)
    rows = draw.sample(range(len(examples)), min(FITTED_QUESTIONS, len(examples)))
    golds = dict.fromkeys(examples.positives[row][0] for row in rows)
    others = sorted({passage for row in rows for passage in examples.negatives[row]} - golds.keys())
    room = max(0, FITTED_PASSAGES - len(golds))
    return rows, [*golds, *draw.sample(others, min(room, len(others)))]
