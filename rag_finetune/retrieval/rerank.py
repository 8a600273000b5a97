"""A cross-encoder: reads question and passage together, and says how well they fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import tqdm

from rag_finetune.encoders.dpr import bert_from_dpr
from rag_finetune.encoders.encode import evaluation_mode, length_batches, tokens_per_batch
from rag_finetune.encoders.load import (
    load_context_encoder,
    load_question_encoder,
    require_source,
)
from rag_finetune.encoders.network import load_config, load_tokenizer, usable_positions
from rag_finetune.encoders.pooled import PooledEncoderConfig, register
from rag_finetune.encoders.prefix import with_prefix

MAX_LENGTH = 512
PAIRS_PER_BLOCK = 4096  # tokenised together

Pair = tuple[str, str]  # a question, and a passage as `passage_text` writes it


@dataclass
class Reranker:
    """A cross-encoder with its tokenizer.

    Attributes:
        model: a sequence classifier with one logit, or two of which the second stands for "fits".
        tokenizer: the tokenizer that belongs to it.
        max_length: question and passage together are cut to so many tokens, the longer one first.
        name: the folder or the Hub name that it came from.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    name: str = ""

    def tokenize(self, pairs: Sequence[Pair]) -> list[dict[str, list[int]]]:
        """Token ids of each pair."""
        questions, passages = map(list, zip(*pairs, strict=True))
        encoded = self.tokenizer(
            questions, passages, truncation="longest_first", max_length=self.max_length
        )
        return [{key: encoded[key][row] for key in encoded} for row in range(len(pairs))]

    def score(self, pairs: Sequence[Pair], progress: str = "") -> np.ndarray:
        """How well each passage fits its question, from the network in evaluation mode.

        Args:
            pairs: questions and passages; those of like length are computed together.
            progress: what the progress bar says; empty for no bar.

        Returns:
            Logits, the higher the better, shape (len(pairs),) float32.
        """
        scores = np.empty(len(pairs), np.float32)
        bar = tqdm(total=len(pairs), desc=progress, unit=" pairs", disable=not progress)
        with bar, evaluation_mode(self.model), torch.inference_mode():
            for start in range(0, len(pairs), PAIRS_PER_BLOCK):
                token_ids = self.tokenize(pairs[start : start + PAIRS_PER_BLOCK])
                lengths = [len(ids["input_ids"]) for ids in token_ids]
                for batch in length_batches(lengths, tokens_per_batch(self.model)):
                    rows = [start + row for row in batch]
                    scores[rows] = self._forward([token_ids[row] for row in batch])
                    bar.update(len(batch))
        return scores

    def order(
        self, questions: Sequence[str], passages: Sequence[Sequence[dict[str, Any]]], top: int
    ) -> list[list[int]]:
        """Put the first passages of each question into the order of their scores.

        Each of these gets its score under `reranker_score`.

        Args:
            questions: their texts.
            passages: title and text of those found for each, best first; where the title and the
                text are empty, as an approximate index may leave them, the passage stays behind.
            top: so many are looked at; the rest keeps its place behind them.

        Returns:
            For each question the places of its passages in their new order.
        """
        heads = [
            [place for place, passage in enumerate(found[:top]) if passage["text"]]
            for found in passages
        ]
        pairs = [
            (question, passage_text(found[place]))
            for question, found, head in zip(questions, passages, heads, strict=True)
            for place in head
        ]
        scores = iter(self.score(pairs).tolist())
        orders = []
        for found, head in zip(passages, heads, strict=True):
            for place in head:
                found[place]["reranker_score"] = next(scores)
            logits = [-found[place]["reranker_score"] for place in head]
            best = [place for _, place in sorted(zip(logits, head, strict=True))]
            orders.append([*best, *(place for place in range(len(found)) if place not in {*head})])
        return orders

    def _forward(self, batch: list[dict[str, list[int]]]) -> np.ndarray:
        padded = self.tokenizer.pad(batch, return_tensors="pt").to(self.model.device)
        scores: np.ndarray = fit_logits(self.model(**padded).logits).float().cpu().numpy()
        return scores


