"""The index folder, opened: search it, read its passages."""

import copy
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset, load_from_disk

from rag_finetune.index.corpus import COLUMNS
from rag_finetune.index.dense_search import open_dense, search_dense
from rag_finetune.index.lexical import LexicalIndex, open_lexical
from rag_finetune.index.manifest import (
    load_manifest,
    of_one_version,
    require_equal,
    require_sizes,
)

Part = TypeVar("Part")

PASSAGES = "passages"
DENSE = "dense.faiss"
CONTEXT_ENCODER = "context_encoder"
DAMAGED = "The folder is damaged: build the index again."
# Types that hold the vectors as they are. "PCA64,Flat" ends so too, and does not.
WHOLE_VECTORS = r"(IVF\d+(_HNSW\d*)?,|HNSW\d*,)?Flat|HNSW\d*"


class PassageIndex:
    """An opened index folder. Vectors and passages are mapped, not read.

    Attributes:
        folder: where it is; absolute, so that it is found from another working directory.
        manifest: what it says about itself.
        parts: where its files are: the folder, but for the moment in which an update replaces them.
        passages: the passages, columns id, document_id, title, text, and embeddings where it has
            vectors.
    """

    def __init__(self, folder: Path, fingerprint: str | None = None) -> None:
        """Open a folder; see `open_index`."""
        self.folder = folder.absolute()
        self.manifest = load_manifest(folder)
        has_vectors = self.manifest.has_vectors
        if has_vectors and fingerprint not in (None, self.manifest.fingerprint):
            raise ValueError(
                f"{folder}: expected vectors of the encoder with fingerprint {fingerprint:.12}, "
                f"found those of {self.manifest.encoder['name']} "
                f"({self.manifest.fingerprint:.12}). Give the index that belongs to this model, "
                "or build one with its context encoder."
            )
        self.parts = self.folder / self.manifest.place
        parts = folder / self.manifest.place
        require_sizes(parts, self.manifest.file_sizes)
        self._lexical: dict[str, LexicalIndex] = {}  # those that were asked for
        self._dense: Any = None
        if has_vectors:
            self._dense = open_dense(parts / DENSE, self.manifest.search_parameters)
        self.passages = _open_passages(parts / PASSAGES, has_vectors)
        self._texts = self.passages.select_columns(list(COLUMNS)).with_format("arrow")
        n_passages, dimension = self.manifest.n_passages, self.manifest.dimension
        if has_vectors:
            self._vectors = self.passages.select_columns(["embeddings"]).with_format("arrow")
            n_vectors = n_passages + self.manifest.tombstones
            require_equal(folder, f"rows of {DENSE}", n_vectors, self._dense.ntotal, DAMAGED)
            require_equal(folder, f"dimension of {DENSE}", dimension, self._dense.d, DAMAGED)
        require_equal(folder, f"rows of {PASSAGES}/", n_passages, len(self.passages), DAMAGED)

    def __len__(self) -> int:
        """Number of passages."""
        return self.manifest.n_passages

    def search(self, question_vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each question.

        Args:
            question_vectors: shape (batch, dim).
            k: passages a question, from 1 to the number of passages.

        Returns:
            Inner products, shape (batch, k) float32, and rows of `passages`, shape (batch, k)
            int64, best first; row −1 with score −inf where fewer were found.

        Raises:
            ValueError: the vectors have another dimension, k is out of range, or the index holds no
                vectors.
        """
        self._require_vectors()
        if not 1 <= k <= len(self):
            raise ValueError(f"k must be from 1 to {len(self)} (all passages), found {k}.")
        remedy = "The question encoder does not belong to this index."
        dimension = self.manifest.dimension
        require_equal(
            self.folder, "dimension of a question", dimension, question_vectors.shape[1], remedy
        )
        scores, rows = search_dense(self._dense, question_vectors, k)
        if re.fullmatch(WHOLE_VECTORS, self.manifest.faiss_factory):
            return scores, rows
        return self._rescored(question_vectors, rows)  # what it holds gives estimates

    def searched_with(self, search_parameters: Mapping[str, Any]) -> "PassageIndex":
        """The same index, its vectors searched with other parameters, such as {"efSearch": 64}.

        Raises:
            ValueError: this type of index has no such parameter; or it was updated since it was
                opened.
        """
        other = copy.copy(self)
        other.manifest = replace(self.manifest, search_parameters=dict(search_parameters))
        other._dense = self._of_this_version(
            DENSE, lambda path: open_dense(path, search_parameters)
        )
        return other

    def lexical(self, kind: str) -> LexicalIndex:
        """Its index by words, opened when it is first asked for.

        Args:
            kind: "bm25" or "tfidf".

        Raises:
            ValueError: it has none of this kind, or one that is damaged.
        """
        if kind not in self.manifest.lexical:
            raise ValueError(
                f"{self.folder}: expected an index by {kind}, found "
                f"{' and '.join(self.manifest.lexical) or 'vectors only'}. Add it: rag-finetune "
                f"index --lexical {kind} --output_dir {self.folder}."
            )
        if kind not in self._lexical:
            opened = self._of_this_version(kind, open_lexical)
            require_equal(self.folder, f"rows of {kind}/", len(self), len(opened), DAMAGED)
            self._lexical[kind] = opened
        return self._lexical[kind]

    def _of_this_version(self, part: str, open_part: Callable[[Path], Part]) -> Part:
        """Open a part of this version: updates may have come since the index was opened."""
        before = load_manifest(self.folder)
        opened = open_part(self.folder / before.place / part)
        updates = {self.manifest.last_update, before.last_update}
        updates.add(load_manifest(self.folder).last_update)
        remedy = "It was updated since it was opened: open it again."
        require_equal(self.folder, "updates of the index", 1, len(updates), remedy)
        return opened

    def _require_vectors(self) -> None:
        """Raise where the index can only be searched by words."""
        if self._dense is None:
            raise ValueError(
                f"{self.folder}: holds no vectors, only words ({', '.join(self.manifest.lexical)})."
                " Search by words, or build an index with --context_encoder."
            )

    def _rescored(self, vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows that a search found, by their inner products with the vectors as they were."""
        exact = np.einsum("bd,bkd->bk", np.asarray(vectors, np.float32), self.vectors_at(rows))
        scores = np.where(rows < 0, -np.inf, exact)
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    def check_encoder(self, dimension: int, settings: Mapping[str, Any]) -> None:
        """Refuse a question encoder of another dimension; warn of one that pools in another way.

        Args:
            dimension: of a question's vector.
            settings: of the question encoder, as `TextEncoder.settings()` gives them.

        Raises:
            ValueError: the dimension is not the index's.
        """
        if not self.manifest.has_vectors:
            return
        remedy = (
            f"The index was encoded by {self.manifest.encoder['name']}: give the question encoder "
            "that belongs to it, or build another index."
        )
        require_equal(
            self.folder, "dimension of a question", self.manifest.dimension, dimension, remedy
        )
        for key in ("pooling", "normalisation"):
            found = self.manifest.encoder.get(key)
            if settings[key] != found:
                warnings.warn(
                    f"{self.folder}: {key} of the question encoder is {settings[key]}, that of the "
                    f"index {found}. Retrieval suffers unless the two were trained so: give "
                    "--pooling and --normalize as they were for the index.",
                    stacklevel=3,
                )

    def gather(self, rows: np.ndarray) -> tuple[list[dict[str, str]], np.ndarray]:
        """Passages and vectors of many rows in one read.

        Args:
            rows: rows of `passages`, any shape; −1 stands for no passage.

        Returns:
            A flat list of {id, document_id, title, text}, one for each row (all empty strings
            for −1), and the vectors, shape (*rows.shape, dim) float32 (zeros for −1); dim is 0
            where the index holds none.
        """
        return self.passages_at(rows), self.vectors_at(rows)

    def passages_at(self, rows: np.ndarray) -> list[dict[str, str]]:
        """Passages of many rows in one read, as `gather` gives them."""
        flat = rows.reshape(-1)
        unique, inverse = np.unique(flat[flat >= 0], return_inverse=True)
        found = [dict.fromkeys(COLUMNS, "") for _ in range(flat.size)]
        if unique.size:
            texts = self._texts[unique.tolist()].to_pylist()
            for position, source in zip(np.flatnonzero(flat >= 0), inverse, strict=True):
                found[position] = texts[source].copy()  # each row its own: callers add to it
        return found

    def vectors_at(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of many rows in one read, as `gather` gives them."""
        flat = rows.reshape(-1)
        unique, inverse = np.unique(flat[flat >= 0], return_inverse=True)
        vectors = np.zeros((flat.size, self.manifest.dimension), dtype=np.float32)
        if unique.size and self.manifest.has_vectors:
            table = self._vectors[unique.tolist()]
            embeddings = table["embeddings"].combine_chunks().flatten().to_numpy()
            vectors[flat >= 0] = embeddings.reshape(len(unique), -1)[inverse]
        return vectors.reshape(*rows.shape, self.manifest.dimension)


def open_index(folder: str | Path, fingerprint: str | None = None) -> PassageIndex:
    """Open an index folder and check that its parts belong together.

    Args:
        folder: what `build_index` or `rag-finetune index` left.
        fingerprint: of the context encoder whose vectors are expected; None for any.

    Raises:
        FileNotFoundError: the folder or a part of it is missing.
        ValueError: fingerprint, dimension or count differ from the manifest's, or the metric is
            not the inner product.
    """
    path = Path(folder)
    return of_one_version(path, lambda: PassageIndex(path, fingerprint))


def _open_passages(folder: Path, has_vectors: bool) -> Dataset:
    """Map the passages of an index folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder. Build the index again.")
    try:
        passages = load_from_disk(str(folder))
    except (ValueError, OSError) as error:  # Arrow's errors are both
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder}: cannot be read ({reason}). Build the index again.") from error
    wanted = {*COLUMNS, "embeddings"} if has_vectors else {*COLUMNS}
    if not isinstance(passages, Dataset) or wanted - set(passages.column_names):
        raise ValueError(f"{folder}: expected a dataset with columns {', '.join(sorted(wanted))}.")
    return passages
