"""A batch of questions and answers as token ids."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


class RagCollator:
    """Tokenises and pads questions with their encoder's tokenizer, answers with the generator's.

    Labels are `[decoder_start_token_id] + generator_tokenizer(answer)`, for every family: the RAG
    heads feed labels to the decoder as they are and predict the next one, and generation starts
    from decoder_start_token_id. Without it in front a model learns a low loss and cannot generate.
    """

    def __init__(
        self,
        question_tokenizer: PreTrainedTokenizerBase,
        generator_tokenizer: PreTrainedTokenizerBase,
        *,
        decoder_start_token_id: int,
        pad_token_id: int,
        max_question_length: int = 128,
        max_target_length: int = 64,
    ) -> None:
        """Fix tokenizers, ids and lengths.

        Args:
            question_tokenizer: the question encoder's.
            generator_tokenizer: the generator's.
            decoder_start_token_id: what generation starts from.
            pad_token_id: the generator's padding id, which the loss leaves out.
            max_question_length: tokens of a question; the rest is cut.
            max_target_length: tokens of an answer with start and end; the rest is cut.

        Raises:
            ValueError: max_target_length leaves no room for an answer.
        """
        if max_target_length < 3:
            raise ValueError(
                "max_target_length counts the start token, the answer and its end: at least 3, "
                f"found {max_target_length}."
            )
        self.question_tokenizer = question_tokenizer
        self.generator_tokenizer = generator_tokenizer
        self.decoder_start_token_id = decoder_start_token_id
        self.pad_token_id = pad_token_id
        self.max_question_length = max_question_length
        self.max_target_length = max_target_length

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate items of {row, question, target}.

        Returns:
            rows (batch,), input_ids and attention_mask (batch, question length), labels
            (batch, target length), all int64, padded on the right to the longest.
        """
        questions = [item["question"] for item in items]
        return {
            "rows": torch.tensor([item["row"] for item in items]),
            **tokenize_batch(self.question_tokenizer, questions, self.max_question_length),
            "labels": self.labels([item["target"] for item in items]),
        }

    def labels(self, answers: Sequence[str]) -> Tensor:
        """Token ids of answers, shape (batch, target length), start token first."""
        ids = self.generator_tokenizer(
            list(answers), truncation=True, max_length=self.max_target_length - 1
        )["input_ids"]
        length = 1 + max(len(row) for row in ids)
        labels = torch.full((len(ids), length), self.pad_token_id)
        labels[:, 0] = self.decoder_start_token_id
        for target, row in zip(labels, ids, strict=True):
            target[1 : len(row) + 1] = torch.tensor(row)
        return labels


def tokenize_batch(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int
) -> dict[str, Tensor]:
    """input_ids and attention_mask of texts, shape (batch, length of the longest), int64."""
    found = tokenizer(
        texts, truncation=True, max_length=max_length, padding=True, return_tensors="pt"
    )
    return {name: found[name] for name in ("input_ids", "attention_mask")}
