"""Documents cut into the passages that are retrieved."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

from datasets import Dataset, Features, Value, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from rag_finetune.data.cutting import check_cut, cut_text, needs_tokenizer
from rag_finetune.data.documents import Document, find_sources, read_documents
from rag_finetune.data.formats import Source
from rag_finetune.data.repeats import KeyLog, find_repeats
from rag_finetune.data.reports import PLACES, REPEATED, UNCUT, Report

FEATURES = Features({name: Value("string") for name in ("id", "document_id", "title", "text")})
ROWS_PER_BATCH = 10_000

Paths = str | Path | Sequence[str | Path]


def iter_passages(
    paths: Paths,
    passage_words: int = 100,
    *,
    overlap: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    passages_format: str | None = None,
) -> Iterator[dict[str, str]]:
    """Read documents and cut them into passages, one after the other, in constant memory.

    What is read (`passages_format` names it where content and extension do not tell):

    - `tsv`: the header `id text title` (DPR's layout) or `title text`; `csv`: a header with `text`
      and, if it likes, `id` and `title`. Fields with tabs, newlines or quotes are quoted, the
      quotes in them doubled.
    - `jsonl`, `json`: objects with these keys, one a line or in a list; `_id` is read as `id`.
    - `parquet`, `datasets` (a folder that `Dataset.save_to_disk` wrote): columns of these names.
    - `beir`: `_id, title, text` in a JSONL file or in the `corpus.jsonl` of the folder named.
    - `flashrag`: `id, contents`, whose first line is the title, in quotes or not; contents of one
      line have no title.
    - `files`: a `.txt`, `.md`, `.html`, `.htm` or (extra `pdf`) `.pdf` file, or a folder of them,
      searched with the folders in it; see `read_text_file` for their titles. Hidden files are
      passed over, other extensions counted in a warning.

    A document without an id gets its row number, from 0; with several paths the file's stem comes
    before it (`laws-12`). A text file is called by its name, in a folder by its path from there on
    (`eu/gdpr.md`), after the folder's name with several paths. A document of one piece keeps its
    id; the pieces of a longer one are `<document_id>#1`, `#2` and so on; `cut_text` says how long
    they are and how text without spaces is cut. White space inside a piece stays as it was, around
    it it goes.

    Args:
        paths: the files or folders.
        passage_words: words a passage at most, split at white space; 0 keeps documents whole,
            their text unchanged.
        overlap: words that neighbouring passages of a document share, below `passage_words`.
        tokenizer: a fast tokenizer, the encoder's, that cuts text without spaces; None leaves such
            text whole.
        passages_format: one of `formats.FORMATS`, or None to find it.

    Returns:
        An iterator over passages with the keys `id`, `document_id`, `title` and `text`, all
        strings. At the end one warning each tells of rows or files without text (left out), of
        files that were not read, of documents that repeat title and text of an earlier one (kept),
        and of text without spaces that was not cut. Eight bytes a passage and a document are held.

    Raises:
        ValueError: at once: an argument is wrong, or a path is of no format that is read. While
            reading: a row is malformed. At the end, so before a consumer that waits for it has
            begun: files of a folder cannot be read, an id is used twice, or there is no passage.
        OSError: a file cannot be read.
    """
    check_cut(passage_words, overlap, tokenizer)
    sources = find_sources(paths, passages_format)
    return _Cutter(sources, passage_words, overlap, tokenizer).passages()


def load_passages(
    paths: Paths,
    passage_words: int = 100,
    *,
    overlap: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    passages_format: str | None = None,
) -> Dataset:
    """Read documents and cut them into a dataset of passages, held in memory.

    Args:
        paths: the files or folders; see `iter_passages`.
        passage_words: words a passage at most; 0 keeps documents whole.
        overlap: words that neighbouring passages of a document share.
        tokenizer: cuts text without spaces.
        passages_format: one of `formats.FORMATS`, or None to find it.

    Returns:
        A dataset with the string columns `id`, `document_id`, `title` and `text`.

    Raises:
        ValueError: as `iter_passages`.
        OSError: a file cannot be read.
    """
    # Dataset.from_generator would cache by the arguments and miss a file that has changed.
    passages = iter_passages(
        paths,
        passage_words,
        overlap=overlap,
        tokenizer=tokenizer,
        passages_format=passages_format,
    )
    batches = []
    while rows := list(islice(passages, ROWS_PER_BATCH)):
        batches.append(Dataset.from_list(rows, features=FEATURES))
    return concatenate_datasets(batches)


def locate_documents(
    paths: Paths, document_ids: Collection[str], *, passages_format: str | None = None
) -> dict[str, str]:
    """Find where documents stand, by reading the files again: for reports about passages.

    Args:
        paths: as they were given to `iter_passages`: one path or several decides on ids.
        document_ids: the `document_id` of passages.
        passages_format: as it was given to `iter_passages`.

    Returns:
        The place of each document that is there, as in error messages: `laws.tsv:17`,
        `laws.parquet, row 16 (from 0)`, `laws/eu/gdpr.md`. Reading stops when all are found.

    Raises:
        ValueError: as `iter_passages`.
        OSError: a file cannot be read.
    """
    wanted, places = set(document_ids), dict[str, str]()
    if not wanted:
        return places
    for document in read_documents(find_sources(paths, passages_format), Report()):
        if document.id in wanted:
            places.setdefault(document.id, document.place)
            if len(places) == len(wanted):
                break
    return places


class _Cutter:
    """Passages of all sources, and what is to be said when they have been read."""

    def __init__(
        self,
        sources: Sequence[Source],
        passage_words: int,
        overlap: int,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        self.sources = sources
        self.passage_words = passage_words
        self.overlap = overlap
        self.tokenizer = tokenizer

    def passages(self) -> Iterator[dict[str, str]]:
        report, ids, contents = Report(), KeyLog(), KeyLog()
        for document in read_documents(self.sources, report):
            ids.add(document.id)
            contents.add(_content_key(document))
            if self.tokenizer is None and needs_tokenizer(document.text, self.passage_words):
                report.add(UNCUT, document.place)
            for passage in self._cut(document):
                if passage["id"] != document.id:
                    ids.add(passage["id"])
                yield passage
        report.raise_errors()
        if not ids:
            raise ValueError(self._found_nothing(report))
        self._refuse_repeated_ids(ids)
        self._report_repeated_contents(contents, report)
        report.warn()

    def _cut(self, document: Document) -> Iterator[dict[str, str]]:
        pieces = cut_text(document.text, self.passage_words, self.overlap, self.tokenizer)
        for number, piece in enumerate(pieces, start=1):
            yield {
                "id": document.id if len(pieces) == 1 else f"{document.id}#{number}",
                "document_id": document.id,
                "title": document.title,
                "text": piece,
            }

    def _ids_again(self) -> Iterator[tuple[str, str]]:
        for document in read_documents(self.sources, Report()):
            yield document.id, document.place
            for passage in self._cut(document):
                if passage["id"] != document.id:
                    yield passage["id"], document.place

    def _contents_again(self) -> Iterator[tuple[bytes, str]]:
        for document in read_documents(self.sources, Report()):
            yield _content_key(document), document.place

    def _refuse_repeated_ids(self, ids: KeyLog) -> None:
        for repeat in find_repeats(self._ids_again, ids.suspects(), limit=1):
            raise ValueError(
                f'{repeat.second}: the id "{repeat.key}" is already taken by {repeat.first}. Give '
                f"every document its own id (the pieces of a long one are called id#1, id#2, …); "
                f"one that has none is called after its file, which may need another name."
            )

    def _report_repeated_contents(self, contents: KeyLog, report: Report) -> None:
        suspects = contents.suspects()
        repeats = find_repeats(self._contents_again, suspects, limit=PLACES)
        for repeat in repeats:
            report.add(REPEATED, f"{repeat.second} repeats {repeat.first}")
        if repeats:
            report.add(REPEATED, "", len(suspects) - len(repeats))

    def _found_nothing(self, report: Report) -> str:
        names = ", ".join(str(source.path) for source in self.sources)
        reasons = " ".join(report.messages())
        return f"{names}: expected passages, found no row with text. {reasons or 'Check the file.'}"


def _content_key(document: Document) -> bytes:
    """Equal for documents of the same title and text, and for no others."""
    content = f"{len(document.title)} {document.title}{document.text}"
    return hashlib.blake2b(content.encode(), digest_size=16).digest()