def fit_logits(logits: Tensor) -> Tensor:
    """The logit of "fits".

    Args:
        logits: shape (batch, 1), or (batch, 2) for "does not fit" and "fits".

    Returns:
        The one logit, or the logit of the second class's probability, which is the difference of
        the two; shape (batch,).
    """
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def passage_text(passage: dict[str, Any]) -> str:
    """A passage as the cross-encoder reads it: the title, a space, the text."""
    title, text = passage["title"], passage["text"]
    return f"{title} {text}" if title else text


def load_reranker(name: str, *, max_length: int | None = None, new_head: bool = False) -> Reranker:
    """Load a cross-encoder, in float32.

    Args:
        name: a folder or a Hub name.
        max_length: tokens of question and passage together; None for the model's most, up to 512.
        new_head: a network without a classifier gets a new one, of one logit, to be trained; it
            may be a DPR encoder, or one that this package saved.

    Raises:
        ValueError: it is no sequence classifier with one or two logits and can be none, or has no
            weights for its classifier and may not get new ones.
        OSError: the folder or name cannot be read.
    """
    register()
    require_source(name)
    config = load_config(name)
    trained = any("SequenceClassification" in kind for kind in config.architectures or [])
    if not new_head and not trained:
        raise ValueError(
            f"{name}: expected a cross-encoder (a model ForSequenceClassification), found "
            f"{', '.join(config.architectures or ['a model of no known kind'])}. Give another, or "
            "train one: rag-finetune train-reranker."
        )
    if config.model_type in ("dpr", PooledEncoderConfig.model_type):
        model, tokenizer = _around_encoder(name, config)
    else:
        model, tokenizer = _load_classifier(name, config, trained, new_head), load_tokenizer(name)
    limit = min(usable_positions(model), tokenizer.model_max_length)
    if max_length is not None and not 8 <= max_length <= limit:
        raise ValueError(f"{name}: max_length must be from 8 to {limit}, found {max_length}.")
    label = Path(name).name if Path(name).is_dir() else name
    return Reranker(model.eval(), tokenizer, max_length or min(limit, MAX_LENGTH), label)


def _around_encoder(name: str, config: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier with one new logit around the network of a DPR or `PooledEncoder`.

    Its tokenizer has neither the prefix nor the length that the encoder's vectors asked for.
    """
    of_contexts = "DPRContextEncoder" in (config.architectures or [])
    encoder = (load_context_encoder if of_contexts else load_question_encoder)(name)
    network: Any = encoder.model
    inner = bert_from_dpr(network) if config.model_type == "dpr" else network.inner
    _require_classifier(name, inner.config)
    inner.config.num_labels = 1
    model: Any = AutoModelForSequenceClassification.from_config(inner.config, dtype=torch.float32)
    missing, unexpected = model.base_model.load_state_dict(inner.state_dict(), strict=False)
    other = [key for key in missing if "pooler." not in key] + unexpected  # encoders have no pooler
    if other:
        raise ValueError(
            f"{name}: its network is not that of a {type(model).__name__}: {other[0]} stands in "
            "one alone. Give the network that it was made of."
        )
    tokenizer = with_prefix(encoder.tokenizer, "")
    tokenizer.model_max_length = usable_positions(model)
    return model, tokenizer


def _load_classifier(name: str, config: Any, trained: bool, new_head: bool) -> PreTrainedModel:
    _require_classifier(name, config)
    if not trained:
        config.num_labels = 1
    if config.num_labels not in (1, 2):
        raise ValueError(
            f"{name}: expected a cross-encoder with one or two logits, found {config.num_labels}. "
            "Give another."
        )
    model, report = AutoModelForSequenceClassification.from_pretrained(
        name, config=config, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing and not new_head:
        raise ValueError(
            f"{name}: has no weights for {missing[0]}: its scores would be random. Give a trained "
            "cross-encoder, or train it: rag-finetune train-reranker."
        )
    loaded: PreTrainedModel = model
    return loaded


def _require_classifier(name: str, config: Any) -> None:
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ValueError(
            f'{name}: a model of type "{config.model_type}" cannot be a cross-encoder. Give an '
            "encoder such as a BERT, RoBERTa or DeBERTa."
        )
