"""Answer a file of questions, and measure answers, retrieval, and the ceiling of both."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers.utils.logging import tqdm

from rag_finetune.data.collator import RagCollator
from rag_finetune.data.qa import require_columns
from rag_finetune.encoders.encode import evaluation_mode
from rag_finetune.evaluation.measure import Evaluated, measure
from rag_finetune.index.gold import resolve_positives
from rag_finetune.index.store import PassageIndex
from rag_finetune.metrics.retrieval import KS
from rag_finetune.rag.causal_collator import CausalCollator
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.decoding import decode
from rag_finetune.rag.generation import (
    Retrieved,
    answers_with_evidence,
    require_batch_size,
    retrieve,
    tokenize_questions,
)
from rag_finetune.rag.lengths import check_question_lengths, question_limit
from rag_finetune.rag.prompt_retriever import PromptRetriever
from rag_finetune.retrieval.retriever import RagIndexRetriever

RETRIEVAL_DEPTH = max(KS)

# Of a batch of questions and their tokens: its passages, and what the generator reads.
Search = Callable[[list[str], Any], Retrieved]


@dataclass
class Evaluation:
    """Figures and predictions.

    Attributes:
        metrics: flat; fractions from 0 to 1, BLEU from 0 to 100. What cannot be computed is absent.
        predictions: one dict a question, the rows of predictions.jsonl.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]]


def evaluate_rag(
    rag: Rag,
    questions: Dataset,
    *,
    n_docs: int | None = None,
    batch_size: int = 8,
    max_question_length: int = 128,
    thorough: bool = True,
    progress: bool = False,
    **generation: Any,
) -> Evaluation:
    """Answer questions and measure everything that can be measured.

    Args:
        rag: what `load_rag` gave, with its retriever.
        questions: columns id, question, answers, positive_ids, as from `load_questions`; gold
            passages given as texts are looked up in the index.
        n_docs: passages that the generator reads; None for the model's own.
        batch_size: questions at a time.
        max_question_length: tokens of a question; the rest is cut.
        thorough: RAG-Sequence only: score each candidate under every passage.
        progress: show a bar.
        **generation: anything `generate` takes: max_new_tokens, num_beams, …

    Returns:
        Metrics and predictions, in the order of the questions.

    Raises:
        ValueError: the model was loaded without a retriever, an argument is out of range, or no
            question has an answer.
    """
    retriever = require_retriever(rag)
    n_docs = retriever.clamp(n_docs)
    retriever.expect_contexts(len(questions) * n_docs)

    def search(texts: list[str], tokens: Any) -> Retrieved:
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        return retrieve(
            rag.model,
            retriever,
            ids,
            mask,
            n_docs=n_docs,
            depth=RETRIEVAL_DEPTH,
            questions=texts,
        )

    rows = answer_questions(
        rag,
        questions,
        search,
        batch_size=batch_size,
        max_question_length=max_question_length,
        thorough=thorough,
        progress=progress,
        **generation,
    )
    by_words = not retriever.searcher.retrieval.by_vectors
    return evaluation_of(rows, retriever.index, n_docs, by_words=by_words)


def answer_questions(
    rag: Rag,
    questions: Dataset,
    search: Search,
    *,
    batch_size: int = 8,
    max_question_length: int = 128,
    thorough: bool = True,
    progress: bool = False,
    **generation: Any,
) -> list[Evaluated]:
    """Answer questions from the passages that a search finds, whatever the search is.

    Args:
        rag: what `load_rag` gave, with its retriever.
        questions: as for `evaluate_rag`.
        search: gives the passages of a batch: of its questions, and of their tokens.
        batch_size: see `evaluate_rag`, as for what follows.
        max_question_length: tokens of a question; the rest is cut.
        thorough: RAG-Sequence only: score each candidate under every passage.
        progress: show a bar.
        **generation: anything `generate` takes.

    Returns:
        What is known about each question, in their order.

    Raises:
        ValueError: as for `evaluate_rag`.
    """
    require_batch_size(batch_size)
    require_columns(questions)
    require_answers(questions)
    questions = resolve_positives(questions, require_retriever(rag).index)
    check_question_lengths(rag, list(questions["question"]), max_question_length)
    rows = _length_sorted(questions)
    evaluated: dict[int, Evaluated] = {}
    bar = tqdm(total=len(rows), desc="Evaluating", unit=" questions", disable=not progress)
    with bar, evaluation_mode(rag.model):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            examples = [questions[row] for row in batch]
            texts = [example["question"] for example in examples]
            retrieved = search(texts, tokenize_questions(rag, texts, max_question_length))
            answered = answer_batch(rag, examples, retrieved, thorough, generation)
            evaluated |= zip(batch, answered, strict=True)
            bar.update(len(batch))
    return [evaluated[row] for row in range(len(rows))]


