"""Answer a file of questions, and measure answers, retrieval, and the ceiling of both."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from transformers.utils.logging import tqdm

from rag_finetune.data.collator import RagCollator
from rag_finetune.encoders.encode import TextEncoder, evaluation_mode
from rag_finetune.index.store import PassageIndex
from rag_finetune.metrics.health import retrieval_health
from rag_finetune.metrics.retrieval import (
    KS,
    answer_recall,
    answers_in_corpus,
    gold_hits,
    retrieval_metrics,
)
from rag_finetune.metrics.text import load_text_metrics
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.decoding import decode
from rag_finetune.rag.generation import (
    Answer,
    Retrieved,
    answers_with_evidence,
    question_limit,
    require_batch_size,
    retrieve,
    tokenize_questions,
    warn_about_long_questions,
)

RETRIEVAL_DEPTH = max(KS)


@dataclass
class Evaluated:
    """What is known about one question once it was answered.

    Attributes:
        question: its row: id, question, answers, positive_ids.
        passages: every passage found, best first, with score; more than the generator read.
        doc_scores: inner products of the passages that the generator read, shape (n_docs,).
        answer: the best answer; None when only retrieval was measured.
        loss: negative log-likelihood of the first gold answer in nats; None when not computed.
        token_ids: of the answer, for `predict()`.
        label_ids: of the gold answer, for `predict()`.
    """

    question: dict[str, Any]
    passages: list[dict[str, Any]]
    doc_scores: list[float]
    answer: Answer | None = None
    loss: float | None = None
    token_ids: list[int] = field(default_factory=list)
    label_ids: list[int] = field(default_factory=list)

    def prediction(self) -> dict[str, Any]:
        """The row of predictions.jsonl."""
        row = {key: self.question[key] for key in ("id", "question", "answers")}
        if self.answer is None:
            keys = ("id", "title", "text", "score")
            return row | {"passages": [{k: p[k] for k in keys} for p in self.passages if p["id"]]}
        return row | {
            "prediction": self.answer.text,
            "score": self.answer.score,
            "passages": self.answer.passages,
        }


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
        questions: columns id, question, answers, positive_ids.
        n_docs: passages that the generator reads; None for the model's own.
        batch_size: questions at a time.
        max_question_length: tokens of a question; the rest is cut.
        thorough: RAG-Sequence only: score each candidate under every passage.
        progress: show a bar.
        **generation: anything `generate` takes: max_new_tokens, num_beams, …

    Returns:
        Metrics and predictions, in the order of the questions.

    Raises:
        ValueError: the model was loaded without a retriever, or an argument is out of range.
    """
    if rag.retriever is None:
        raise ValueError("Evaluation needs passages: load the model with its index.")
    require_batch_size(batch_size)
    n_docs = rag.retriever.clamp(n_docs)
    warn_about_long_questions(rag, list(questions["question"]), max_question_length)
    rows = _length_sorted(questions)
    evaluated: dict[int, Evaluated] = {}
    bar = tqdm(total=len(rows), desc="Evaluating", unit=" questions", disable=not progress)
    with bar, evaluation_mode(rag.model):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            examples = [questions[row] for row in batch]
            texts = [example["question"] for example in examples]
            tokens = tokenize_questions(rag, texts, max_question_length)
            retrieved = retrieve(
                rag.model,
                rag.retriever,
                tokens["input_ids"],
                tokens["attention_mask"],
                n_docs=n_docs,
                depth=RETRIEVAL_DEPTH,
            )
            evaluated |= zip(
                batch, answer_batch(rag, examples, retrieved, thorough, generation), strict=True
            )
            bar.update(len(batch))
    ordered = [evaluated[row] for row in range(len(rows))]
    corpus = rag.retriever.index
    return Evaluation(measure(ordered, corpus, n_docs), [row.prediction() for row in ordered])


