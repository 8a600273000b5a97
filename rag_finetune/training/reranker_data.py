"""What a reranker learns from: questions, each with a gold passage and others beside it."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset

from rag_finetune.data.candidates import Candidate, Candidates
from rag_finetune.retrieval.rerank import Reranker
from rag_finetune.training.retriever_data import RetrieverExamples


def candidates_of(
    questions: Dataset, rows: Iterable[Mapping[str, Any]]
) -> tuple[Dataset, list[Candidates]]:
    """Mined rows as candidates, and the questions that they are of.

    Args:
        questions: as from `load_questions`.
        rows: of DPR's JSON, as `NegativeMiner.mine` yields them.
    """
    mined = {row["id"]: row for row in rows}
    ids = questions["id"][:]
    kept = [number for number, row_id in enumerate(ids) if row_id in mined]
    lists = ("positive_ctxs", "hard_negative_ctxs")
    found = [
        Candidates(*([_candidate(context) for context in mined[ids[number]][key]] for key in lists))
        for number in kept
    ]
    return questions.select(kept), found


def with_negatives(
    questions: Dataset, candidates: Sequence[Candidates]
) -> tuple[Dataset, list[Candidates]]:
    """Leave out the questions that have nothing to be ranked above.

    Raises:
        ValueError: none is left.

    Warns:
        UserWarning: some are left out; with their number.
    """
    kept = [number for number, entry in enumerate(candidates) if entry.negatives]
    if not kept:
        raise ValueError(
            f"None of the {len(candidates):,} questions has a negative, and a reranker learns to "
            "tell them from the gold passage. Give hard_negative_ctxs, or an --index to mine."
        )
    if len(kept) < len(candidates):
        warnings.warn(
            f"{len(candidates) - len(kept):,} of {len(candidates):,} questions have no negative "
            "and are left out.",
            stacklevel=2,
        )
    return questions.select(kept), [candidates[number] for number in kept]


class RerankerCollator:
    """Lists of a gold passage and its negatives, as token ids of their pairs with the question."""

    def __init__(self, examples: RetrieverExamples, reranker: Reranker) -> None:
        """Keep both."""
        self.examples, self.reranker = examples, reranker

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate items of `RetrieverExamples`.

        Returns:
            rows (Q,) of the questions; pairs, what the network reads, all lists one after the
            other; and places, shape (Q, longest list) int64, where the pair of each list is, the
            gold passage first, −1 where a list is shorter.
        """
        pairs: list[tuple[str, str]] = []
        places: list[list[int]] = []
        longest = 1 + max(len(item["negatives"]) for item in items)
        for item in items:
            passages = [item["positive"], *item["negatives"]]
            first = len(pairs)
            pairs += [pair_of(self.examples, item["row"], passage) for passage in passages]
            numbers = list(range(first, len(pairs)))
            places.append(numbers + [-1] * (longest - len(numbers)))
        tokenizer = self.reranker.tokenizer
        return {
            "rows": torch.tensor([item["row"] for item in items]),
            "pairs": dict(tokenizer.pad(self.reranker.tokenize(pairs), return_tensors="pt")),
            "places": torch.tensor(places),
        }


def pair_of(examples: RetrieverExamples, row: int, passage: int) -> tuple[str, str]:
    """A question and a passage as a cross-encoder reads them."""
    return examples.questions[row], examples.passages.whole_text(passage)


def _candidate(context: Mapping[str, Any]) -> Candidate:
    return Candidate(context["title"], context["text"], context["passage_id"])
