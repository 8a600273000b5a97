"""The passage that a generator is trained to answer from: gold, one that is found, or either."""

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from rag_finetune.data.qa import TrainingQuestions
from rag_finetune.index.gold import gold_rows
from rag_finetune.index.store import PassageIndex
from rag_finetune.metrics.answers import has_answer
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.generation import question_encoder_of, write_contexts


def answering_rows(questions: Dataset, index: PassageIndex) -> list[list[int]]:
    """Rows of each question's gold passages, of those that hold an answer where any does.

    Of a document that was cut, all pieces are gold, and few tell the answer.

    Args:
        questions: as from `load_questions`.
        index: the opened index.
    """
    found = gold_rows(questions, index)
    for rows, answers in zip(found, questions["answers"][:], strict=True):
        if len(rows) > 1:
            passages = index.passages_at(np.array(rows))
            telling = [
                row
                for row, passage in zip(rows, passages, strict=True)
                if has_answer(f"{passage['title']} {passage['text']}", answers)
            ]
            rows[:] = telling or rows
    return found


def with_gold(questions: Dataset, golds: Sequence[list[int]]) -> list[int]:
    """Numbers of the questions that have a gold passage in the index.

    Raises:
        ValueError: none has.

    Warns:
        UserWarning: some have none and are left out; with their number.
    """
    kept = [number for number, rows in enumerate(golds) if rows]
    if not kept:
        raise ValueError(
            f"None of the {len(golds):,} training questions has a gold passage in the index. Name "
            "them in the question file (positive_ids), or train with --context retrieved."
        )
    if len(kept) < len(golds):
        first = next(number for number, rows in enumerate(golds) if not rows)
        warnings.warn(
            f"{len(golds) - len(kept):,} of {len(golds):,} training questions have no gold passage "
            f'in the index and are left out, the first with the id "{questions[first]["id"]}".',
            stacklevel=3,
        )
    return kept


def found_rows(rag: Rag, questions: Sequence[str], n_docs: int, max_length: int) -> np.ndarray:
    """Rows of the passages that a model finds for questions, shape (N, n_docs) int64, −1 for none.

    Args:
        rag: the model, with its retriever.
        questions: N texts.
        n_docs: passages a question.
        max_length: tokens of a question; the rest is cut.
    """
    retriever = rag.retriever
    assert retriever is not None
    vectors = None
    if retriever.index.manifest.has_vectors:
        encoder = question_encoder_of(rag, max_length)
        vectors = encoder.encode(list(questions), progress="Encoding questions")
    return retriever.searcher.search(vectors, list(questions), n_docs)[1]


class ChosenPassages:
    """A collator that adds to each batch what the generator reads: one passage a question.

    What is drawn depends on seed, epoch and item alone, also on a run that goes on.
    """

    def __init__(
        self,
        rag: Rag,
        collate: Callable[[Any], dict[str, Tensor]],
        items: TrainingQuestions,
        golds: Sequence[Sequence[int]],
        found: np.ndarray | None,
        gold_probability: float | None,
        seed: int,
    ) -> None:
        """Keep what is drawn from.

        Args:
            rag: the model, with its retriever.
            collate: what makes a batch of items.
            items: the training questions.
            golds: rows of each question's gold passages.
            found: rows of the passages found for each, shape (N, n_docs), −1 for none; None where
                only gold passages are read.
            gold_probability: how often a question is read with its gold passage; None draws from
                all that were found, the gold passage among them.
            seed: of the draw.
        """
        self._rag, self._collate, self._items = rag, collate, items
        self._golds, self._found = golds, found
        self._probability, self._seed = gold_probability, seed

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch, with context_input_ids and context_attention_mask, (batch, length)."""
        batch = self._collate(items)
        rows = np.array([[self.choose(item["row"])] for item in items])
        retriever = self._rag.retriever
        assert retriever is not None
        passages = [[passage] for passage in retriever.index.passages_at(rows)]
        scores = torch.zeros(rows.shape)
        written = write_contexts(
            self._rag.model, retriever, batch["input_ids"], passages, scores, rows
        )
        return {
            **batch,
            "context_input_ids": written.input_ids,
            "context_attention_mask": written.attention_mask,
        }

    def choose(self, item: int) -> int:
        """The row of the passage that an item is read with in this epoch; −1 for none."""
        question = self._items.question_of(item)
        golds = list(self._golds[question])
        draw = random.Random(f"{self._seed} {self._items.epoch} {item}")
        if self._found is None:
            return draw.choice(golds)
        found = [int(row) for row in self._found[question] if row >= 0]
        if self._probability is not None:  # gold passages, and what is none
            others = [row for row in found if row not in golds]
            found = golds if draw.random() < self._probability or not others else others
        return draw.choice(found) if found else -1
