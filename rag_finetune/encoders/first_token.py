"""The last layer of a BERT or RoBERTa for its first token alone, where no other is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

from torch import Tensor, nn
from transformers import DPRContextEncoder, DPRQuestionEncoder

from rag_finetune.encoders.dpr import encoder_of
from rag_finetune.encoders.pooled import PooledEncoder

_ATTENTIONS = ("sdpa", "eager")  # others pass masks of other shapes
# Of Transformers, by name: importing the modules of all would take time. One is like the other.
_LAYERS = ("BertLayer", "RobertaLayer", "XLMRobertaLayer")
# A thread that reads all states of a network is not to get one because another asked for it.
_SHORT: ContextVar[tuple[Any, ...]] = ContextVar("layers that this thread has short", default=())
_LOCK = Lock()


@contextmanager
def first_token_alone(model: Any) -> Iterator[None]:
    """Let an encoder whose vectors are the first token's compute no other state that is not read.

    The first token attends to the states that all tokens have before the last layer; what that
    layer makes of the others is read by nobody. It is a twelfth of BERT-base, of which keys and
    values are kept. For inference: dropout of the attention is left out, and so are the states
    of the other tokens, which `last_hidden_state` has otherwise.

    Args:
        model: any encoder; one that pools the mean, or is no BERT or RoBERTa, is left as it is.
    """
    layer = _last_layer(model)
    if layer is None:
        yield
        return
    with _LOCK:
        short = vars(layer).setdefault("forward", _Forward(layer))
        short.users += 1
    asked = _SHORT.set((*_SHORT.get(), layer))
    try:
        yield
    finally:
        _SHORT.reset(asked)
        with _LOCK:
            short.users -= 1
            if not short.users:
                del layer.forward  # the class's again


class _Forward:
    """The forward of a layer, for the first token alone in threads that ask for it."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.users = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        short = self.layer in _SHORT.get()
        run = _of_first_token if short else type(self.layer).forward
        states: Tensor = run(self.layer, *args, **kwargs)
        return states


def _last_layer(model: Any) -> Any:
    """The last layer of an encoder that pools the first token; None where it must run whole."""
    if isinstance(model, PooledEncoder):
        if model.config.pooling != "cls":
            return None
        network = model.inner
    elif isinstance(model, DPRContextEncoder | DPRQuestionEncoder):
        network = encoder_of(model).bert_model
    else:
        return None
    layers = getattr(getattr(network, "encoder", None), "layer", None)
    if not layers or network.config._attn_implementation not in _ATTENTIONS:
        return None
    layer = layers[-1]
    of_transformers = type(layer).__module__.startswith("transformers.models.")
    is_plain = of_transformers and type(layer).__name__ in _LAYERS and not layer.is_decoder
    # A forward of its own is that of hooks, such as those that move weights between devices.
    is_own = isinstance(vars(layer).get("forward"), _Forward | None)
    return layer if is_plain and is_own else None


def _of_first_token(
    layer: Any, hidden: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    """What a layer gives for the first token.

    Args:
        layer: that of a BERT.
        hidden: states before it, shape (batch, length, dim).
        attention_mask: boolean, or added to the scores, shape (batch, 1, length or 1, length).

    Returns:
        Shape (batch, 1, dim).
    """
    attention, first = layer.attention, hidden[:, :1]  # first: (batch, 1, dim)
    heads = attention.self

    def split(states: Tensor) -> Tensor:
        parts = states.unflatten(-1, (-1, heads.attention_head_size))
        return parts.transpose(1, 2)  # (batch, heads, length, dim / heads)

    found = nn.functional.scaled_dot_product_attention(
        split(heads.query(first)),
        split(heads.key(hidden)),
        split(heads.value(hidden)),
        attn_mask=None if attention_mask is None else attention_mask[:, :, :1],
        scale=heads.scaling,
    )
    states: Tensor = attention.output(found.transpose(1, 2).flatten(2), first)
    result: Tensor = layer.feed_forward_chunk(states)
    return result
