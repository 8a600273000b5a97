"""How an encoder was meant to be used: what a sentence-transformers folder or a name says."""

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from rag_finetune.encoders.pooled import POOLINGS
from rag_finetune.files import describe, read_text

QUESTION, PASSAGE = "question", "passage"
PROMPTS = {QUESTION: ("query", "question"), PASSAGE: ("document", "passage", "corpus")}


@dataclass(frozen=True)
class Convention:
    """How texts become vectors with an encoder; None where nothing is said about it.

    Attributes:
        pooling: "cls" or "mean".
        normalize: whether vectors are brought to length 1.
        prefix: what stands in front of every text.
        max_length: tokens of a text at most.
        subfolder: where network and tokenizer are, in the folder of the encoder.
        lower_case: whether texts are lower-cased before they are tokenised.
    """

    pooling: str | None = None
    normalize: bool | None = None
    prefix: str | None = None
    max_length: int | None = None
    subfolder: str = ""
    lower_case: bool = False

    def filled(self, other: "Convention") -> "Convention":
        """This one, with the pooling, normalisation and prefix of another where it has none."""
        keys = ("pooling", "normalize", "prefix")
        missing = {key: getattr(other, key) for key in keys if getattr(self, key) is None}
        return replace(self, **missing)

    def __str__(self) -> str:
        """In words, for messages."""
        normalised = "normalised" if self.normalize else "not normalised"
        return f'{self.pooling} pooling, {normalised}, prefix "{self.prefix or ""}"'


# Families whose model cards say how they are used; the prefix stands in none of their files. The
# last part of a name, pooling, prefixes of questions and of passages; all are normalised.
FAMILIES: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        r"bge-(small|base|large)-en(-v1\.5)?",
        "cls",
        {QUESTION: "Represent this sentence for searching relevant passages: "},
    ),
    (r"bge-m3", "cls", {}),
    (
        r"(multilingual-)?e5-(small|base|large)(-v2)?",
        "mean",
        {QUESTION: "query: ", PASSAGE: "passage: "},
    ),
    (r"gte-(small|base|large)", "mean", {}),
)


def agree(name: str, side: str, asked: Convention, told: Convention | None) -> Convention:
    """What was asked for, else what the folder says, else what is known of the name.

    Warns where something rests on the name, and where nothing says how to pool.

    Args:
        name: Hub name or folder.
        side: "question" or "passage".
        asked: what the caller wants.
        told: what the folder says; None for nothing.

    Returns:
        A convention with pooling and normalisation set; the mean, not normalised, if all is silent.
    """
    said = asked.filled(told or Convention())
    how = said.filled(family_convention(name, side))
    if how.pooling is None:
        how = replace(how, pooling="mean")
        warnings.warn(
            f"{name}: nothing says how its vectors are made, taking {how}. If it was trained "
            "otherwise, say so: --pooling, --normalize.",
            stacklevel=5,
        )
    elif how != said:
        warnings.warn(
            f"{name}: by its name taken for an encoder of {side}s with {how}. If it is another, "
            f"say so: --pooling, --normalize, --{side}_prefix.",
            stacklevel=5,
        )
    return replace(how, normalize=bool(how.normalize))


def family_convention(name: str, side: str) -> Convention:
    """What is known of a family of encoders by the last part of its name."""
    for pattern, pooling, prefixes in FAMILIES:
        if re.fullmatch(pattern, Path(name).name, flags=re.IGNORECASE):
            return Convention(pooling, True, prefixes.get(side))
    return Convention()


def folder_convention(name: str, side: str) -> Convention | None:
    """What a sentence-transformers folder says; None for any other.

    Args:
        name: Hub name or folder.
        side: "question" or "passage".

    Raises:
        ValueError: it holds a module or a pooling that we do not build, or a file is damaged.
    """
    modules = _read_json(name, "modules.json", list)
    if modules is None:
        return None
    kinds = [_kind(name, module) for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        other = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
        raise ValueError(
            f"{name}/modules.json: expected Transformer, Pooling and perhaps Normalize, found "
            f"{', '.join(kinds) or 'nothing'}. Its vectors cannot be had without "
            f"{other[0] if other else 'them in this order'}: choose another encoder."
        )
    subfolder = modules[0].get("path", "")
    settings = _read_json(name, "config_sentence_transformers.json", dict) or {}
    sizes = _read_json(name, _join(subfolder, "sentence_bert_config.json"), dict) or {}
    cosine = settings.get("similarity_fn_name") == "cosine"
    return Convention(
        pooling=_pooling(name, _join(modules[1].get("path", ""), "config.json")),
        normalize="Normalize" in kinds or cosine,
        prefix=_prompt(settings, side),
        max_length=sizes.get("max_seq_length"),
        subfolder=subfolder,
        lower_case=bool(sizes.get("do_lower_case")),
    )


def _kind(name: str, module: Any) -> str:
    """The class of a module, without where it stands."""
    if not isinstance(module, dict) or not isinstance(module.get("type"), str):
        raise ValueError(f'{name}/modules.json: expected objects with a "type".')
    kind: str = module["type"]
    return kind.rpartition(".")[2]


def _pooling(name: str, file: str) -> str:
    """How the Pooling module pools.

    Raises:
        ValueError: otherwise than by the first token or the mean, or leaving the prefix out.
    """
    config = _read_json(name, file, dict) or {}
    # pooling_mode_mean_tokens: true; later releases of sentence-transformers: pooling_mode: "mean".
    modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    names = [re.sub(r"^pooling_mode_|_tokens?$", "", mode) for mode in modes]
    mode = str(config.get("pooling_mode", " and ".join(names)))
    if mode not in POOLINGS or config.get("include_prompt") is False:
        found = f'"{mode}"' if mode not in POOLINGS else "one that leaves the prompt out"
        raise ValueError(
            f"{name}/{file}: expected pooling {' or '.join(POOLINGS)}, found {found}. Choose "
            "another encoder."
        )
    return mode


def _prompt(settings: dict[str, Any], side: str) -> str | None:
    """The prompt for one side; None where none is set, or an empty one, which is the default."""
    prompts = settings.get("prompts") or {}
    names = (*PROMPTS[side], settings.get("default_prompt_name"))
    return next((prompts[key] for key in names if prompts.get(key)), None)


@contextmanager
def naming_source(name: str) -> Iterator[None]:
    """Name the folder or Hub name in an error of the library, which does not when offline.

    Raises:
        OSError: as the library's, with the name before it.
    """
    try:
        yield
    except OSError as error:
        parent = Path(name).parent
        beside = f" ({parent} is one, without it)" if parent.name and parent.is_dir() else ""
        if name in str(error) and not beside:
            raise
        raise OSError(
            f"{name}: no such folder{beside}, nor to be had of the Hub. {error}"
        ) from error


def _read_json(name: str, file: str, kind: type) -> Any:
    """A JSON file of a folder or of the Hub; None where there is none."""
    with naming_source(name):
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return None
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}/{file}:{error.lineno}: not JSON ({error.msg}).") from error
    if not isinstance(value, kind):
        expected = "a list" if kind is list else "an object"
        raise ValueError(f"{name}/{file}: expected {expected}, found {describe(value)}.")
    return value


def _join(folder: str, file: str) -> str:
    """A path within the folder of an encoder."""
    return f"{folder}/{file}" if folder else file
