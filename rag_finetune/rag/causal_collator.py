"""A batch of questions and answers for a decoder-only generator."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rag_finetune.data.collator import tokenize_batch
from rag_finetune.rag.causal_model import IGNORED
from rag_finetune.rag.prompts import PromptWriter


class CausalCollator:
    """Tokenises and pads questions with their encoder's tokenizer, answers as prompts go on.

    The prompts themselves are written once their passages are known.
    """

    def __init__(
        self,
        question_tokenizer: PreTrainedTokenizerBase,
        generator_tokenizer: PreTrainedTokenizerBase,
        writer: PromptWriter,
        *,
        max_question_length: int,
        max_target_length: int,
    ) -> None:
        """Fix tokenizers and lengths.

        Args:
            question_tokenizer: the question encoder's.
            generator_tokenizer: the generator's.
            writer: says how an answer stands behind its prompt.
            max_question_length: tokens of a question for its encoder; the rest is cut. The prompt
                holds all of it.
            max_target_length: tokens of an answer with its end; what is longer is an error.
        """
        self.question_tokenizer = question_tokenizer
        self.generator_tokenizer = generator_tokenizer
        self.writer = writer
        self.max_question_length = max_question_length
        self.max_target_length = max_target_length

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate items of {row, question, target}.

        Returns:
            rows (batch,), input_ids and attention_mask (batch, question length), all int64, padded
            behind; labels (batch, target length), filled up with −100.
        """
        questions = [item["question"] for item in items]
        return {
            "rows": torch.tensor([item["row"] for item in items]),
            **tokenize_batch(self.question_tokenizer, questions, self.max_question_length),
            "labels": self.labels([item["target"] for item in items]),
        }

    def labels(self, answers: Sequence[str]) -> Tensor:
        """Token ids of answers with their ends, shape (batch, target length), −100 behind.

        Raises:
            ValueError: an answer is longer than max_target_length.
        """
        ids = self.writer.answers(self.generator_tokenizer, answers)
        require_short(ids, answers, self.max_target_length)
        labels = torch.full((len(ids), max(map(len, ids))), IGNORED)
        for target, row in zip(labels, ids, strict=True):
            target[: len(row)] = torch.tensor(row)
        return labels


def require_short(ids: Sequence[Sequence[int]], answers: Sequence[str], limit: int) -> None:
    """Raise for an answer that is too long: it would have to be cut.

    Args:
        ids: token ids of the answers, ends included.
        answers: their texts.
        limit: tokens of an answer at most.

    Raises:
        ValueError: one is longer; the message names the longest.
    """
    lengths = [len(row) for row in ids]
    longest = max(lengths, default=0)
    if longest > limit:
        row = lengths.index(longest)
        raise ValueError(
            f"{sum(length > limit for length in lengths):,} of {len(ids):,} answers are longer "
            f"than max_target_length {limit}, and are not cut. Raise --max_target_length to "
            f"{longest}, or shorten them; the longest is row {row}: {answers[row][:60]!r}."
        )
