"""A context in two parts, the passage's and the question's, whose token ids are made apart.

The cut is in front of the space that `doc_sep` begins with. No token reaches over it, as
`require_parted` checks, so the ids of a context are those of its two parts, one behind the other,
where the patterns of the tokenizer's normaliser and pre-tokenizer do not look past `doc_sep`.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from rag_finetune.encoders.prefix import tokenizer_state

ANCHOR = "a"  # what a question's part is put behind, to be tokenised as in a context
# Each passage's part is held to its ids in a context with one of these questions, in turn.
PROBES = (
    "Who lives there?",
    " who  is it",
    "\nwho",
    "1,000 km or 3.5 m?",
    "東京は?",
    "🙂 who?",
    "\u0301e is it",
    'Élan "vital"?',
    "(who)",
    "",
)
# How tokens spell white space: SentencePiece the space; bytes space, newline, tab and return.
METASPACE = str.maketrans("▁", " ")
BYTE_LEVEL = str.maketrans("ĠĊĉč", " \n\t\r")


class JoinedError(ValueError):
    """Passages cannot be tokenised apart from questions."""


class Template(NamedTuple):
    """How a context is put together.

    Attributes:
        prefix: stands in front.
        title_sep: stands between title and text.
        doc_sep: stands between text and question.
    """

    prefix: str
    title_sep: str
    doc_sep: str

    def head(self, title: str, text: str) -> str:
        """A passage's part of a context."""
        title = title.removeprefix('"').removesuffix('"')
        return self.prefix + title + self.title_sep + text

    def tail(self, question: str) -> str:
        """A question's part of a context."""
        return self.doc_sep + question


class Tail(NamedTuple):
    """The token ids of a question's part.

    Attributes:
        ids: as they stand behind a passage, with those that end a context.
        lead: ids that a passage's part has at least, those that begin a context among them.
    """

    ids: list[int]
    lead: int


def doc_lists(passages: list[dict[str, str]]) -> dict[str, list[str]]:
    """Passages of one question as Transformers hands them around: lists of title and text."""
    return {key: [passage[key] for passage in passages] for key in ("title", "text")}


def squeeze(context: str) -> str:
    """A context as Transformers' RagRetriever writes it: of two spaces one is left."""
    return context.replace("  ", " ")


def require_parted(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    """Check that a tokenizer parts contexts where the question's part begins.

    Raises:
        JoinedError: `doc_sep` does not begin with a space or holds nothing else, a token reaches
            over a space, or the tokenizer draws lots.
    """
    separator = template.doc_sep
    if not separator.startswith(" ") or not separator.strip():
        raise JoinedError(f"doc_sep {separator!r} is not a space and characters behind it")
    state = tokenizer_state(tokenizer)
    if state["model"].get("dropout"):
        raise JoinedError("the generator's tokenizer merges at random (dropout)")
    is_byte_level = "ByteLevel" in str((state["normalizer"], state["pre_tokenizer"]))
    spelling = METASPACE | (BYTE_LEVEL if is_byte_level else {})
    added = tokenizer.get_added_vocab()  # white space of theirs may be normalised to a space
    for token in tokenizer.get_vocab():
        if re.search(r"\S\s" if token in added else r"\S ", token.translate(spelling)):
            raise JoinedError(f"token {token!r} of the generator's tokenizer reaches over a space")


def tokenize_tails(tokenizer: PreTrainedTokenizerBase, tails: Sequence[str]) -> list[Tail | None]:
    """Token ids of questions' parts.

    Args:
        tokenizer: of the generator; a fast one.
        tails: what `Template.tail` gave.

    Returns:
        The ids of each; None where the tokenizer joins it with what stands before it.
    """
    encoded = tokenizer(
        [ANCHOR, *(ANCHOR + squeeze(tail) for tail in tails)],
        return_special_tokens_mask=True,
        return_attention_mask=False,
        truncation=False,
        verbose=False,
    )
    (alone, *behind), special = encoded["input_ids"], encoded["special_tokens_mask"][0]
    while special and special[-1]:
        special = special[:-1]
    lead = len(special)
    return [Tail(ids[lead:], lead) if ids[:lead] == alone[:lead] else None for ids in behind]


def tokenize_heads(
    tokenizer: PreTrainedTokenizerBase, template: Template, heads: Sequence[str]
) -> list[list[int]]:
    """Token ids of passages' parts, each taken from a whole context.

    Args:
        tokenizer: of the generator; a fast one.
        template: how contexts are put together.
        heads: what `Template.head` gave.

    Returns:
        The ids of each, with those that begin a context; none where they are not to be parted
        from the question's.
    """
    tails = [template.tail(probe) for probe in PROBES]
    known = tokenize_tails(tokenizer, tails)
    turns = [number % len(PROBES) for number in range(len(heads))]
    contexts = [squeeze(head + tails[turn]) for head, turn in zip(heads, turns, strict=True)]
    whole = tokenizer(contexts, return_attention_mask=False, truncation=False, verbose=False)
    found: list[list[int]] = []
    for row, (head, ids, turn) in enumerate(zip(heads, whole["input_ids"], turns, strict=True)):
        tail = known[turn]
        if tail is None or _ends_in_space(head) or ids[-len(tail.ids) :] != tail.ids:
            found.append([])
            continue
        cut, length = len(ids) - len(tail.ids), len(squeeze(head))
        last, first = whole.token_to_chars(row, cut - 1), whole.token_to_chars(row, cut)
        # A space that the tokenizer adds behind a special token belongs to the question's part.
        is_clean = last and first and last.end <= length < first.end
        found.append(ids[:cut] if is_clean else [])
    return found


def _ends_in_space(head: str) -> bool:
    """Whether a part is empty or ends in what is, or a normaliser may make, white space.

    Spaces that meet at the cut are squeezed, other white space may be joined with it.
    """
    kinds = (unicodedata.category(character)[0] for character in reversed(head))
    return next((kind for kind in kinds if kind != "M"), "Z") in "CZ"  # marks may be stripped
