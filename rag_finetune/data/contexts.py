"""The passages that a file of questions brings along, cut like any other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_finetune.data.cutting import check_cut, cut_text
from rag_finetune.data.qa_formats import iter_contexts
from rag_finetune.data.repeats import KeyLog, find_repeats
from rag_finetune.files import check_file


def iter_context_passages(
    path: str | Path,
    passage_words: int = 100,
    *,
    overlap: int = 0,
    tokenizer: Any = None,
    qa_format: str | None = None,
) -> Iterator[dict[str, str]]:
    """Cut the contexts of a question file into passages, one after the other.

    Args:
        path: the file; each context counts once.
        passage_words: words a passage at most; 0 keeps contexts whole.
        overlap: words that neighbouring pieces share.
        tokenizer: cuts text without spaces; see `iter_passages`.
        qa_format: see `load_questions`.

    Returns:
        An iterator over passages with the keys `id`, `document_id`, `title` and `text`.

    Raises:
        ValueError: a number is out of range, the file holds no contexts or is malformed, or, once
            all are read, a passage's id is that of another.
        OSError: the file cannot be read.
    """
    check_cut(passage_words, overlap, tokenizer)
    check_file(path)

    def cut() -> Iterator[dict[str, str]]:
        for context in iter_contexts(path, qa_format):
            pieces = cut_text(context["text"], passage_words, overlap, tokenizer)
            for number, piece in enumerate(pieces, start=1):
                own = context["id"] if len(pieces) == 1 else f"{context['id']}#{number}"
                yield context | {"id": own, "document_id": context["id"], "text": piece}

    def named() -> Iterator[tuple[str, str]]:
        return ((passage["id"], f'"{passage["document_id"]}"') for passage in cut())

    def checked() -> Iterator[dict[str, str]]:
        ids = KeyLog()
        for passage in cut():
            ids.add(passage["id"])
            yield passage
        for repeat in find_repeats(named, ids.suspects(), limit=1):
            raise ValueError(
                f'{path}: the passage id "{repeat.key}" comes from the contexts {repeat.first} and '
                f"{repeat.second}. Rename one (the pieces of a long one are called id#1, id#2, …)."
            )

    return checked()
