"""Batches of questions and passages as token ids that were made once, before training."""

from collections.abc import Sequence
from typing import Any

import torch

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.training.retriever_data import RetrieverExamples
from rag_finetune.training.token_rows import TokenRows


class RetrieverCollator:
    """Batches of token ids; a passage that stands there for several questions is there once."""

    def __init__(
        self,
        examples: RetrieverExamples,
        question_encoder: TextEncoder,
        context_encoder: TextEncoder,
        most_texts: int | None = None,
    ) -> None:
        """Tokenise everything, once.

        Args:
            examples: what is trained on.
            question_encoder: tokenises the questions.
            context_encoder: tokenises the passages.
            most_texts: texts of a part of a batch at most; None for as many as belong together.
        """
        self.most_texts = most_texts
        table, untitled = examples.passages, [""] * len(examples)
        questions = question_encoder.tokenize(examples.questions, untitled)
        passages = context_encoder.tokenize(table.texts, table.titles)
        self.questions = TokenRows(questions, _pad(question_encoder))
        self.passages = TokenRows(passages, _pad(context_encoder))

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate items.

        Returns:
            rows (Q,) of the questions, positives (Q,), the row of each one's positive, passage_rows
            (P,) of the distinct passages, positives first; and both texts as a `TextBatch`.
        """
        rows = [item["row"] for item in items]
        positives = [item["positive"] for item in items]
        negatives = [row for item in items for row in item["negatives"]]
        passages = list(dict.fromkeys([*positives, *negatives]))
        return {
            "rows": torch.tensor(rows),
            "positives": torch.tensor(positives),
            "passage_rows": torch.tensor(passages),
            "questions": self.questions.batch(rows, self.most_texts),
            "passages": self.passages.batch(passages, self.most_texts),
        }


def _pad(encoder: TextEncoder) -> int:
    pad_token_id: int = encoder.tokenizer.pad_token_id
    return pad_token_id