def require_retriever(rag: Rag) -> RagIndexRetriever:
    """The retriever of a model.

    Raises:
        ValueError: it was loaded without one.
    """
    if rag.retriever is None:
        raise ValueError("Evaluation needs passages: load the model with its index.")
    return rag.retriever


def require_answers(questions: Dataset) -> None:
    """Raise where answers cannot be measured, since no question has a gold one.

    Raises:
        ValueError: there is none.
    """
    if len(questions) and not any(questions["answers"][:]):
        raise ValueError(
            "None of the questions has an answer to compare with. Measure retrieval alone: "
            "--retrieval_only, or evaluate_retrieval; or answer them: rag-finetune predict."
        )


def evaluation_of(
    rows: Sequence[Evaluated], index: PassageIndex, n_docs: int, *, by_words: bool = False
) -> Evaluation:
    """Every figure that the rows allow, and the predictions; by_words: of a search by words."""
    bare = sum(not any(passage["id"] for passage in row.passages) for row in rows)
    if bare:
        why = "none has a word of the question. They are answered without evidence."
        if not by_words:
            why = (
                f"an approximate index ({index.manifest.faiss_factory}): it looks in too few "
                "places. They are answered without evidence. Build it with other search "
                "parameters, or flat."
            )
        warnings.warn(
            f"{bare:,} of {len(rows):,} questions find no passage at all in {index.folder}, {why}",
            stacklevel=3,
        )
    return Evaluation(measure(rows, index, n_docs), [row.prediction() for row in rows])


def answer_batch(
    rag: Rag,
    examples: Sequence[dict[str, Any]],
    retrieved: Retrieved,
    thorough: bool,
    generation: dict[str, Any],
) -> list[Evaluated]:
    """Decode the answers of a batch whose passages are retrieved, the best of each question."""
    decoded = decode(rag.model, retrieved.contexts, thorough=thorough, **generation)
    answers = answers_with_evidence(rag, retrieved, decoded)
    token_ids: dict[int, list[int]] = {}  # of the best answer to each question, which comes first
    for row, ids in zip(decoded.question_rows.tolist(), decoded.sequences.tolist(), strict=True):
        token_ids.setdefault(row, ids)
    return [
        Evaluated(example, passages, scores, best[0], token_ids=token_ids[row])
        for row, (example, passages, scores, best) in enumerate(
            zip(
                examples,
                retrieved.passages,
                retrieved.contexts.doc_scores.tolist(),
                answers,
                strict=True,
            )
        )
    ]


def collator_for(
    rag: Rag, max_question_length: int, max_target_length: int
) -> RagCollator | CausalCollator:
    """The collator that fits a RAG model."""
    if isinstance(rag.retriever, PromptRetriever):
        return CausalCollator(
            rag.tokenizer.question_encoder,
            rag.tokenizer.generator,
            rag.retriever.writer,
            max_question_length=question_limit(rag, max_question_length),
            max_target_length=max_target_length,
        )
    config = rag.model.config.generator
    return RagCollator(
        rag.tokenizer.question_encoder,
        rag.tokenizer.generator,
        decoder_start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
        max_question_length=question_limit(rag, max_question_length),
        max_target_length=max_target_length,
    )


def _length_sorted(questions: Dataset) -> list[int]:
    """Rows with the longest question first, so that batches hold little padding."""
    lengths = [len(question) for question in questions["question"]]
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])
