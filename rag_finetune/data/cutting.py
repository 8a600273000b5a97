"""Long texts cut into pieces of even size: by words, and by tokens where there are no spaces."""

import math
import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

# Thai and Lao, Tibetan, Burmese, Khmer, kana, Chinese characters (the last range: planes 2 and 3).
UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
LONG_WORD = 40
WORD = re.compile(r"\S+")
UNSPACED_CHARACTER = re.compile(rf"[{UNSPACED}]")
COUNTED_BY_TOKENS = re.compile(rf"[{UNSPACED}]|\S{{{LONG_WORD + 1}}}")
CHARACTERS_PER_CALL = 10_000
CHARACTERS_PER_TOKEN = 4  # of a long word in a spaced script: an estimate


class _Units(NamedTuple):
    """What a text is cut between: words, or groups of tokens.

    Attributes:
        starts: where each begins, in characters.
        ends: where each ends.
        sums: words and tokens before each unit, and at last before the end: one more entry.
    """

    starts: Sequence[int]
    ends: Sequence[int]
    sums: Sequence[int]


def check_cut(
    passage_words: int, overlap: int, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Check how texts shall be cut, before any is read.

    Raises:
        ValueError: `passage_words` is below 0, `overlap` is not below it (or not 0 where documents
            stay whole), or the tokenizer does not tell which characters a token stands for.
    """
    if passage_words < 0:
        raise ValueError(
            f"passage_words must be at least 0, found {passage_words}. "
            f"Write 0 to keep documents whole."
        )
    if overlap and not 0 <= overlap < passage_words:
        raise ValueError(
            f"overlap must be at least 0 and below passage_words ({passage_words}), found "
            f"{overlap}. Write 0 for passages that share no words."
        )
    if tokenizer is not None and not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer must be a fast one, found {type(tokenizer).__name__}, which does not tell "
            f"where a token begins. Load it with AutoTokenizer."
        )


def cut_text(
    text: str,
    passage_words: int,
    overlap: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[str]:
    """Cut a text into as few pieces as can be, of even size.

    The size is counted in words between white space. With a tokenizer, a word counts as its
    tokens, and can be cut between them, where it holds a character of a script that is written
    without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan), or more than 40
    characters (a URL, base64). Each such word is tokenised by itself, without special tokens; no
    cut falls inside a character or before its accents. Without a tokenizer every word counts 1.

    Of W words in all, n = ceil((W − overlap) / (passage_words − overlap)) pieces are made, each
    but the last of ceil((W + (n − 1) · overlap) / n) words, and each begins with the last `overlap`
    words of the one before. (Where a character takes several tokens a piece or an overlap can come
    out shorter, never longer, unless one character alone exceeds it.)

    Args:
        text: what to cut.
        passage_words: words a piece at most; 0 keeps the text whole and unchanged.
        overlap: words that neighbouring pieces share, below `passage_words`.
        tokenizer: a fast tokenizer, or None.

    Returns:
        The pieces: stretches of the text as they stand in it, without white space around them.
        With overlap 0 they hold all of the text but the white space at the cuts. A text of white
        space only gives none.
    """
    if not passage_words:
        return [text]
    by_tokens = tokenizer is not None and COUNTED_BY_TOKENS.search(text)
    if not by_tokens and len(text.split()) <= passage_words:
        return [text.strip()] if text.strip() else []
    units = _find_tokens(text, tokenizer) if by_tokens and tokenizer else _find_words(text)
    return [
        text[units.starts[first] : units.ends[last - 1]]
        for first, last in _find_pieces(units.sums, passage_words, overlap)
    ]


def needs_tokenizer(text: str, passage_words: int) -> bool:
    """Tell whether words that only a tokenizer can cut hold more than one piece should.

    Args:
        text: a text that is cut without a tokenizer.
        passage_words: words a piece at most; 0 keeps texts whole, and needs none.

    Returns:
        True where such words hold more than `passage_words` tokens by estimate: one a character of
        an unspaced script, one for four characters of other long words.
    """
    if not passage_words or not COUNTED_BY_TOKENS.search(text):
        return False
    tokens = len(UNSPACED_CHARACTER.findall(text))
    for match in re.finditer(rf"\S{{{LONG_WORD + 1},}}", text):
        if not UNSPACED_CHARACTER.search(match[0]):
            tokens += len(match[0]) // CHARACTERS_PER_TOKEN
    return tokens > passage_words


def _find_words(text: str) -> _Units:
    starts = array("q", map(re.Match.start, WORD.finditer(text)))
    ends = array("q", map(re.Match.end, WORD.finditer(text)))
    return _Units(starts, ends, range(len(starts) + 1))


def _find_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> _Units:
    starts, ends, weights = array("q"), array("q"), array("q")
    for match in WORD.finditer(text):
        parts: Iterable[tuple[int, int, int]] = [(0, len(match[0]), 1)]
        if COUNTED_BY_TOKENS.search(match[0]):
            parts = _split_word(match[0], tokenizer)
        for start, end, weight in parts:
            starts.append(match.start() + start)
            ends.append(match.start() + end)
            weights.append(weight)
    return _Units(starts, ends, array("q", accumulate(weights, initial=0)))


def _split_word(word: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, int, int]]:
    """Start, end and tokens of the smallest parts of a word between which it can be cut."""
    finish = 0
    while finish < len(word):
        begin, finish = finish, min(finish + CHARACTERS_PER_CALL, len(word))
        while finish < len(word) and not can_cut(word, finish):
            finish += 1
        part = word[begin:finish]
        offsets = tokenizer(
            part, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        start, reach, weight = 0, 0, 0
        for token_start, token_end in offsets:
            # Several tokens can share a character, and a token can stand for none.
            if weight and token_start >= reach and can_cut(part, token_start):
                yield begin + start, begin + token_start, weight
                start, weight = token_start, 0
            reach, weight = max(reach, token_end), weight + 1
        yield begin + start, begin + len(part), max(weight, 1)


def can_cut(word: str, position: int) -> bool:
    """Whether what stands at a position begins something that is seen as one character."""
    if not 0 < position < len(word):
        return False
    joined = "\u200d" in word[position - 1 : position + 1]
    is_mark = unicodedata.category(word[position]).startswith("M")
    return not (joined or is_mark or "\U0001f3fb" <= word[position] <= "\U0001f3ff")


def _find_pieces(sums: Sequence[int], limit: int, overlap: int) -> Iterator[tuple[int, int]]:
    """First unit and end of each piece."""
    total, last = sums[-1], len(sums) - 1
    if total <= limit:
        if last:
            yield 0, last
        return
    count = math.ceil((total - overlap) / (limit - overlap))
    size = math.ceil((total + (count - 1) * overlap) / count)
    first, end = 0, 0
    while end < last:
        # At least one unit more than the piece before, and the overlap shortened where it must be.
        needed = bisect_left(sums, sums[end + 1] - size)
        first = min(end, max(bisect_left(sums, sums[end] - overlap), needed)) if end else 0
        end = max(bisect_right(sums, sums[first] + size) - 1, end + 1)
        yield first, end
