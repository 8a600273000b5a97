"""Is there an index to use, and the right one? Told from JSON alone, before torch is imported.

Transformers' RAG configurations point at indexes that can no longer be loaded: `wiki_dpr` needs a
dataset script, `legacy` unpickles. They are refused with the command that builds one to use.
"""

import json
from pathlib import Path
from typing import Any

from rag_finetune.encoders.pairs import context_encoder_of, is_known_mismatch
from rag_finetune.files import read_text

CONFIG = "config.json"
INDEX_REFERENCE = "rag_index.json"
MANIFEST = "manifest.json"
OWN = "own_fingerprint"  # in a checkpoint: of the context encoder that it has beside its index


def require_usable_index(model: str, index: str | None) -> None:
    """Raise where it is plain that a checkpoint would have no index, or a wrong one.

    What is damaged or missing is passed over: loading it says so.

    Args:
        model: a checkpoint folder or a Hub name; of the Hub only what is cached is read.
        index: the index folder that was named; None for the checkpoint's own.

    Raises:
        ValueError: none was named, and the checkpoint points at an index that cannot be loaded or
            comes from the Hub, which holds none; or the index is that of another encoder.
    """
    reference = _read_object(Path(model) / INDEX_REFERENCE)
    if index is not None:
        _require_same_encoder(model, Path(index), reference)
    elif not reference:
        _require_no_legacy_index(model, _read_config(model))
        if _is_hub_name(model):
            raise ValueError(
                f"{model}: no such folder, and a model of the Hub has no index. {_command(model)}"
            )


def require_known_pair(question_encoder: str, index: str) -> None:
    """Raise where an index was encoded by the published counterpart of another question encoder.

    Args:
        question_encoder: Hub name or folder.
        index: an index folder.

    Raises:
        ValueError: both encoders are published ones, and of two trainings.
    """
    found = _read_object(Path(index) / MANIFEST).get("encoder") or {}
    name = str(found.get("name", ""))
    if is_known_mismatch(question_encoder, name):
        raise ValueError(
            f"{index}: expected vectors of {context_encoder_of(question_encoder)}, which "
            f"{question_encoder} was trained with, found those of {name}. "
            f"{_command(question_encoder)}"
        )


def own_index(model: str) -> Path | None:
    """The index folder that a checkpoint names as its own; None where it names none."""
    named = _read_object(Path(model) / INDEX_REFERENCE).get("index")
    return Path(model) / named if isinstance(named, str) else None


def own_retrieval(model: str) -> dict[str, Any]:
    """The way of retrieval that a checkpoint remembers, under "retrieval"; empty for none."""
    reference = _read_object(Path(model) / INDEX_REFERENCE)
    return {key: value for key, value in reference.items() if key == "retrieval"}


def right_encoder(model: str) -> str:
    """What is known of the context encoder that belongs to a model, as part of a sentence.

    Args:
        model: a checkpoint folder, a question encoder's folder, or a Hub name.
    """
    reference = _read_object(Path(model) / INDEX_REFERENCE)
    named = (reference.get("context_encoder") or {}).get("name")
    return (
        named or context_encoder_of(model) or "the one that its question encoder was trained with"
    )


def _require_same_encoder(model: str, index: Path, reference: dict[str, Any]) -> None:
    """Raise where a checkpoint asks for another encoder's vectors than an index holds."""
    manifest = _read_object(index / MANIFEST)
    expected, found = reference.get("fingerprint"), manifest.get("fingerprint")
    if not (isinstance(expected, str) and isinstance(found, str)):
        require_known_pair(model, str(index))
    elif not found:
        return  # of words only: there are no vectors to be another encoder's
    elif found not in (expected, reference.get(OWN)):
        wanted = (reference.get("context_encoder") or {}).get("name") or "unknown"
        have = (manifest.get("encoder") or {}).get("name")
        raise ValueError(
            f"{index}: expected vectors of the encoder with fingerprint {expected:.12} ({wanted}), "
            f"as {model} was made with, found those of {have} ({found:.12}). Give the index that "
            "belongs to this model, build one by its encoder (rag-finetune index), or join the "
            "question encoder that goes with this one: rag-finetune assemble."
        )


def _require_no_legacy_index(model: str, config: dict[str, Any]) -> None:
    """Raise where a RAG configuration points at an index that nothing can load any more."""
    if config.get("model_type") != "rag":
        return
    name = str(config.get("index_name") or "compressed")  # RagConfig's default
    pickles = [
        str(config[key])
        for key in ("passages_path", "index_path")
        if str(config.get(key) or "").endswith((".pkl", ".pickle", ".pkl.gz"))
    ]
    if pickles:
        found = f"{pickles[0]}, which is a pickle: reading one can run any code"
    elif name == "legacy":
        found = 'the index "legacy", which is read with pickle: that can run any code'
    elif name != "custom":
        dataset = config.get("dataset") or "wiki_dpr"
        found = f'the index "{name}" of {dataset}, which datasets can no longer load'
    else:
        return
    raise ValueError(f"{model}: its config.json points at {found}. {_command(model)}")


def _command(model: str) -> str:
    """How to build the index that a model needs."""
    encoder = context_encoder_of(model) or "M"
    return (
        f"Build one: rag-finetune index --passages FILES --context_encoder {encoder} "
        "--output_dir D; then give --index D."
    )


def _is_hub_name(model: str) -> bool:
    """Whether a name can only be one of the Hub: `owner/name` where there is no folder `owner`."""
    path = Path(model)
    is_path = model.startswith((".", "/", "~")) or path.exists() or path.parent.is_dir()
    return len(path.parts) == 2 and not is_path


def _read_config(model: str) -> dict[str, Any]:
    """The config.json of a folder or of what is cached of the Hub; empty where there is none."""
    if Path(model).exists():
        return _read_object(Path(model) / CONFIG)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, CONFIG)
    except HFValidationError:  # a path that leads nowhere
        return {}
    return _read_object(Path(cached)) if isinstance(cached, str) else {}


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing or holds anything else."""
    try:
        value = json.loads(read_text(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
