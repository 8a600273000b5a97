"""Texts as words, by a specification that is kept with an index: its questions are cut alike."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rag_finetune.files import nearest

# Single characters too: "element H".
WORD = r"(?u)\b\w+\b"
# bm25s's own, for a language: a single letter is mostly what an apostrophe leaves.
WORD_OF_LANGUAGE = r"(?u)\b\w\w+\b"
# Those that have both a list of stop words (in bm25s) and a stemmer (in PyStemmer).
LANGUAGES = (
    "danish dutch english french german italian norwegian portuguese russian spanish swedish "
    "turkish"
).split()


@dataclass(frozen=True)
class WordSplitter:
    """How texts are cut into words.

    Attributes:
        token_pattern: the regular expression of a word, searched in the lower-cased text.
        stop_words: words that do not count.
        stemmer: Snowball's name of the algorithm that reduces words to stems; None for none.
    """

    token_pattern: str = WORD
    stop_words: tuple[str, ...] = ()
    stemmer: str | None = None

    def split(self, texts: Iterable[str]) -> list[list[str]]:
        """The words of each text that count, in their order, stemmed where there is a stemmer."""
        find, stop_words = re.compile(self.token_pattern).findall, frozenset(self.stop_words)
        words = [[word for word in find(text.lower()) if word not in stop_words] for text in texts]
        if self.stemmer is None:
            return words
        # A stemmer of its own for each call: one must not be shared by threads.
        distinct = list(dict.fromkeys(word for found in words for word in found))
        stems = dict(zip(distinct, _stemmer(self.stemmer).stemWords(distinct), strict=True))
        return [[stems[word] for word in found] for found in words]

    def spec(self) -> dict[str, Any]:
        """The splitter as JSON data, which `splitter_from` makes one from."""
        return {**asdict(self), "stop_words": list(self.stop_words)}


def splitter_for(language: str | None) -> WordSplitter:
    """The splitter of a language.

    Args:
        language: one of LANGUAGES, for its stop words and its stemmer, over words of two letters
            or more; None for every word as it is, which suits any language with spaces.

    Raises:
        ValueError: there is no such language.
    """
    if language is None:
        return WordSplitter()
    require_language(language)
    from bm25s.tokenization import Tokenizer

    stop_words = Tokenizer(stopwords=language).stopwords
    return WordSplitter(WORD_OF_LANGUAGE, tuple(stop_words), language)


def splitter_from(spec: Mapping[str, Any]) -> WordSplitter:
    """The splitter that `WordSplitter.spec` described.

    Raises:
        ValueError: it describes none.
    """
    try:
        splitter = WordSplitter(**{**spec, "stop_words": tuple(spec["stop_words"])})
        re.compile(splitter.token_pattern)
        if splitter.stemmer is not None:
            _stemmer(splitter.stemmer)
    except (TypeError, KeyError, re.error) as error:
        raise ValueError(f'"words" is no specification of how texts are cut ({error})') from error
    return splitter


def require_language(language: str, name: str = "language") -> None:
    """Raise for a language without stop words and stemmer.

    Args:
        language: what was asked for.
        name: what the setting is called where it was.

    Raises:
        ValueError: there are none for it; the message names those that there are.
    """
    if language not in LANGUAGES:
        guess = nearest(language.lower(), LANGUAGES)
        hint = f' Did you mean "{guess}"?' if guess else " Leave it out for any other language."
        raise ValueError(f'{name} must be one of {", ".join(LANGUAGES)}, found "{language}".{hint}')


def _stemmer(algorithm: str) -> Any:
    import Stemmer

    return Stemmer.Stemmer(algorithm)
