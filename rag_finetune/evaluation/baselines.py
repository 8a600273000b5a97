"""What a model must beat: the most frequent answer, no passages at all, and BM25's passages."""

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset

from rag_finetune.data.qa import require_columns
from rag_finetune.evaluation.evaluate import (
    RETRIEVAL_DEPTH,
    Evaluation,
    answer_questions,
    evaluation_of,
    require_answers,
    require_retriever,
)
from rag_finetune.evaluation.measure import Evaluated, measure
from rag_finetune.index.corpus import passage_texts
from rag_finetune.index.lexical import LexicalIndex, make_lexical, require_lexical
from rag_finetune.index.store import PassageIndex
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.generation import Answer, Retrieved, write_contexts
from rag_finetune.rag.scoring import mask_missing

NOTHING = {"title": "", "text": ""}


def evaluate_closed_book(rag: Rag, questions: Dataset, **options: Any) -> Evaluation:
    """Let the generator answer from the question alone: it reads an empty passage.

    Args:
        rag: what `load_rag` gave, with its retriever, which is not asked.
        questions: as for `evaluate_rag`.
        **options: what `evaluate_rag` takes, but n_docs.

    Returns:
        Metrics of the answers, without any of retrieval, and predictions without passages.

    Raises:
        ValueError: as for `evaluate_rag`.
    """
    retriever = require_retriever(rag)

    def find_nothing(texts: list[str], tokens: Any) -> Retrieved:
        read = [[NOTHING] for _ in texts]
        scores = torch.zeros(len(texts), 1)
        contexts = write_contexts(
            rag.model, retriever, tokens["input_ids"], read, scores, questions=texts
        )
        return Retrieved(contexts, [[] for _ in texts])

    rows = answer_questions(rag, questions, find_nothing, **options)
    return Evaluation(measure(rows, None), [row.prediction() for row in rows])


def evaluate_lexical(
    rag: Rag, questions: Dataset, *, n_docs: int | None = None, **options: Any
) -> Evaluation:
    """Let the generator answer from the passages that BM25 finds, with BM25's scores as doc_scores.

    Args:
        rag: what `load_rag` gave, with its retriever, whose passages are searched.
        questions: as for `evaluate_rag`.
        n_docs: passages that the generator reads; None for the model's own.
        **options: what else `evaluate_rag` takes.

    Returns:
        Metrics and predictions, as of `evaluate_rag`.

    Raises:
        ValueError: bm25s is not installed; or as for `evaluate_rag`.
    """
    require_lexical("bm25")
    retriever = require_retriever(rag)
    n_docs = retriever.clamp(n_docs)
    depth = min(max(RETRIEVAL_DEPTH, n_docs), len(retriever.index))

    def search(texts: list[str], tokens: Any) -> Retrieved:
        found, rows = bm25_of(retriever.index).search(texts, depth)
        passages = retriever.index.passages_at(rows)
        for passage, score in zip(passages, found.reshape(-1).tolist(), strict=True):
            passage["score"] = score
        groups = [passages[start : start + depth] for start in range(0, len(passages), depth)]
        doc_ids = rows[:, :n_docs]
        scores = mask_missing(torch.from_numpy(found[:, :n_docs]), torch.from_numpy(doc_ids))
        read = [group[:n_docs] for group in groups]
        ids = tokens["input_ids"]
        return Retrieved(write_contexts(rag.model, retriever, ids, read, scores, doc_ids), groups)

    rows = answer_questions(rag, questions, search, **options)
    return evaluation_of(rows, retriever.index, n_docs, by_words=True)


def evaluate_most_frequent(
    train_questions: Dataset, questions: Dataset, kind_of: Callable[[str], str]
) -> Evaluation:
    """Answer every question with what most training questions of its kind have as first answer.

    Args:
        train_questions: columns id, question, answers, positive_ids, as from `load_questions`.
        questions: the same.
        kind_of: the kind of a question by its id. For a kind that training has not, the most
            frequent answer of all is taken; of equally frequent ones that which is seen first.

    Returns:
        Metrics of the answers. The score of a prediction is the logarithm of its share in training.

    Raises:
        ValueError: there are no questions, or none has an answer.
    """
    for table in (train_questions, questions):
        require_columns(table)
        require_answers(table)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    everything: Counter[str] = Counter()
    for row in train_questions.select_columns(["id", "answers"]):
        if row["answers"]:
            counts[kind_of(row["id"])][row["answers"][0]] += 1
            everything[row["answers"][0]] += 1
    if not everything:
        raise ValueError("There is no training question to take the most frequent answer from.")
    rows = []
    for question in questions:
        seen = counts.get(kind_of(question["id"]), everything)
        [(text, count)] = seen.most_common(1)
        answer = Answer(text, math.log(count / seen.total()), [])
        rows.append(Evaluated(question, [], [], answer))
    return Evaluation(measure(rows, None), [row.prediction() for row in rows])


@functools.lru_cache(maxsize=1)
def bm25_of(index: PassageIndex) -> LexicalIndex:
    """BM25 over the passages of an index, in memory, without the words of any language.

    That of the last index is kept: several sets of questions are asked of it.
    """
    return make_lexical(passage_texts(index.passages), "bm25")
