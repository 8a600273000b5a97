"""Build an index folder: encode passages, write vectors, passages and manifest."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.files import staged_folder
from rag_finetune.index.dense import build_flat, save_dense
from rag_finetune.index.manifest import Manifest
from rag_finetune.index.store import CONTEXT_ENCODER, DENSE, PASSAGES, PassageIndex, open_index


def build_index(
    passages: Dataset,
    encoder: TextEncoder,
    output_dir: str | Path,
    *,
    passage_words: int = 0,
    progress: bool = False,
) -> PassageIndex:
    """Encode passages and write the index folder; nothing is left behind when it fails.

    Args:
        passages: columns id, document_id, title, text; none empty.
        encoder: the context encoder.
        output_dir: the folder to make; must not exist or be empty.
        passage_words: how the passages were cut, for the manifest.
        progress: show a bar.

    Returns:
        The opened index.

    Raises:
        FileExistsError: the folder exists and holds something.
        ValueError: there are no passages, or the encoder gives vectors that are not finite.
    """
    output_dir = Path(output_dir)
    require_vacant(output_dir)
    if not len(passages):
        raise ValueError("An index needs at least one passage, found none.")
    titles, texts = list(passages["title"]), list(passages["text"])
    manifest = _describe(passages, encoder, passage_words)
    with staged_folder(output_dir) as folder:
        vectors = encoder.encode(texts, titles, "Encoding passages" if progress else "")
        _require_finite(vectors, passages)
        _with_vectors(passages, vectors).save_to_disk(folder / PASSAGES)
        save_dense(build_flat(vectors), folder / DENSE)
        if encoder.local:
            encoder.save(folder / CONTEXT_ENCODER)
        manifest.save(folder)
    return open_index(output_dir)


def require_vacant(folder: Path) -> None:
    """Raise where a folder that is to be written already holds something.

    Raises:
        FileExistsError: it is a file, or a folder with anything in it.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(
            f"{folder}: already exists and is not empty. Remove it or choose another folder."
        )


def _describe(passages: Dataset, encoder: TextEncoder, passage_words: int) -> Manifest:
    """The manifest of an index that is being built."""
    libraries = ("transformers", "datasets", "faiss-cpu", "torch", "rag-finetune")
    return Manifest(
        encoder={"name": encoder.name, "revision": encoder.revision, **encoder.settings()},
        fingerprint=encoder.fingerprint(),
        dimension=encoder.dimension,
        n_passages=len(passages),
        n_documents=len(set(passages["document_id"])),
        passage_words=passage_words,
        library_versions={name: _version(name) for name in libraries},
    )


def _require_finite(vectors: np.ndarray, passages: Dataset) -> None:
    """Raise where a passage has a vector that no search would ever find."""
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if wrong.size:
        raise ValueError(
            f"{wrong.size} of {len(vectors)} passages have a vector that is not finite, the first "
            f'is "{passages[int(wrong[0])]["id"]}". Are the weights of the context encoder damaged?'
        )


def _version(name: str) -> str:
    """The version of a library; "unknown" where it was not installed as a package of this name."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _with_vectors(passages: Dataset, vectors: np.ndarray) -> Dataset:
    """Passages with their vectors as a column of fixed-size lists."""
    column = Features({"embeddings": List(Value("float32"), length=vectors.shape[1])})
    embeddings = Dataset.from_dict({"embeddings": vectors}, features=column)
    return concatenate_datasets([passages, embeddings], axis=1)
