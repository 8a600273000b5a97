"""A tiny cross-encoder from a config, saved as an ordinary folder."""

from pathlib import Path

import tiny_encoders
import tiny_rag
import torch
from transformers import BertConfig, BertForSequenceClassification


def save_reranker(folder: Path, n_logits: int = 1, std: float = 0.3) -> str:
    """Save a BERT with a classifier on top, its matrices drawn wide or narrow."""
    vocab_size = len(tiny_rag.word_tokenizer("bert"))
    config = BertConfig(**{**tiny_encoders.SIZES, "vocab_size": vocab_size, "num_labels": n_logits})
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    tiny_rag.spread(model, std)
    return tiny_encoders.save_bare(folder, model)
