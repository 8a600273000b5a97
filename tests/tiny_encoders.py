"""Tiny encoders of many families, built from configs, and folders as other tools leave them."""

import json
from pathlib import Path

import tiny_rag
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 66,
}
ROBERTA = {"pad_token_id": 1, "type_vocab_size": 1}
FAMILIES = {
    "bert": {},
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "mpnet": {"pad_token_id": 1},
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
    "modernbert": {"pad_token_id": 0, "global_attn_every_n_layers": 2, "local_attention": 8},
    "deberta-v2": {"position_biased_input": True},
    "squeezebert": {"embedding_size": 16} | {f"{part}_groups": 1 for part in "qkv"},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
}


def network(family: str, vocab_size: int = 60, **changes) -> torch.nn.Module:
    """A network of a family, 2 layers of width 16, in evaluation mode, its vectors well apart."""
    config = AutoConfig.for_model(
        family, **{**SIZES, "vocab_size": vocab_size, **FAMILIES.get(family, {}), **changes}
    )
    model = AutoModel.from_config(config)
    tiny_rag.spread(model, 0.3)
    return model.eval()


def bert(**changes) -> BertModel:
    """A BERT for the word-level tokenizer of `tiny_rag`."""
    vocab_size = len(tiny_rag.word_tokenizer("bert"))
    model = BertModel(BertConfig(**{**SIZES, "vocab_size": vocab_size, **changes}))
    tiny_rag.spread(model, 0.3)
    return model.eval()


def save_bare(folder: Path, model: torch.nn.Module | None = None) -> str:
    """Save a network and its tokenizer as an ordinary Transformers folder."""
    (bert() if model is None else model).save_pretrained(folder)
    tiny_rag.word_tokenizer("bert").save_pretrained(folder)
    return str(folder)


def write(path: Path, data: object) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def save_sentence_folder(
    folder: Path,
    model: torch.nn.Module | None = None,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    subfolder: str = "",
    more: tuple[str, ...] = (),
    settings: dict | None = None,
    max_seq_length: int | None = 32,
) -> str:
    """Save a network the way sentence-transformers lays its folders out."""
    save_bare(folder / subfolder, model)
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else []), *more]
    paths = [subfolder, *(f"{row}_{kind}" for row, kind in enumerate(kinds) if row)]
    write(
        folder / "modules.json",
        [
            {
                "idx": row,
                "name": str(row),
                "path": path,
                "type": f"sentence_transformers.models.{k}",
            }
            for row, (path, k) in enumerate(zip(paths, kinds, strict=True))
        ],
    )
    modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    flags = {f"pooling_mode_{word}": mode == pooling for mode, word in modes.items()}
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **flags})
    if max_seq_length is not None:
        sizes = {"max_seq_length": max_seq_length, "do_lower_case": False}
        write(folder / subfolder / "sentence_bert_config.json", sizes)
    if settings is not None:
        write(folder / "config_sentence_transformers.json", settings)
    return str(folder)


def reference(
    model: torch.nn.Module, texts: list[str], *, pooling: str, normalize: bool, max_length: int = 64
) -> torch.Tensor:
    """Vectors computed apart from the package, text by text, so that nothing is padded."""
    tokenizer, vectors = tiny_rag.word_tokenizer("bert"), []
    for text in texts:
        ids = tokenizer([text], truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            states = model(input_ids=ids["input_ids"])[0][0]  # (length, dim)
        vectors.append(states[0] if pooling == "cls" else states.sum(0) / len(states))
    stacked = torch.stack(vectors)
    return stacked / stacked.norm(dim=1, keepdim=True) if normalize else stacked
