"""Save and load a RAG model: one folder that can be moved."""

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from transformers import RagTokenizer

from rag_finetune.encoders.pooled import register
from rag_finetune.encoders.saving import save_network
from rag_finetune.index.copies import copy_index, size_on_disk
from rag_finetune.index.manifest import load_manifest
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.rag.causal_checkpoint import is_causal, load_causal, save_causal
from rag_finetune.rag.causal_model import CausalRag
from rag_finetune.rag.heads import load_head
from rag_finetune.rag.index_choice import OWN, require_usable_index
from rag_finetune.rag.prompt_retriever import PromptRetriever
from rag_finetune.rag.reference import (
    load_index_reference,
    relative_path,
    retrieval_for,
    write_index_reference,
)
from rag_finetune.retrieval.retriever import RagIndexRetriever
from rag_finetune.retrieval.search import clamp_n_docs
from rag_finetune.retrieval.way import Retrieval

INDEX = "index"
INDEX_MODES = ("copy", "link", "none")
COPY_LIMIT = 1024**3  # bytes; a larger index is linked unless a copy is asked for


class Rag(NamedTuple):
    """A RAG model ready for use.

    Attributes:
        model: a RagSequenceForGeneration, RagTokenForGeneration or, with a decoder-only generator,
            a CausalRag; it holds the retriever.
        tokenizer: the question encoder's and the generator's tokenizer.
        retriever: searches the index; None when the model was loaded without one.
    """

    model: Any
    tokenizer: RagTokenizer
    retriever: RagIndexRetriever | None


