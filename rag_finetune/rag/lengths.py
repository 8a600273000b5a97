"""What a model can take of questions and answers, and what it will cut."""

import warnings
from collections.abc import Sequence
from typing import Any

from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.prompt_retriever import PromptRetriever


def question_limit(rag: Rag, max_question_length: int) -> int:
    """Tokens of a question: max_question_length, at most what the question encoder can take."""
    positions: int = rag.model.config.question_encoder.max_position_embeddings
    return min(max_question_length, positions, rag.tokenizer.question_encoder.model_max_length)


def check_question_lengths(rag: Rag, questions: Sequence[str], max_question_length: int) -> None:
    """Say which questions will lose something, and refuse those that leave no room for a passage.

    Args:
        rag: the model with its retriever.
        questions: all that will be asked.
        max_question_length: tokens of a question; the rest is cut.

    Raises:
        ValueError: a question alone is longer than what the generator reads.
    """
    assert rag.retriever is not None
    limit, tokenizer = question_limit(rag, max_question_length), rag.tokenizer.question_encoder
    if not questions:
        return
    tokens = tokenizer(list(questions), truncation=False, verbose=False)["input_ids"]
    _warn_about_rows(
        [row for row, ids in enumerate(tokens) if len(ids) > limit],
        questions,
        f"are longer than {limit} tokens and lose their end",
    )
    if isinstance(rag.retriever, PromptRetriever):  # prompts hold questions as they are written
        rag.retriever.require_room(list(questions))
        return
    _warn_about_rows(
        [row for row, ids in enumerate(tokens) if tokenizer.unk_token_id in ids],
        questions,
        "hold words that the question encoder's tokenizer does not know; the generator will not "
        "see those words",
    )
    tails = [rag.model.config.doc_sep + question for question in questions]
    for row in too_long(rag.tokenizer.generator, tails, rag.model.config.max_combined_length):
        rag.retriever.require_room(rag.retriever.question_texts([tokens[row][:limit]]))


def _warn_about_rows(rows: list[int], questions: Sequence[str], what: str) -> None:
    """Warn about some of the questions, by count and first row."""
    if rows:
        warnings.warn(
            f"{len(rows):,} of {len(questions):,} questions {what}; the first is row {rows[0]}: "
            f"{questions[rows[0]][:60]!r}.",
            stacklevel=4,
        )


def too_long(tokenizer: Any, texts: Sequence[str], limit: int) -> list[int]:
    """Rows of the texts that are longer than limit tokens."""
    # A token holds at least one character or byte: shorter texts need no count. 2: its frame.
    rows = [row for row, text in enumerate(texts) if len(text.encode()) + 2 > limit]
    if not rows:
        return []
    ids = tokenizer([texts[row] for row in rows], truncation=False, verbose=False)["input_ids"]
    return [row for row, found in zip(rows, ids, strict=True) if len(found) > limit]
