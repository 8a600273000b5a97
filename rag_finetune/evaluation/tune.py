"""Which way of retrieval suits an index? Tried on a file of questions."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from rag_finetune.data.qa import require_columns
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.dense_search import least_effort
from rag_finetune.index.gold import resolve_positives
from rag_finetune.index.manifest import load_manifest
from rag_finetune.index.store import PassageIndex
from rag_finetune.index.versions import claimed_index
from rag_finetune.metrics.retrieval import KS, has_answer, retrieval_metrics
from rag_finetune.retrieval.hybrid import fuse
from rag_finetune.retrieval.search import Searcher
from rag_finetune.retrieval.way import FUSIONS, LEXICAL, Retrieval

WEIGHTS = tuple(tenth / 10 for tenth in range(1, 10))
EFFORTS = (0.25, 0.5, 1, 2, 4)  # of efSearch and nprobe as they are
PARAMETERS = ("efSearch", "nprobe")
METRICS = (*(f"recall@{k}" for k in KS), "mrr@10")


@dataclass(frozen=True)
class Trial:
    """One way that was tried.

    Attributes:
        retrieval: the way.
        search_parameters: of the vectors.
        metrics: recall@k and mrr@10, of the gold passages, or else of passages with an answer.
        milliseconds: of searching by vectors, a question; 0 by words alone.
    """

    retrieval: Retrieval
    search_parameters: dict[str, Any]
    metrics: dict[str, float]
    milliseconds: float


def tune_retrieval(
    encoder: TextEncoder | None,
    index: PassageIndex,
    questions: Dataset,
    *,
    kinds: Sequence[str] = LEXICAL,
) -> Iterator[Trial]:
    """Try every way that an index has: vectors, each kind of words, and both at many weights.

    Args:
        encoder: the question encoder; None where only words are to be tried.
        index: the opened index.
        questions: columns question, answers, positive_ids. Those with gold passages count; where
            none has any, those with answers do.
        kinds: the indexes by words to try, of those that there are.

    Yields:
        The trials, simpler and quicker ones first.

    Raises:
        ValueError: no question has gold passages or answers, or there is nothing to choose from.
    """
    require_columns(questions)
    kinds = [kind for kind in kinds if kind in index.manifest.lexical]
    by_vectors = encoder is not None and index.manifest.has_vectors
    if not kinds and not by_vectors:
        raise ValueError(f"{index.folder}: there is nothing to try: name a question encoder.")
    judge = _Judge(index, resolve_positives(questions, index))
    depth, set_now = min(max(KS), len(index)), index.manifest.search_parameters
    for kind in kinds:
        rows = index.lexical(kind).search(judge.texts, depth)[1]
        yield Trial(Retrieval(kind, kind), set_now, judge.figures(rows), 0.0)
    if encoder is None or not by_vectors:
        return
    index.check_encoder(encoder.dimension, encoder.settings())
    vectors = encoder.encode(judge.texts)
    for parameters in _efforts(set_now, least_effort(depth, len(index))):
        tried = index.searched_with(parameters)
        start = time.perf_counter()
        rows = tried.search(vectors, depth)[1]
        taken = 1000 * (time.perf_counter() - start) / len(vectors)
        dense = Retrieval("dense", kinds[0] if kinds else "bm25")
        yield Trial(dense, parameters, judge.figures(rows), taken)
        for kind in kinds:
            searcher = Searcher(tried, Retrieval("hybrid", kind))
            found = searcher.candidates(vectors, judge.texts, depth, with_scores=True)
            for fusion in FUSIONS:
                for weight in WEIGHTS:
                    rows = fuse(found, fusion, weight, depth)[1]
                    way = Retrieval("hybrid", kind, fusion, weight)
                    yield Trial(way, parameters, judge.figures(rows), taken)


def best_trial(trials: Sequence[Trial], metric: str) -> Trial:
    """The trial with the highest figure; of equal ones the first."""
    return max(trials, key=lambda trial: trial.metrics[metric])


def write_choice(index: PassageIndex, trial: Trial) -> Retrieval:
    """Write a way into the manifest of an index, which keeps its prior.

    An index whose passages were updated since it was opened takes it as well.

    Returns:
        What was written.

    Raises:
        ValueError: the index is of another type by now, or has other indexes by words.
        BlockingIOError: another process is changing it.
        OSError: the manifest cannot be written.
    """
    with claimed_index(index.folder):
        now = load_manifest(index.folder)
        for name in ("faiss_factory", "has_vectors", "lexical"):
            before, found = getattr(index.manifest, name), getattr(now, name)
            if before != found:
                raise ValueError(
                    f"{index.folder}: was changed while it was tried: {name} was {before}, and is "
                    f"{found} now. Give the command again."
                )
        chosen = replace(trial.retrieval, prior=now.retrieval.get("prior", 0.0))
        parameters = trial.search_parameters
        replace(now, retrieval=chosen.data(), search_parameters=parameters).save(index.folder)
    return chosen


class _Judge:
    """Tells which rows of an index answer which questions; each pair is looked at once."""

    def __init__(self, index: PassageIndex, questions: Dataset) -> None:
        self._index = index
        golds, answers = questions["positive_ids"][:], questions["answers"][:]
        self._by_gold = any(golds)
        wanted = golds if self._by_gold else [[a for a in row if a.strip()] for row in answers]
        known = [number for number, row in enumerate(wanted) if row]
        if not known:
            raise ValueError(
                "None of the questions has gold passages or answers: nothing tells which way is "
                'better. Give "positive_ids" or "answers".'
            )
        self.texts: list[str] = questions.select(known)["question"][:]
        self._wanted = [frozenset(wanted[number]) for number in known]
        self._hits: dict[tuple[int, int], bool] = {}
        self._passages: dict[int, dict[str, str]] = {}

    def figures(self, rows: np.ndarray) -> dict[str, float]:
        """The figures of what was found, rows of shape (questions, depth)."""
        new = np.array(sorted({*np.unique(rows).tolist()} - self._passages.keys() - {-1}), int)
        for row, passage in zip(new.tolist(), self._index.passages_at(new), strict=True):
            self._passages[row] = passage
        hits = [[self._hit(n, row) for row in found] for n, found in enumerate(rows.tolist())]
        every = retrieval_metrics(hits, KS)
        return {name: every[name] for name in METRICS}

    def _hit(self, question: int, row: int) -> bool:
        if row < 0:
            return False
        if (question, row) not in self._hits:
            passage, wanted = self._passages[row], self._wanted[question]
            if self._by_gold:
                hit = not wanted.isdisjoint((passage["id"], passage["document_id"]))
            else:
                hit = has_answer(passage["text"], wanted)
            self._hits[question, row] = hit
        return self._hits[question, row]


def _efforts(parameters: Mapping[str, Any], least: int = 1) -> list[dict[str, Any]]:
    """Search parameters to try: efSearch or nprobe from a quarter to four times what it is.

    No efSearch below the least that such a deep search takes anyway: it would be given the figures
    of a greater one.
    """
    name = next((name for name in PARAMETERS if name in parameters), None)
    if name is None:
        return [dict(parameters)]
    least = least if name == "efSearch" else 1
    values = dict.fromkeys(max(least, round(parameters[name] * effort)) for effort in EFFORTS)
    return [{**parameters, name: value} for value in values]
