"""What was met in the documents and has to be said: counted, with the first places, once."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

PLACES = 5


class Kind(NamedTuple):
    """One thing to report: how it is said of one and of many, and the remedy."""

    one: str
    many: str
    remedy: str


EMPTY = Kind(
    "1 row has no text and was left out",
    "{count} rows have no text and were left out",
    "Fill them in, or delete them to silence this.",
)
EMPTY_FILE = Kind(
    "1 file has no text and was left out",
    "{count} files have no text and were left out",
    "A scanned PDF has no text layer until OCR has added one; delete other files without text.",
)
SKIPPED = Kind(
    "1 file was not read",
    "{count} files were not read",
    "Folders are searched for .txt, .md, .html, .htm and .pdf; convert the file, or name tables by "
    "themselves.",
)
UNCUT = Kind(
    "1 document is written without spaces and was not cut there",
    "{count} documents are written without spaces and were not cut there",
    "Pass the encoder's tokenizer, which cuts such text by tokens.",
)
REPEATED = Kind(
    "1 document repeats title and text of an earlier one and was kept",
    "{count} documents repeat title and text of an earlier one and were kept",
    "Delete the copies: each takes a place among the passages retrieved.",
)


class Report:
    """Counts by kind, with the first places of each; files that could not be read apart."""

    def __init__(self) -> None:
        """Begin with nothing to report."""
        self._counts: Counter[Kind] = Counter()
        self._places: dict[Kind, list[str]] = {}
        self._errors: list[str] = []
        self._error_count = 0

    def add(self, kind: Kind, place: str, count: int = 1) -> None:
        """Count more of a kind, all at one place; the first five places are named."""
        if not count:
            return
        self._counts[kind] += count
        places = self._places.setdefault(kind, [])
        if len(places) <= PLACES:
            places.append(place)

    def add_error(self, message: str) -> None:
        """Note that a file cannot be read; `raise_errors` says so for all of them at once."""
        self._error_count += 1
        if len(self._errors) < PLACES:
            self._errors.append(message)

    def raise_errors(self) -> None:
        """Raise where files could not be read.

        Raises:
            ValueError: with the messages of the first five.
        """
        if self._error_count == 1:
            raise ValueError(self._errors[0])
        if self._errors:
            more = " …" if self._error_count > PLACES else ""
            raise ValueError(
                f"{self._error_count} files cannot be read: {' '.join(self._errors)}{more}"
            )

    def messages(self) -> list[str]:
        """One message a kind: count, first places, remedy."""
        return [self._message(kind) for kind in self._counts]

    def warn(self) -> None:
        """Warn once for each kind."""
        for message in self.messages():
            warnings.warn(message, stacklevel=3)

    def _message(self, kind: Kind) -> str:
        count = self._counts[kind]
        said = kind.one if count == 1 else kind.many.format(count=count)
        places = self._places[kind]
        more = ", …" if len(places) > PLACES else ""
        return f"{said}: {', '.join(places[:PLACES])}{more}. {kind.remedy}"


@contextmanager
def quiet_log(name: str) -> Iterator[None]:
    """Keep a library's log off the screen where an error of ours says it, or nothing needs to."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
