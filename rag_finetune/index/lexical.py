"""Search by words: a folder of BM25 or TF-IDF beside the passages that it finds."""

import importlib.util
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rag_finetune.files import describe, read_text, staged_folder, write_json
from rag_finetune.index.bm25 import VOCABULARY, Bm25
from rag_finetune.index.tfidf import Tfidf
from rag_finetune.index.words import WordSplitter, splitter_for, splitter_from

KINDS = ("bm25", "tfidf")
FILE_NAME = "lexical.json"
FORMAT_VERSION = 1
TEXTS_PER_BLOCK = 1_000
# What each kind and a language need, and what installs it.
MODULES = {"bm25": ("bm25s",), "tfidf": ("scipy",), "language": ("bm25s", "Stemmer")}


class LexicalIndex:
    """Passages by their words.

    It may be used by several threads at once.

    Attributes:
        kind: "bm25" or "tfidf".
        settings: what it was built with: `build_lexical(…, kind, **settings)` builds one alike.
        splitter: cuts questions as it cut the passages.
    """

    def __init__(
        self,
        kind: str,
        settings: dict[str, Any],
        splitter: WordSplitter,
        vocabulary: dict[str, int],
        scorer: Bm25 | Tfidf,
    ) -> None:
        """Join the parts; `make_lexical` and `open_lexical` do."""
        self.kind, self.settings, self.splitter = kind, settings, splitter
        self._vocabulary, self._scorer = vocabulary, scorer

    def __len__(self) -> int:
        """Number of passages."""
        return self._scorer.n_passages

    def search(self, questions: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each question.

        Args:
            questions: their texts.
            k: passages a question, at least 1; where there are fewer passages, all of them.

        Returns:
            Scores, shape (batch, k) float32, and rows of the passages, shape (batch, k) int64, best
            first, of equal scores the lower row; row −1 with score −inf where fewer passages share
            a word with the question.

        Raises:
            ValueError: k is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, found {k}.")
        k = min(k, len(self))
        scores = np.full((len(questions), k), -np.inf, np.float32)
        rows = np.full((len(questions), k), -1, np.int64)
        for number, word_ids in enumerate(self._word_ids(questions)):
            found = self._scores(word_ids)
            best = best_rows(found, k)
            scores[number, : len(best)], rows[number, : len(best)] = found[best], best
        return scores, rows

    def scores_at(self, questions: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """The scores of given passages, as `search` would give them.

        Args:
            questions: their texts.
            rows: rows of passages for each question, shape (batch, n); −1 for none.

        Returns:
            Shape (batch, n) float32; 0 for no word in common, and for row −1.
        """
        scores = np.zeros(rows.shape, np.float32)
        for number, word_ids in enumerate(self._word_ids(questions)):
            scores[number] = self._scores(word_ids)[rows[number]]
        return np.where(rows < 0, np.float32(0.0), scores)

    def save(self, folder: Path) -> None:
        """Write it into an empty folder."""
        if isinstance(self._scorer, Bm25):
            self._scorer.save(folder)
        else:
            self._scorer.save(folder, self._vocabulary)
        write_json(
            folder / FILE_NAME,
            {
                "format_version": FORMAT_VERSION,
                "kind": self.kind,
                "settings": self.settings,
                "words": self.splitter.spec(),
            },
        )

    def _word_ids(self, questions: Sequence[str]) -> list[list[int]]:
        """Of each question the words that some passage has, by number."""
        known = self._vocabulary
        return [
            [known[word] for word in words if word in known]
            for words in self.splitter.split(questions)
        ]

    def _scores(self, word_ids: list[int]) -> np.ndarray:
        """The scores of all passages, shape (n_passages,)."""
        if not word_ids:
            return np.zeros(len(self), np.float32)
        return self._scorer.scores(word_ids)


def best_rows(scores: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k highest scores above 0, best first, of equal ones the lower row; or fewer."""
    rows = np.flatnonzero(scores > 0.0)
    if len(rows) > k:  # all that tie with the last one stay, so that the lower rows win
        bound = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        rows = rows[scores[rows] >= bound]
    return rows[np.argsort(-scores[rows], kind="stable")[:k]]


def make_lexical(
    texts: Iterable[str], kind: str, *, language: str | None = None, **settings: Any
) -> LexicalIndex:
    """A lexical index in memory.

    Args:
        texts: of the passages, title and text of each joined by a space; read once.
        kind: "bm25" or "tfidf".
        language: see `splitter_for`; None for no stop words and no stemmer.
        **settings: for "bm25" what `Bm25.build` takes: method, k1, b.

    Raises:
        ValueError: a package is missing, the kind or a setting is unknown or out of range, or no
            passage has a word that counts.
    """
    require_lexical(kind, language)
    allowed = ("method", "k1", "b") if kind == "bm25" else ()
    if unknown := sorted(settings.keys() - {*allowed}):
        raise ValueError(
            f'"{unknown[0]}" is no setting of {kind}. Its settings: '
            f"{', '.join(('language', *allowed))}."
        )
    splitter = splitter_for(language)
    vocabulary: dict[str, int] = {}
    word_ids: list[list[int]] = []
    texts = iter(texts)
    while block := list(islice(texts, TEXTS_PER_BLOCK)):
        for words in splitter.split(block):
            word_ids.append([vocabulary.setdefault(word, len(vocabulary)) for word in words])
    if not vocabulary:
        raise ValueError(
            f"An index by words needs words: none of the {len(word_ids)} passages has any"
            + (f" besides the stop words of {language}." if language else ".")
        )
    build: Any = Bm25.build if kind == "bm25" else Tfidf.build
    scorer = build(word_ids, vocabulary, **settings)
    settings = {"language": language, **settings}
    return LexicalIndex(kind, settings, splitter, vocabulary, scorer)


def build_lexical(texts: Iterable[str], folder: Path, kind: str, **settings: Any) -> None:
    """Write the lexical index of passages; the folder appears, whole, in one step.

    Args:
        texts: as for `make_lexical`, as are kind, settings and what is raised.
        folder: to make or to replace.
        kind: "bm25" or "tfidf".
        **settings: language, and for "bm25" method, k1 and b.

    Raises:
        ValueError: see `make_lexical`.
        OSError: it cannot be written.
    """
    index = make_lexical(texts, kind, **settings)
    with staged_folder(folder) as staged:
        index.save(staged)


def open_lexical(folder: Path) -> LexicalIndex:
    """Open what `build_lexical` wrote; scores are mapped, the vocabulary is read.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing.
        ValueError: a package is missing, or a file is damaged or of another format.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no index by words, {FILE_NAME} is missing. Build it: "
            "rag-finetune index --lexical bm25 or tfidf."
        )
    try:
        data = json.loads(read_text(path))
        if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
            found = data.get("format_version") if isinstance(data, dict) else describe(data)
            raise ValueError(f"expected format_version {FORMAT_VERSION}, found {found}")
        kind, settings = data["kind"], data["settings"]
        require_lexical(kind, data["words"]["stemmer"])
        splitter, vocabulary = splitter_from(data["words"]), _load_vocabulary(folder)
        scorer = (Bm25 if kind == "bm25" else Tfidf).load(folder)
        if scorer.n_words != len(vocabulary):
            raise ValueError(f"{len(vocabulary)} words, and scores of {scorer.n_words}")
        return LexicalIndex(kind, settings, splitter, vocabulary, scorer)
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, MissingPackageError):
            raise
        raise ValueError(
            f"{folder}: cannot be read ({' '.join(str(error).split())}). Build it again: "
            "rag-finetune index --lexical bm25 or tfidf."
        ) from error


class MissingPackageError(ValueError):
    """A package of the extra `lexical` is not installed."""


def require_lexical(kind: str, language: str | None = None) -> None:
    """Raise for an unknown kind, or where what it needs is not installed.

    Args:
        kind: "bm25" or "tfidf".
        language: whose stop words and stemmer are wanted; None for neither.

    Raises:
        ValueError: there is no such kind, or a package is missing.
    """
    if kind not in KINDS:
        raise ValueError(f'kind must be {" or ".join(KINDS)}, found "{kind}".')
    for module in MODULES[kind] + (MODULES["language"] if language else ()):
        if importlib.util.find_spec(module) is None:
            name = {"bm25": "BM25", "tfidf": "TF-IDF"}[kind]
            package = "PyStemmer" if module == "Stemmer" else module
            raise MissingPackageError(
                f"{name} needs {package}: pip install 'rag-finetune[lexical]'."
            )


def _load_vocabulary(folder: Path) -> dict[str, int]:
    """Words and their numbers."""
    vocabulary = json.loads(read_text(folder / VOCABULARY))
    if not isinstance(vocabulary, dict):
        raise ValueError(f"{VOCABULARY}: expected an object, found {describe(vocabulary)}")
    return vocabulary