def save_rag(model: Any, tokenizer: RagTokenizer, folder: Path) -> None:
    """Write model, generation settings and both tokenizers; the index is not part of this.

    Args:
        model: a RAG model; its nested configurations lose their `_name_or_path`.
        tokenizer: its tokenizers.
        folder: made when it does not exist. Each file is whole or absent: it is written under
            another name first.
    """
    if isinstance(model, CausalRag):
        return save_causal(model, tokenizer, folder)
    for nested in (model.config.question_encoder, model.config.generator):
        nested._name_or_path = ""
    staged = folder / f".partial-{os.getpid()}"
    try:
        save_network(model, staged)
        model.rag.generator.generation_config.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        for entry in staged.iterdir():
            if (folder / entry.name).is_dir():
                shutil.rmtree(folder / entry.name)
            os.replace(entry, folder / entry.name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def load_rag(
    folder: str | Path,
    *,
    index: PassageIndex | str | Path | None = None,
    model_type: str | None = None,
    with_index: bool = True,
    retrieval: str | Retrieval | None = None,
    lexical_prior: float | None = None,
) -> Rag:
    """Load a checkpoint, wherever it was moved to, with its retriever and generation settings.

    Args:
        folder: what `assemble`, `train` or the Trainer midway left, or a Hub name.
        index: another index than the one that the checkpoint names.
        model_type: "rag_sequence" or "rag_token" to change heads; None for the saved one.
        with_index: False leaves the retriever out, whatever `index` says.
        retrieval: how passages are found: "dense", "bm25", "tfidf" or "hybrid"; None for what the
            checkpoint remembers, or else its index.
        lexical_prior: λ of p(z|x) = softmax(q·d + λ · score by words); None likewise.

    Returns:
        Model in evaluation mode and float32, tokenizers, retriever. n_docs is lowered, with a
        warning, when the index holds fewer passages.

    Raises:
        FileNotFoundError: folder or index is missing; the message says which and what to do.
        ValueError: the index does not belong to the model, or cannot be searched so, or weights or
            a tokenizer are missing.
    """
    register()
    if with_index and index is None:
        require_usable_index(str(folder), None)
    if is_causal(folder):
        _require_no_head(folder, model_type)
        model, tokenizer = load_causal(Path(folder))
    else:
        model, tokenizer = load_head(folder, model_type)
    retriever = None
    if with_index:
        opened = open_index_for(Path(folder), index)
        if not isinstance(retrieval, Retrieval):
            retrieval = retrieval_for(Path(folder), opened, retrieval, lexical_prior)
        retriever = give_retriever(model, tokenizer, opened, retrieval)
    return Rag(model.eval(), tokenizer, retriever)


def give_retriever(
    model: Any, tokenizer: RagTokenizer, index: PassageIndex, retrieval: Retrieval | None
) -> RagIndexRetriever:
    """Give a model a retriever over an index; n_docs is lowered to what the index holds."""
    retriever = make_retriever(model, tokenizer, index, retrieval)
    model.config.n_docs = retriever.n_docs = clamp_n_docs(model.config.n_docs, len(index))
    model.set_retriever(retriever)
    return retriever


def make_retriever(
    model: Any, tokenizer: RagTokenizer, index: PassageIndex, retrieval: Retrieval | None = None
) -> RagIndexRetriever:
    """The retriever that a model needs, which writes contexts or prompts.

    Raises:
        ValueError: model and index do not go together.
    """
    given = model.config, tokenizer.question_encoder, tokenizer.generator, index, retrieval
    if isinstance(model, CausalRag):
        return PromptRetriever(*given, template=model.template)
    return RagIndexRetriever(*given)


def _require_no_head(folder: str | Path, model_type: str | None) -> None:
    """Raise where a head is asked for of a checkpoint that has none."""
    if model_type is not None:
        raise ValueError(
            f"{folder}: has a decoder-only generator, and no head. Leave --model_type out."
        )


def place_index(
    index: PassageIndex,
    folder: Path,
    mode: str | None,
    *,
    ours: bool,
    retrieval: Retrieval | None = None,
) -> None:
    """Put the index where a checkpoint finds it after a move, and write that down.

    Where the index was updated since it was opened, a copy is of its newest version, whole.

    Args:
        index: the opened index.
        folder: the checkpoint.
        mode: "copy" puts it inside the checkpoint, "link" writes down a relative path, "none"
            only the fingerprint; None copies up to 1 GB and links above.
        ours: the index is one that this package copied and never changes: a copy may then share
            its bytes on disk (hard links).
        retrieval: the way that the checkpoint shall remember; None for the index's own.
    """
    mode = index_mode(index, mode)
    if mode == "copy":
        copy_index(index.folder, folder / INDEX, share=ours)
    paths = {"copy": INDEX, "link": relative_path(index.folder, folder)}
    write_index_reference(folder, index, paths.get(mode), retrieval)


def index_mode(index: PassageIndex, mode: str | None) -> str:
    """How an index goes with a checkpoint: the mode given, or by its size on disk.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in (None, *INDEX_MODES):
        raise ValueError(f'save_index must be {", ".join(INDEX_MODES)} or None, found "{mode}".')
    if mode is not None:
        return mode
    return "copy" if size_on_disk(index.folder) <= COPY_LIMIT else "link"


def open_index_for(folder: Path, index: PassageIndex | str | Path | None) -> PassageIndex:
    """Open the index of a checkpoint, or the one given, and hold it to the fingerprint."""
    reference = load_index_reference(folder)
    fingerprint = reference.get("fingerprint")
    if isinstance(index, PassageIndex):
        index = index.folder
    if index is not None:
        own = reference.get(OWN)
        is_own = own is not None and load_manifest(Path(index)).fingerprint == own
        return open_index(index, own if is_own else fingerprint)
    if not reference.get("index"):
        raise ValueError(f"{folder}: the checkpoint has no index of its own. Name one: --index D.")
    path = folder / reference["index"]
    if not path.is_dir():
        raise FileNotFoundError(
            f"{folder}: its index was at {reference['index']}, relative to the checkpoint, and is "
            "no longer there. Name it: --index D."
        )
    return open_index(path, fingerprint)
