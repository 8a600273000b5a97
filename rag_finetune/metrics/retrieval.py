"""How good the retrieved passages are: against gold ids, and by whether they hold an answer."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from math import log2

KS = (1, 5, 10, 20)


def gold_hits(
    retrieved: Sequence[Sequence[tuple[str, str]]], positive_ids: Sequence[Collection[str]]
) -> list[list[bool]]:
    """Mark the retrieved passages that are gold, or pieces of a gold document.

    Args:
        retrieved: for each question pairs (id, document_id), best first; lengths may differ.
        positive_ids: for each question the ids of its gold passages or documents. A question
            without any gets no hit: leave such questions out before figures are taken.

    Returns:
        For each question one flag a passage, in the same order.

    Raises:
        ValueError: the two differ in length.
    """
    _check_lengths("retrieved", retrieved, "positive_ids", positive_ids)
    return [
        [not gold.isdisjoint(names) for names in passages]
        for passages, gold in zip(retrieved, map(frozenset, positive_ids), strict=True)
    ]


def recall_at_k(hits: Sequence[Sequence[bool]], k: int) -> float:
    """Share of questions with a hit among their first `k` passages.

    Args:
        hits: for each question one flag a passage, best first; may be shorter than `k`.
        k: how many passages count, at least 1.

    Returns:
        A fraction.

    Raises:
        ValueError: there is no question, or `k` is below 1.
    """
    _check_hits(hits, k)
    return sum(any(flags[:k]) for flags in hits) / len(hits)


def mean_reciprocal_rank(hits: Sequence[Sequence[bool]], k: int = 10) -> float:
    """Mean over questions of 1 / rank of the first hit, 0 where the first `k` hold none.

    Args:
        hits: for each question one flag a passage, best first; may be shorter than `k`.
        k: how many passages count, at least 1.

    Returns:
        A fraction.

    Raises:
        ValueError: there is no question, or `k` is below 1.
    """
    _check_hits(hits, k)
    first_ranks = (next((i for i, hit in enumerate(flags[:k], 1) if hit), None) for flags in hits)
    return sum(1 / rank for rank in first_ranks if rank) / len(hits)


def ndcg_at_k(
    retrieved: Sequence[Sequence[tuple[str, str]]],
    positive_ids: Sequence[Collection[str]],
    k: int = 10,
) -> float:
    """Mean normalised discounted cumulative gain: were all gold passages found, and early?

    A gold id gains 1 / log2(rank + 1) where it is first found, as a passage or as a piece of the
    document that it names; further pieces of the same document gain nothing. The sum is divided by
    that of a ranking that has the gold ids first.

    Args:
        retrieved: for each question pairs (id, document_id), best first; lengths may differ.
        positive_ids: for each question the ids of its gold passages or documents, at least one.
        k: how many passages count, at least 1.

    Returns:
        A fraction.

    Raises:
        ValueError: the two differ in length, there is no question, one has no gold id, or `k` is
            below 1.

    Source:
        Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418, with gains of 0 and 1.
    """
    _check_lengths("retrieved", retrieved, "positive_ids", positive_ids)
    _check_hits(retrieved, k)
    if not all(positive_ids):
        raise ValueError("positive_ids must name at least one gold passage a question, found none.")
    total = 0.0
    for passages, gold in zip(retrieved, positive_ids, strict=True):
        missing = set(gold)
        ideal = sum(1 / log2(rank + 1) for rank in range(1, min(len(missing), k) + 1))
        for rank, names in enumerate(passages[:k], start=1):
            if not missing.isdisjoint(names):
                missing.difference_update(names)
                total += 1 / log2(rank + 1) / ideal
    return total / len(retrieved)


def retrieval_metrics(hits: Sequence[Sequence[bool]], ks: Sequence[int] = KS) -> dict[str, float]:
    """Take recall at several depths and the mean reciprocal rank at 10.

    Args:
        hits: for each question one flag a passage, best first.
        ks: the depths of recall.

    Returns:
        `recall@k` for each k, and `mrr@10`, as fractions.

    Raises:
        ValueError: there is no question, or a depth is below 1.
    """
    recalls = {f"recall@{k}": recall_at_k(hits, k) for k in ks}
    return recalls | {"mrr@10": mean_reciprocal_rank(hits, k=10)}


def has_answer(text: str, answers: Iterable[str]) -> bool:
    """Tell whether a text holds an answer, token by token.

    Both are NFD-normalised and cut into runs of letters, numbers and marks and single other visible
    characters, whose case is lowered; the answer's tokens must follow one another in the text.

    Args:
        text: a passage.
        answers: the gold answers; one without any token never matches.

    Returns:
        Whether any of the answers occurs.

    Source:
        Karpukhin et al. 2020, arXiv:2004.04906; `SimpleTokenizer` and `has_answer` of DPR's code.
    """
    tokens = _cached_token_string(text)
    return any(_occurs(_cached_token_string(answer), tokens) for answer in answers)


def answer_ranks(
    texts_per_question: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]
) -> list[list[bool]]:
    """Mark the retrieved passages that hold an answer.

    Args:
        texts_per_question: for each question the texts of its passages, best first.
        answers: for each question its gold answers.

    Returns:
        For each question one flag a passage, as `recall_at_k` takes them.

    Raises:
        ValueError: the two differ in length.
    """
    _check_lengths("texts_per_question", texts_per_question, "answers", answers)
    return [
        [has_answer(text, golds) for text in texts]
        for texts, golds in zip(texts_per_question, answers, strict=True)
    ]


def answer_recall(
    texts_per_question: Sequence[Sequence[str]],
    answers: Sequence[Sequence[str]],
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """Share of questions with an answer in their first k passages, at several depths.

    Args:
        texts_per_question: for each question the texts of its passages, best first.
        answers: for each question its gold answers.
        ks: the depths.

    Returns:
        `answer_recall@k` for each k, as fractions.

    Raises:
        ValueError: the two differ in length, there is no question, or a depth is below 1.
    """
    hits = answer_ranks(texts_per_question, answers)
    return {f"answer_recall@{k}": recall_at_k(hits, k) for k in ks}


def answers_in_corpus(texts: Iterable[str], answers: Sequence[Sequence[str]]) -> list[bool]:
    """Tell for each question whether the corpus holds any of its answers at all.

    The match is that of `has_answer`. The texts are gone through once; what was found is not looked
    for again, and the search ends when nothing is left.

    Args:
        texts: all passages, also as a stream.
        answers: for each question its gold answers.

    Returns:
        One flag a question: the ceiling of what retrieval can reach.

    Raises:
        ValueError: there is no question.
    """
    if not len(answers):
        raise ValueError("answers must hold at least one question, found none.")
    wanted: dict[str, set[int]] = {}  # answer → its questions
    for question, golds in enumerate(answers):
        for tokens in filter(str.strip, map(_token_string, golds)):
            wanted.setdefault(tokens, set()).add(question)
    common = Counter(token for tokens in wanted for token in set(tokens.split()))
    sought: dict[str, dict[str, set[int]]] = {}  # its rarest token → answer → its questions
    for tokens, questions in wanted.items():
        rarest = min(tokens.split(), key=lambda token: (common[token], token))
        sought.setdefault(rarest, {})[tokens] = questions
    found: set[int] = set()
    for text in texts:
        found |= _take_found(_token_string(text), sought)
        if not sought:
            break
    return [question in found for question in range(len(answers))]


def _take_found(text: str, sought: dict[str, dict[str, set[int]]]) -> set[int]:
    """Remove the answers that occur in a text, given as a token string; return their questions."""
    found: set[int] = set()
    for rarest in sought.keys() & set(text.split()):
        group = sought[rarest]
        for answer in [answer for answer in group if answer in text]:
            found |= group.pop(answer)
        if not group:
            del sought[rarest]
    return found


def _occurs(answer: str, text: str) -> bool:
    return bool(answer.strip()) and answer in text


def _token_string(text: str) -> str:
    """Join the lowered tokens with spaces, one at each end too: "in" finds whole tokens only."""
    tokens = _token_pattern().findall(unicodedata.normalize("NFD", text))
    return f" {' '.join(tokens).lower()} "


_cached_token_string = lru_cache(maxsize=4096)(_token_string)


@lru_cache(maxsize=1)
def _token_pattern() -> re.Pattern[str]:
    r"""Compile `[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]`, which Python's `re` cannot say by itself."""
    initials = "".join(unicodedata.category(chr(code))[0] for code in range(sys.maxunicode + 1))
    words = _character_class(initials, "[LNM]+")
    visible = _character_class(initials, "[^ZC]+")
    return re.compile(f"[{words}]+|[{visible}]")


def _character_class(initials: str, runs: str) -> str:
    """The ranges of code points where a pattern finds the first letters of their categories."""
    found = (run.span() for run in re.finditer(runs, initials))
    return "".join(f"\\U{start:08x}-\\U{end - 1:08x}" for start, end in found)


def _check_lengths(name: str, values: Sequence, other_name: str, others: Sequence) -> None:
    if len(values) != len(others):
        raise ValueError(
            f"{name} and {other_name} must have one entry a question, found {len(values)} and "
            f"{len(others)}. Take both from the same questions."
        )


def _check_hits(hits: Sequence[Sequence], k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}. Write 1 for the best passage alone.")
    if not len(hits):
        raise ValueError("hits must hold at least one question, found none.")
