"""Whether a text holds an answer, token by token as DPR matches them."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache


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
