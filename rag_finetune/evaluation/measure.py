"""What is known about each question, and every figure that it allows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rag_finetune.index.store import PassageIndex
from rag_finetune.metrics.answers import answers_in_corpus, has_answer
from rag_finetune.metrics.health import retrieval_health
from rag_finetune.metrics.ranking import recall_at_k
from rag_finetune.metrics.retrieval import KS, gold_metrics
from rag_finetune.metrics.text import load_text_metrics
from rag_finetune.rag.generation import Answer


@dataclass
class Evaluated:
    """What is known about one question once it was answered.

    Attributes:
        question: its row: id, question, answers (empty where none is known), positive_ids.
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
    index: PassageIndex | None,
    n_docs: int | None = None,
    *,
    ceiling: bool = True,
) -> dict[str, float]:
    """Every metric that the rows allow.

    Args:
        evaluated: the rows, at least one.
        index: what was searched; None where nothing was, and there is no figure of retrieval.
        n_docs: passages that the generator read; None without a generator.
        ceiling: also go through the whole corpus for answer_in_corpus.

    Returns:
        exact_match, f1, bleu, rouge1, rouge2, rougeL (with a generator, over the questions whose
        answers are known), what `gold_metrics` gives (over those whose gold passages are known),
        answer_recall@k and answer_in_corpus (the ceiling: share of questions whose answer some
        passage holds; over those with an answer other than the empty string), the figures of
        retrieval health, loss, and n_examples, the number of all. What no question allows is
        absent.

    Raises:
        ValueError: there are no rows.
    """
    if not evaluated:
        raise ValueError("There is no question to evaluate.")
    metrics = _text_metrics(evaluated)
    if index is not None:
        ks = sorted({*KS, n_docs or KS[0]})
        metrics |= measure_gold(evaluated, ks)
        metrics |= measure_answer_recall(evaluated, ks, index if ceiling else None)
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


def _text_metrics(evaluated: Sequence[Evaluated]) -> dict[str, float]:
    """Figures of the answers over the questions whose gold answers are known."""
    pairs = [
        (row.answer.text, row.question["answers"])
        for row in evaluated
        if row.answer is not None and row.question["answers"]
    ]
    if not pairs:
        return {}
    predictions, references = map(list, zip(*pairs, strict=True))
    metrics: dict[str, float] = load_text_metrics().compute(
        predictions=predictions, references=references
    )
    return metrics


def measure_gold(evaluated: Sequence[Evaluated], ks: Sequence[int]) -> dict[str, float]:
    """Figures of the ranking over the questions whose gold passages are known."""
    known = [row for row in evaluated if row.question["positive_ids"]]
    if not known:
        return {}
    pairs = [[(p["id"], p["document_id"]) for p in row.passages] for row in known]
    return gold_metrics(pairs, [_grades(row.question) for row in known], ks)


def _grades(question: dict[str, Any]) -> dict[str, float]:
    """The gold ids of a question, each with its grade: 1 where the file has none."""
    ids = question["positive_ids"]
    return dict(zip(ids, question.get("positive_grades") or [1.0] * len(ids), strict=True))


def measure_answer_recall(
    evaluated: Sequence[Evaluated], ks: Sequence[int], index: PassageIndex | None
) -> dict[str, float]:
    """answer_recall@k, and with an index its ceiling, over the questions that have an answer.

    The empty string, the gold answer of an unanswerable question, is in no passage.
    """
    known = [row for row in evaluated if any(map(str.strip, row.question["answers"]))]
    if not known:
        return {}
    hits = [row.holds_answer() for row in known]
    metrics = {f"answer_recall@{k}": recall_at_k(hits, k) for k in ks}
    if index is not None:
        present = answers_in_corpus(_corpus(index), [row.question["answers"] for row in known])
        metrics["answer_in_corpus"] = sum(present) / len(present)
    return metrics


def _corpus(index: PassageIndex) -> Iterable[str]:
    """The texts of all passages, read in blocks."""
    column = index.passages.select_columns(["text"])
    for block in column.iter(batch_size=1000):
        yield from block["text"]