def evaluate_retrieval(
    encoder: TextEncoder, index: PassageIndex, questions: Dataset, *, progress: bool = False
) -> Evaluation:
    """Measure retrieval alone, without a generator.

    Args:
        encoder: the question encoder.
        index: the opened index.
        questions: columns id, question, answers, positive_ids.
        progress: show a bar.

    Returns:
        Retrieval metrics, and the passages of each question as predictions.
    """
    label = "Encoding questions" if progress else ""
    vectors = encoder.encode(list(questions["question"]), progress=label)
    depth = min(RETRIEVAL_DEPTH, len(index))
    scores, doc_ids = index.search(vectors, depth)
    found, _ = index.gather(doc_ids)
    evaluated = []
    for row, example in enumerate(questions):
        passages = [
            {**passage, "score": float(score)}
            for passage, score in zip(
                found[row * depth : (row + 1) * depth], scores[row], strict=True
            )
        ]
        evaluated.append(Evaluated(example, passages, scores[row].tolist()))
    return Evaluation(measure(evaluated, index, None), [row.prediction() for row in evaluated])


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


def measure(
    evaluated: Sequence[Evaluated],
    index: PassageIndex,
    n_docs: int | None,
    *,
    ceiling: bool = True,
) -> dict[str, float]:
    """Every metric that the rows allow.

    Args:
        evaluated: the rows, at least one.
        index: what was searched.
        n_docs: passages that the generator read; None without a generator.
        ceiling: also go through the whole corpus for answer_in_corpus.

    Returns:
        exact_match, f1, bleu, rouge1, rouge2, rougeL (with answers), recall@k and mrr@10 (over the
        questions whose gold passages are known), answer_recall@k, answer_in_corpus (the ceiling:
        share of questions whose answer some passage holds), the figures of retrieval health, loss
        and n_examples.

    Raises:
        ValueError: there are no rows.
    """
    if not evaluated:
        raise ValueError("There is no question to evaluate.")
    golds = [row.question["answers"] for row in evaluated]
    metrics: dict[str, float] = {}
    if evaluated[0].answer is not None:
        predictions = [row.answer.text for row in evaluated if row.answer is not None]
        metrics |= load_text_metrics().compute(predictions=predictions, references=golds)
    ks = sorted({*KS, n_docs or KS[0]})
    metrics |= _gold_metrics(evaluated, ks)
    texts = [[passage["text"] for passage in row.passages] for row in evaluated]
    metrics |= answer_recall(texts, golds, ks)
    if ceiling:
        present = answers_in_corpus(_corpus(index), golds)
        metrics["answer_in_corpus"] = sum(present) / len(present)
    metrics |= health(evaluated, index)
    losses = [row.loss for row in evaluated if row.loss is not None]
    if losses:
        metrics["loss"] = float(np.mean(losses))
    metrics["n_examples"] = len(evaluated)
    return metrics


def health(evaluated: Sequence[Evaluated], index: PassageIndex) -> dict[str, float]:
    """Retrieval health over what the generator read."""
    scores = np.array([row.doc_scores for row in evaluated])
    retrieved = [[p["id"] for p in row.passages[: scores.shape[1]]] for row in evaluated]
    return retrieval_health(retrieved, scores, len(index))


def collator_for(rag: Rag, max_question_length: int, max_target_length: int) -> RagCollator:
    """The collator that fits a RAG model."""
    config = rag.model.config.generator
    return RagCollator(
        rag.tokenizer.question_encoder,
        rag.tokenizer.generator,
        decoder_start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
        max_question_length=question_limit(rag, max_question_length),
        max_target_length=max_target_length,
    )


def _gold_metrics(evaluated: Sequence[Evaluated], ks: Sequence[int]) -> dict[str, float]:
    """recall@k and MRR over the questions whose gold passages are known; empty without any."""
    known = [row for row in evaluated if row.question["positive_ids"]]
    if not known:
        return {}
    pairs = [[(p["id"], p["document_id"]) for p in row.passages] for row in known]
    return retrieval_metrics(gold_hits(pairs, [r.question["positive_ids"] for r in known]), ks)


def _corpus(index: PassageIndex) -> Iterable[str]:
    """The texts of all passages, read in blocks."""
    column = index.passages.select_columns(["text"])
    for block in column.iter(batch_size=1000):
        yield from block["text"]


def _length_sorted(questions: Dataset) -> list[int]:
    """Rows with the longest question first, so that batches hold little padding."""
    lengths = [len(question) for question in questions["question"]]
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])
