"""The model card of a checkpoint, README.md: what it is made of, how it was trained and is loaded.

Nothing in it is a path of the machine that wrote it: folders are named by their last part.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from transformers import RagTokenForGeneration

from rag_finetune.encoders.pooled import PooledEncoder
from rag_finetune.files import read_text, write_text
from rag_finetune.index.manifest import Manifest
from rag_finetune.rag.causal_model import CausalRag

CARD = "README.md"
KEY = "rag_finetune"  # in the card's metadata: the names of the parts
ROLES = ("question_encoder", "generator")

INTRODUCTION = """
# {head}: {question_encoder} and {generator}

A retrieval-augmented generation model ([Lewis et al. 2020](https://arxiv.org/abs/2005.11401)): its
question encoder finds passages in an index, its generator reads each of them with the question and
answers. Made with rag-finetune.
"""

LOAD = """
## How to load it

`folder` is this folder, wherever it stands{download}.

```python
from rag_finetune import generate_answers, load_rag

folder = {folder}
rag = load_rag(folder{index_argument})
[answers] = generate_answers(rag, ["Which question do you have?"])
print(answers[0].text, answers[0].passages)
```
"""

PLAIN = """
In plain Transformers{register_reason}:

```python
{register}from transformers import RagRetriever, {model_class}, RagTokenizer

retriever = RagRetriever.from_pretrained(
    folder,
    index_name="custom",
    passages_path={index} + "/passages",
    index_path={index} + "/dense.faiss",
)
model = {model_class}.from_pretrained(folder)
model.set_retriever(retriever)
tokenizer = RagTokenizer.from_pretrained(folder)
{mask}inputs = tokenizer.question_encoder(["Which question do you have?"], return_tensors="pt")
print(tokenizer.batch_decode(model.generate(inputs["input_ids"]), skip_special_tokens=True))
```
"""

MASK = """
# RagSequenceForGeneration.generate hands its generator no mask of the padding (Transformers 5.23).
generate = model.generator.generate
model.generator.generate = lambda ids, **options: generate(
    ids, **{**options, "attention_mask": ids.ne(model.config.generator.pad_token_id).long()}
)
"""


@dataclass(frozen=True)
class Origin:
    """What a checkpoint was made from.

    Attributes:
        parts: names of the question encoder and of the generator; empty where they are not known.
        base_models: those names, and that of the checkpoint, which are the Hub's.
    """

    parts: dict[str, str] = field(default_factory=dict)
    base_models: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CardIndex:
    """What a card says about the index that a checkpoint retrieves from.

    Attributes:
        manifest: the index's own description.
        is_inside: it stands in the checkpoint, in `index/`.
    """

    manifest: Manifest
    is_inside: bool


def origin_of_parts(**parts: str) -> Origin:
    """The origin of a checkpoint that is joined from parts, by folder or Hub name."""
    named = {role: public_name(name) for role, name in parts.items()}
    return Origin(named, sorted({name for name in parts.values() if not Path(name).is_dir()}))


def origin_of_checkpoint(name_or_path: str) -> Origin:
    """The origin of what is trained from a checkpoint: that which its own card names.

    Args:
        name_or_path: folder or Hub name. A folder without a card, or with one of somebody else,
            tells nothing.
    """
    if not Path(name_or_path).is_dir():
        return Origin({}, [name_or_path])
    try:
        data = ModelCard(read_text(Path(name_or_path) / CARD)).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError):
        return Origin()
    parts, bases = data.get(KEY), data.get("base_model") or []
    known = parts if isinstance(parts, dict) else {}
    return Origin(
        {role: str(known[role]) for role in ROLES if role in known},
        [bases] if isinstance(bases, str) else list(bases),
    )


def public_name(name_or_path: str) -> str:
    """A Hub name as it is, a folder by its last part."""
    path = Path(name_or_path)
    return path.resolve().name if path.is_dir() else name_or_path


def save_model_card(
    folder: Path,
    model: Any,
    origin: Origin,
    index: CardIndex | None = None,
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    hub_name: str | None = None,
) -> None:
    """Write README.md into a checkpoint.

    Args:
        folder: the checkpoint.
        model: its RAG model.
        origin: what it was made from.
        index: what it retrieves from; None for none.
        training: data and hyperparameters, by what they are called; empty before training.
        metrics: figures on the validation questions; fractions from 0 to 1.
        hub_name: where the checkpoint is uploaded to.
    """
    head = "RAG-Token" if isinstance(model, RagTokenForGeneration) else "RAG-Sequence"
    if isinstance(model, CausalRag):
        head = "RAG with a decoder-only generator"
    names = {role: origin.parts.get(role, f"a {role.replace('_', ' ')}") for role in ROLES}
    sections = [
        f"---\n{_metadata(origin, head, metrics or {}).to_yaml()}\n---\n",
        INTRODUCTION.format(head=head, **names),
        _index_section(index),
        _table("Training", training or {}),
        _table("On the validation questions", _percent(metrics or {})),
        _load_section(model, index, hub_name),
    ]
    write_text(folder / CARD, "".join(sections))


def _metadata(origin: Origin, head: str, metrics: Mapping[str, float]) -> ModelCardData:
    """The head of the card, which the Hub reads."""
    tag = head.lower().replace(" ", "-")
    more: dict[str, Any] = {KEY: origin.parts} if origin.parts else {}
    return ModelCardData(
        base_model=origin.base_models or None,
        library_name="transformers",
        tags=["rag", tag, "retrieval-augmented-generation", "rag-finetune"],
        metrics=[name for name in ("exact_match", "f1") if name in metrics] or None,
        **more,
    )


def _index_section(index: CardIndex | None) -> str:
    """The manifest, as far as it tells a reader something."""
    if index is None:
        return ""
    manifest = index.manifest
    facts = {
        "stands in": "`index/`" if index.is_inside else "a folder of its own, not here",
        "passages": f"{manifest.n_passages:,}",
        "documents": f"{manifest.n_documents:,}",
        "words a passage": f"at most {manifest.passage_words}" if manifest.passage_words else "all",
    }
    if manifest.has_vectors:
        facts |= {
            "context encoder": manifest.encoder["name"],
            "fingerprint of the context encoder": manifest.fingerprint,
            "dimension": str(manifest.dimension),
            "FAISS type": manifest.faiss_factory,
            "recall against exact search": f"{manifest.measured_recall:.3f}",
        }
    if manifest.lexical:
        facts["searched by words"] = ", ".join(manifest.lexical)
    return _table("Index", facts)


def _load_section(model: Any, index: CardIndex | None, hub_name: str | None) -> str:
    """The lines of code that load the checkpoint."""
    is_inside = index is not None and index.is_inside
    first = ("", "")
    if isinstance(model.rag.question_encoder, PooledEncoder):
        first = (
            " (the question encoder is a `PooledEncoder`, which is made known first)",
            "import rag_finetune\n\nrag_finetune.register()\n",
        )
    by_words = index is not None and not index.manifest.has_vectors
    text = LOAD if by_words or isinstance(model, CausalRag) else LOAD + PLAIN
    return text.format(
        download=f', or `huggingface_hub.snapshot_download("{hub_name}")`' if hub_name else "",
        folder='"path/to/this/folder"',
        index_argument="" if is_inside else ', index="path/to/index"',
        index='folder + "/index"' if is_inside else '"path/to/index"',
        model_class=type(model).__name__,
        mask="" if isinstance(model, RagTokenForGeneration) else MASK,
        register_reason=first[0],
        register=first[1],
    )


def _percent(metrics: Mapping[str, float]) -> dict[str, str]:
    """Fractions as they are read."""
    return {name: f"{100 * value:.1f} %" for name, value in metrics.items()}


def _table(title: str, rows: Mapping[str, Any]) -> str:
    """A section with a table; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["", f"## {title}", "", "| | |", "|---|---|", *lines, ""])
