"""Save and load a RAG model: one folder that can be moved."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    GenerationConfig,
    RagConfig,
    RagSequenceForGeneration,
    RagTokenForGeneration,
    RagTokenizer,
)

from rag_finetune.encoders.conventions import naming_source
from rag_finetune.encoders.load import require_source
from rag_finetune.encoders.network import load_tokenizer, whole_weights
from rag_finetune.encoders.pooled import register
from rag_finetune.encoders.saving import save_network
from rag_finetune.index.copies import copy_index, size_on_disk
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.rag.index_choice import require_usable_index
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
MODEL_TYPES: dict[str, Any] = {
    "rag_sequence": RagSequenceForGeneration,
    "rag_token": RagTokenForGeneration,
}


class Rag(NamedTuple):
    """A RAG model ready for use.

    Attributes:
        model: a RagSequenceForGeneration or RagTokenForGeneration that holds the retriever.
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
    config = _load_config(folder)
    model_class = _model_class(folder, config, model_type)
    tokenizer = RagTokenizer(
        load_tokenizer(folder, "question_encoder_tokenizer", config.question_encoder),
        load_tokenizer(folder, "generator_tokenizer", config.generator),
    )
    # 5.x loads in the checkpoint's dtype; training needs float32.
    with whole_weights(str(folder)):
        model, info = model_class.from_pretrained(
            folder, config=config, output_loading_info=True, dtype=torch.float32
        )
    require_weights(str(folder), info, "a RAG model")
    # Transformers 5.23 gives a reloaded RagSequence the defaults of its generator's configuration:
    # num_beams and others are lost. Delete when it reads the file.
    settings = _load_generation_config(folder) or model.rag.generator.generation_config
    set_generation_config(model, settings)
    retriever = None
    if with_index:
        opened = open_index_for(Path(folder), index)
        if not isinstance(retrieval, Retrieval):
            retrieval = retrieval_for(Path(folder), opened, retrieval, lexical_prior)
        tokenizers = tokenizer.question_encoder, tokenizer.generator
        retriever = RagIndexRetriever(model.config, *tokenizers, opened, retrieval)
        model.config.n_docs = retriever.n_docs = clamp_n_docs(model.config.n_docs, len(opened))
        model.set_retriever(retriever)
    return Rag(model.eval(), tokenizer, retriever)


def set_generation_config(model: Any, settings: GenerationConfig) -> None:
    """Give both the RAG model and the generator within it the same generation settings."""
    model.generation_config = settings
    model.rag.generator.generation_config = settings


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
        return open_index(index, fingerprint)
    if not reference.get("index"):
        raise ValueError(f"{folder}: the checkpoint has no index of its own. Name one: --index D.")
    path = folder / reference["index"]
    if not path.is_dir():
        raise FileNotFoundError(
            f"{folder}: its index was at {reference['index']}, relative to the checkpoint, and is "
            "no longer there. Name it: --index D."
        )
    return open_index(path, fingerprint)


def _load_config(folder: str | Path) -> Any:
    """The configuration of a checkpoint; says what to do when it is that of another model."""
    if Path(folder).is_dir() and not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: not a checkpoint, config.json is missing. Make one with "
            "`rag-finetune assemble` or `rag-finetune train`."
        )
    require_source(folder)
    with naming_source(str(folder)):
        config, _ = RagConfig.get_config_dict(folder)
    if config.get("model_type") != "rag":
        raise ValueError(
            f'{folder}: expected a RAG checkpoint, found model type "{config.get("model_type")}". '
            "Join question encoder and generator first: `rag-finetune assemble`."
        )
    return RagConfig.from_pretrained(folder)


def _load_generation_config(folder: str | Path) -> GenerationConfig | None:
    """The generation settings of a checkpoint, also on the Hub; None where it has none."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:
        return None


def _model_class(folder: str | Path, config: RagConfig, model_type: str | None) -> Any:
    """The head to load a checkpoint with."""
    if model_type is not None:
        require_model_type(model_type)
        return MODEL_TYPES[model_type]
    classes = {cls.__name__: cls for cls in MODEL_TYPES.values()}
    names = [name for name in config.architectures or () if name in classes]
    if not names:
        raise ValueError(
            f"{folder}: config.json names no RAG head in architectures, found "
            f"{config.architectures}. Say which: --model_type {' or '.join(MODEL_TYPES)}."
        )
    return classes[names[0]]


def require_model_type(model_type: str) -> None:
    """Raise for an unknown head."""
    if model_type not in MODEL_TYPES:
        raise ValueError(f'model_type must be {" or ".join(MODEL_TYPES)}, found "{model_type}".')


def require_weights(name: str, info: Mapping[str, Any], what: str) -> None:
    """Raise where Transformers drew random weights for those it did not find."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{name}: not the weights of {what}: {len(missing)} tensors are missing, the first is "
            f'"{missing[0]}".'
        )
