"""Hard negatives: passages that a search ranks high for a question and that do not answer it."""

import random
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from transformers.utils.logging import tqdm

from rag_finetune.data.qa import require_columns
from rag_finetune.index.gold import gold_rows
from rag_finetune.index.store import PassageIndex
from rag_finetune.metrics.answers import has_answer
from rag_finetune.retrieval.near_gold import near_gold
from rag_finetune.retrieval.rerank import Reranker, passage_text
from rag_finetune.retrieval.searchers import TextSearcher

SAMPLINGS = ("top", "random")
BLOCK = 256  # questions whose passages are held at a time
# Of `NegativeMiner.left_out`, the two that count questions.
WITHOUT_GOLD = "questions without a gold passage"
FEWER = "questions with fewer negatives"


class Found(NamedTuple):
    """A passage that a search found.

    Attributes:
        row: of the index.
        score: that of the search.
        retrieval: the name of the search.
        near: some search scores it too near to the gold passage.
    """

    row: int
    score: float
    retrieval: str
    near: bool = False


class NegativeMiner:
    """Finds hard negatives for questions whose gold passages are known.

    A negative is no gold passage nor piece of a gold document, has the text of none, holds no
    answer (in its title neither), and stands within the window of ranks of a search. Where a margin
    or a share is given, no search, whichever found it, gives it a score nearer to that of the best
    gold passage; where a cross-encoder is given, that does not either.

    Attributes:
        left_out: how many candidates fell to each of these rules, and how many questions were left
            out or got fewer negatives than asked for.
    """

    def __init__(
        self,
        index: PassageIndex,
        searchers: Mapping[str, TextSearcher],
        *,
        n_negatives: int = 10,
        from_rank: int = 1,
        to_rank: int = 100,
        margin: float | None = None,
        max_share: float | None = None,
        sampling: str = "top",
        seed: int = 42,
        reranker: Reranker | None = None,
        reranker_margin: float = 0.0,
    ) -> None:
        """Set the rules.

        Args:
            index: holds the passages.
            searchers: searches by name; their candidates are taken in turns, the best first.
            n_negatives: of each question at most.
            from_rank: the first rank that counts, from 1; gold passages have ranks, too.
            to_rank: the last one.
            margin: a negative's score is at most the gold passage's less this; None for any.
            max_share: it is at most this share of the gold passage's; None for any.
            sampling: "top" takes the first that fit, "random" draws among all that do.
            seed: of the draw, which depends on it and on the question's id alone.
            reranker: a cross-encoder that looks at every candidate and every gold passage.
            reranker_margin: its score of a negative is at most that of the gold passage less this.

        Raises:
            ValueError: a number is out of range.
        """
        if n_negatives < 1 or not 1 <= from_rank <= to_rank:
            raise ValueError(
                "n_negatives must be at least 1 and the ranks 1 ≤ from_rank ≤ to_rank, found "
                f"{n_negatives}, {from_rank} and {to_rank}."
            )
        if sampling not in SAMPLINGS:
            raise ValueError(f'sampling must be {" or ".join(SAMPLINGS)}, found "{sampling}".')
        if max_share is not None and not 0 < max_share <= 1:
            raise ValueError(f"max_share must be above 0 and at most 1, found {max_share}.")
        self.index, self.searchers = index, dict(searchers)
        self.n_negatives, self.window = n_negatives, slice(from_rank - 1, to_rank)
        self.margin, self.max_share = margin, max_share
        self.sampling, self.seed = sampling, seed
        self.reranker, self.reranker_margin = reranker, reranker_margin
        self.left_out: Counter[str] = Counter()

    def mine(self, questions: Dataset, *, progress: bool = False) -> Iterator[dict[str, Any]]:
        """Find the negatives of questions, block by block.

        Args:
            questions: as from `load_questions`; those without a gold passage in the index are left
                out, and counted.
            progress: show a bar.

        Yields:
            A row of DPR's JSON for each question, in their order: id, question, answers, and
            positive_ctxs, negative_ctxs (empty) and hard_negative_ctxs of title, text, passage_id,
            score and, with a cross-encoder, cross_encoder_score. Of a gold document that was cut
            the pieces that hold an answer are positives, or all of them if none does.
        """
        require_columns(questions)
        rows = gold_rows(questions, self.index)
        kept = [number for number, gold in enumerate(rows) if gold]
        self.left_out[WITHOUT_GOLD] += len(rows) - len(kept)
        _require_golds(kept, questions, self.index)
        bar = tqdm(total=len(kept), desc="Mining", unit=" questions", disable=not progress)
        with bar:
            for start in range(0, len(kept), BLOCK):
                block = kept[start : start + BLOCK]
                examples = [questions[number] for number in block]
                yield from self._mine_block(examples, [rows[number] for number in block])
                bar.update(len(block))

    def _mine_block(
        self, examples: list[dict[str, Any]], golds: list[list[int]]
    ) -> Iterator[dict[str, Any]]:
        candidates = self._candidates([example["question"] for example in examples], golds)
        wanted = {found.row for found_by in candidates for found in found_by}
        rows = np.array(sorted(wanted.union(*golds)))
        texts = dict(zip(rows.tolist(), self.index.passages_at(rows), strict=True))
        mined = []
        for example, gold, found in zip(examples, golds, candidates, strict=True):
            positives = _positives(example, [texts[row] for row in gold])
            negatives = self._without_gold(example, gold, found, texts)
            mined.append((positives, negatives))
        if self.reranker is not None:
            mined = self._rerank(self.reranker, examples, mined)
        for example, (positives, negatives) in zip(examples, mined, strict=True):
            yield self._row(example, positives, negatives)

    def _candidates(self, texts: list[str], golds: list[list[int]]) -> list[list[Found]]:
        """What the searches find for each question within the window, best first, in turns."""
        by_search = [
            self._found_by(name, searcher, texts) for name, searcher in self.searchers.items()
        ]
        merged = []
        for lists in zip(*by_search, strict=True):
            firsts: dict[int, Found] = {}
            for found in (one for turn in zip_longest(*lists) for one in turn if one is not None):
                firsts.setdefault(found.row, found)
            merged.append(list(firsts.values()))
        near = near_gold(
            self.searchers.values(),
            texts,
            golds,
            [[found.row for found in found_by] for found_by in merged],
            margin=self.margin,
            max_share=self.max_share,
        )
        return [
            [found._replace(near=found.row in rows) for found in found_by]
            for found_by, rows in zip(merged, near, strict=True)
        ]

    def _found_by(self, name: str, searcher: TextSearcher, texts: list[str]) -> list[list[Found]]:
        """What one search finds within the window."""
        scores, rows = searcher.search(texts, min(self.window.stop, len(self.index)))
        lists = zip(scores[:, self.window].tolist(), rows[:, self.window].tolist(), strict=True)
        return [
            [
                Found(row, score, name)
                for score, row in zip(found_scores, found_rows, strict=True)
                if row >= 0
            ]
            for found_scores, found_rows in lists
        ]

    def _without_gold(
        self,
        example: dict[str, Any],
        gold: list[int],
        found: list[Found],
        texts: dict[int, dict[str, str]],
    ) -> list[dict[str, Any]]:
        """Candidates as rows of DPR's JSON, without gold passages, repeats and answers."""
        seen = {bare_text(texts[row]["text"]) for row in gold}
        seen |= {bare_text(passage["text"]) for passage in example.get("positive_passages") or []}
        negatives = []
        for one in found:
            passage = texts[one.row]
            bare = bare_text(passage["text"])
            if one.row in gold:
                self.left_out["gold passages"] += 1
            elif bare in seen:
                self.left_out["repeats of gold passages or negatives"] += 1
            elif has_answer(passage_text(passage), example["answers"]):
                self.left_out["holding an answer"] += 1
            elif one.near:
                self.left_out["too near to the gold passage"] += 1
            else:
                seen.add(bare)
                score = {"score": one.score, "retrieval": one.retrieval}
                negatives.append(_context(passage) | score)
        return negatives

    def _rerank(
        self, reranker: Reranker, examples: list[dict[str, Any]], mined: list[tuple[list, list]]
    ) -> list[tuple[list, list]]:
        """Note the cross-encoder's scores, and leave out what it finds as good as the gold."""
        pairs = [
            (example["question"], passage_text(passage))
            for example, lists in zip(examples, mined, strict=True)
            for passages in lists
            for passage in passages
        ]
        scores = iter(reranker.score(pairs).tolist())
        kept = []
        for positives, negatives in mined:
            for passage in (*positives, *negatives):
                passage["cross_encoder_score"] = next(scores)
            best = max(passage["cross_encoder_score"] for passage in positives)
            ceiling = best - self.reranker_margin
            fit = [one for one in negatives if one["cross_encoder_score"] <= ceiling]
            self.left_out["too near by the cross-encoder"] += len(negatives) - len(fit)
            kept.append((positives, fit))
        return kept

    def _row(
        self, example: dict[str, Any], positives: list[Any], negatives: list[Any]
    ) -> dict[str, Any]:
        """A question with its negatives, drawn where they are drawn."""
        self.left_out[FEWER] += len(negatives) < self.n_negatives
        if self.sampling == "random" and len(negatives) > self.n_negatives:
            draw = random.Random(f"{self.seed} {example['id']}")
            chosen = sorted(draw.sample(range(len(negatives)), self.n_negatives))
            negatives = [negatives[place] for place in chosen]
        keys = ("id", "question", "answers")
        return {key: example[key] for key in keys} | {
            "positive_ctxs": positives,
            "negative_ctxs": [],
            "hard_negative_ctxs": negatives[: self.n_negatives],
        }


def _require_golds(kept: list[int], questions: Dataset, index: PassageIndex) -> None:
    """Raise where no question has a gold passage; warn where answers cannot be looked for."""
    if not kept:
        raise ValueError(
            f"{index.folder}: holds the gold passage of none of the {len(questions):,} questions, "
            "and negatives are told by it. Give positive_ids or positive_ctxs of these passages."
        )
    golds = questions["answers"][:]
    bare = sum(not any(map(str.strip, golds[number])) for number in kept)
    if bare:
        warnings.warn(
            f"{bare:,} of {len(kept):,} questions have no answer: whatever is not gold may become "
            "their negative.",
            stacklevel=4,
        )


def _positives(example: dict[str, Any], passages: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The gold passages; of several those that hold an answer, if any does."""
    holding = [p for p in passages if has_answer(passage_text(p), example["answers"])]
    return [_context(passage) for passage in holding or passages]


def _context(passage: dict[str, str]) -> dict[str, Any]:
    return {"title": passage["title"], "text": passage["text"], "passage_id": passage["id"]}


def bare_text(text: str) -> str:
    """A text by which repeats are told: without white space and case."""
    return "".join(text.split()).casefold()
