"""Which way passages are found: by vectors, by words, or by both; and who decides. Imports light.

Flags win over what a checkpoint remembers (rag_index.json), that over what its index does
(manifest.json, written by `tune-retrieval`), and that over vectors where there are any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from rag_finetune.files import describe

if TYPE_CHECKING:
    from rag_finetune.index.manifest import Manifest
    from rag_finetune.index.store import PassageIndex

LEXICAL = ("bm25", "tfidf")
WAYS = ("dense", *LEXICAL, "hybrid")
FUSIONS = ("rrf", "weighted")
RERANK_TOP = 50  # passages that a cross-encoder looks at, where nothing is said


@dataclass(frozen=True)
class Retrieval:
    """A way of retrieval.

    Attributes:
        way: "dense", by vectors; "bm25" or "tfidf", by words; "hybrid", by both.
        lexical: the words of a hybrid or of a prior beside vectors: "bm25" or "tfidf".
        fusion: how a hybrid joins its two lists: "rrf" by their ranks, "weighted" by their scores.
        weight: share of the words in a hybrid, from 0 to 1.
        prior: λ of p(z|x) = softmax(q·d + λ · score by words), 0 or more. Of an index without
            vectors p(z|x) is always by words, with λ = 1 where this is 0.
    """

    way: str = "dense"
    lexical: str = "bm25"
    fusion: str = "rrf"
    weight: float = 0.5
    prior: float = 0.0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: one is unknown or out of range.
        """
        for name, choices in (("way", WAYS), ("lexical", LEXICAL), ("fusion", FUSIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"retrieval: {name} must be one of {', '.join(choices)}, found "
                    f'"{getattr(self, name)}".'
                )
        if not 0.0 <= self.weight <= 1.0:
            raise ValueError(f"retrieval: weight must be from 0 to 1, found {self.weight}.")
        if not 0.0 <= self.prior < math.inf:
            raise ValueError(f"lexical_prior must be 0 or more, found {self.prior}.")

    @property
    def kind(self) -> str:
        """The index by words that it searches, or that its prior asks."""
        return self.way if self.way in LEXICAL else self.lexical

    @property
    def by_vectors(self) -> bool:
        """Whether vectors are searched."""
        return self.way in ("dense", "hybrid")

    @property
    def by_words(self) -> bool:
        """Whether words are searched, or asked for a prior."""
        return self.way != "dense" or self.prior > 0.0

    def describe(self) -> str:
        """The way in words."""
        text = self.way
        if self.way == "hybrid":
            how = "weighted scores" if self.fusion == "weighted" else "reciprocal ranks"
            text += f" (vectors and {self.lexical} by {how}, words {self.weight:g})"
        return f"{text}, lexical prior {self.prior:g}" if self.prior else text

    def data(self) -> dict[str, Any]:
        """The way as JSON data."""
        return asdict(self)


def retrieval_of(data: Any, place: str) -> Retrieval:
    """The way that JSON data describe.

    Args:
        data: what `Retrieval.data` gave.
        place: where it stands, for the message.

    Raises:
        ValueError: it describes none.
    """
    try:
        if not isinstance(data, Mapping):
            raise TypeError(f"expected an object, found {describe(data)}")
        return Retrieval(**data)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{place}: "retrieval" cannot be read: {error}') from error


def default_retrieval(manifest: Manifest) -> Retrieval:
    """The way of an index for which nobody has chosen: vectors, or else words, BM25 first."""
    kinds = [kind for kind in LEXICAL if kind in manifest.lexical] or ["bm25"]
    return Retrieval("dense" if manifest.has_vectors else kinds[0], lexical=kinds[0])


def choose_retrieval(
    index: PassageIndex,
    way: str | None = None,
    prior: float | None = None,
    *,
    remembered: Mapping[str, Any] | None = None,
    place: str = "",
) -> Retrieval:
    """The way to search an index.

    A checkpoint's memory wins over the index, and a flag over both; where the flag asks for another
    way than is remembered, and the index was tuned for that, it is searched as it was tuned.

    Args:
        index: the opened index.
        way: what a flag says; None for nothing.
        prior: λ, likewise.
        remembered: what a checkpoint says; None for nothing.
        place: where the checkpoint is, for messages.

    Raises:
        ValueError: something is out of range, or the index cannot be searched this way.
    """
    manifest, default = index.manifest, default_retrieval(index.manifest)
    chosen, source = default, str(index.folder)
    if remembered:
        chosen, source = retrieval_of(remembered, place), place
    elif manifest.retrieval:
        chosen = retrieval_of(manifest.retrieval, source)
    if way is not None and way != chosen.way:
        tuned = retrieval_of(manifest.retrieval or default.data(), str(index.folder))
        # A prior's scale is that of the scores by its words.
        if tuned.way == way and (chosen.prior == 0.0 or chosen.lexical == tuned.lexical):
            chosen = replace(tuned, prior=chosen.prior)
        # What goes with a hybrid was chosen for that; another way takes the words that there are.
        lexical = chosen.lexical if chosen.lexical in manifest.lexical else default.lexical
        chosen, source = replace(chosen, way=way, lexical=lexical), f"--retrieval {way}"
    if prior is not None:
        lexical = chosen.lexical if chosen.lexical in manifest.lexical else default.lexical
        chosen = replace(chosen, prior=prior, lexical=lexical)
    _require_able(index, chosen, source)
    return chosen


def _require_able(index: PassageIndex, retrieval: Retrieval, source: str) -> None:
    """Raise where an index lacks what a way needs."""
    manifest = index.manifest
    has = ["vectors"] * manifest.has_vectors + list(manifest.lexical)
    needs = ["vectors"] * retrieval.by_vectors + [retrieval.kind] * retrieval.by_words
    for need in needs:
        if need not in has:
            add = (
                "build an index with --context_encoder"
                if need == "vectors"
                else f"add them: rag-finetune index --lexical {need} --output_dir {index.folder}"
            )
            raise ValueError(
                f"{source}: retrieval by {retrieval.describe()} needs {need}, but {index.folder} "
                f"has {' and '.join(has)} only. Choose what it has with --retrieval, or {add}."
            )
