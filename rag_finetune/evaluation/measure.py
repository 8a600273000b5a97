"""What is known about each question, and every figure that it allows."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from datasets import Dataset

from rag_finetune.index.store import PassageIndex
from rag_finetune.metrics.health import retrieval_health
from rag_finetune.metrics.retrieval import (
    KS,
    answers_in_corpus,
    gold_hits,
    has_answer,
    recall_at_k,
    retrieval_metrics,
)
from rag_finetune.metrics.text import load_text_metrics
from rag_finetune.rag.generation import Answer


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
        answer_hits: whether each passage found holds an answer; taken from the texts at first use.
    """

    question: dict[str, Any]
    passages: list[dict[str, Any]]
    doc_scores: list[float]
    answer: Answer | None = None
    loss: float | None = None
    token_ids: list[int] = field(default_factory=list)
    label_ids: list[int] = field(default_factory=list)
    answer_hits: list[bool] | None = None

    def holds_answer(self) -> list[bool]:
        """Whether each passage found holds an answer, best first."""
        if self.answer_hits is None:
            golds = self.question["answers"]
            self.answer_hits = [has_answer(passage["text"], golds) for passage in self.passages]
        return self.answer_hits

    def without_texts(self) -> "Evaluated":
        """The same row, small enough to send to other processes: what figures need, no texts."""
        ids = [{key: p[key] for key in ("id", "document_id")} for p in self.passages]
        answer = self.answer and replace(self.answer, passages=[])
        return replace(self, passages=ids, answer=answer, answer_hits=self.holds_answer())

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
    hits = [row.holds_answer() for row in evaluated]
    metrics |= {f"answer_recall@{k}": recall_at_k(hits, k) for k in ks}
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


def _gold_metrics(evaluated: Sequence[Evaluated], ks: Sequence[int]) -> dict[str, float]:
    """recall@k and MRR over the questions whose gold passages are known; empty without any."""
    known = [row for row in evaluated if row.question["positive_ids"]]
    if not known:
        return {}
    pairs = [[(p["id"], p["document_id"]) for p in row.passages] for row in known]
    return retrieval_metrics(gold_hits(pairs, [r.question["positive_ids"] for r in known]), ks)


def warn_about_unknown_gold(questions: Dataset, index: PassageIndex) -> None:
    """Warn where gold ids are those of no passage: recall would be 0 and say nothing."""
    wanted = {gold for golds in questions["positive_ids"] for gold in golds}
    if not wanted:
        return
    for block in index.passages.select_columns(["id", "document_id"]).iter(batch_size=10_000):
        wanted -= {*block["id"], *block["document_id"]}
        if not wanted:
            return
    warnings.warn(
        f"{len(wanted):,} positive_ids are neither the id nor the document_id of a passage of "
        f"{index.folder}, such as {min(wanted)!r}: they count as not found.",
        stacklevel=3,
    )


def _corpus(index: PassageIndex) -> Iterable[str]:
    """The texts of all passages, read in blocks."""
    column = index.passages.select_columns(["text"])
    for block in column.iter(batch_size=1000):
        yield from block["text"]
