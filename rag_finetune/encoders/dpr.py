"""BERT as a DPR model, and the scale of vectors: changes of form that keep every vector's value."""

from typing import Any

import torch
from transformers import BertConfig, BertModel, DPRConfig, PreTrainedModel

from rag_finetune.encoders.pooled import PooledEncoder, require_scale

# Everything of a BERT configuration that decides its vectors; DPR's names for it are the same.
_SHARED = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "hidden_dropout_prob attention_probs_dropout_prob max_position_embeddings type_vocab_size "
    "initializer_range layer_norm_eps"
).split()


def dpr_from_bert(bert: Any, model_class: Any, pad_token_id: int | None) -> PreTrainedModel:
    """A BERT whose vector is the state of its first token, stored as a DPR model.

    Args:
        bert: a BertModel; its weights are shared, its pooler is left out.
        model_class: DPRQuestionEncoder or DPRContextEncoder.
        pad_token_id: the tokenizer's: DPR reads the attention mask off it when none is given.

    Returns:
        A model whose vectors are bit-equal to `bert(…)[0][:, 0]`.
    """
    shared = {name: getattr(bert.config, name) for name in _SHARED}
    model: PreTrainedModel = model_class(DPRConfig(**shared, pad_token_id=pad_token_id))
    weights = {name: tensor for name, tensor in bert.state_dict().items() if "pooler." not in name}
    encoder_of(model).bert_model.load_state_dict(weights, assign=True)
    return model


def bert_from_dpr(model: PreTrainedModel) -> BertModel:
    """The BERT within a DPR encoder, as a model of its own without a pooler; weights are shared."""
    shared = {name: getattr(model.config, name) for name in _SHARED}
    config = BertConfig(**shared, pad_token_id=model.config.pad_token_id)
    bert = BertModel(config, add_pooling_layer=False)
    bert.load_state_dict(encoder_of(model).bert_model.state_dict(), assign=True)
    return bert


def encoder_of(model: Any) -> Any:
    """The DPREncoder within a DPR question or context encoder."""
    return model.question_encoder if hasattr(model, "question_encoder") else model.ctx_encoder


@torch.no_grad()
def scale_vectors(model: Any, scale: float) -> None:
    """Multiply the vectors of an encoder, for good: the factor is saved with it.

    A `PooledEncoder` has it in its configuration, in place of one it had. A DPR model takes it
    into the weight and bias of what gives its vectors, the projection or the last LayerNorm.

    Args:
        model: a PooledEncoder or a DPR encoder; changed in place.
        scale: the factor; the ranking of passages stays as it is.

    Raises:
        ValueError: scale is not a number above 0.
    """
    require_scale(scale)
    if isinstance(model, PooledEncoder):
        model.config.scale = float(scale)
        return
    encoder = encoder_of(model)
    projected = model.config.projection_dim > 0
    last = (
        encoder.encode_proj if projected else encoder.bert_model.encoder.layer[-1].output.LayerNorm
    )
    last.weight.mul_(scale)
    last.bias.mul_(scale)
