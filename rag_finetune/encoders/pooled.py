"""Any BERT-like encoder as a question or context encoder: pooling, normalisation, scale."""

import math
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import ModelOutput

POOLINGS = ("cls", "mean")


class PooledEncoderConfig(PreTrainedConfig):
    """Configuration of a `PooledEncoder`.

    Attributes:
        inner: configuration of the network within.
        pooling: "cls" for the state of the first token, "mean" for the mean over all tokens.
        normalize: whether vectors are brought to length 1.
        scale: what vectors are multiplied by, last.
        max_position_embeddings: tokens that the network can take.
        pad_token_id: the token that stands where a text has ended.
        projection_dim: always 0, as in a DPR configuration without projection.
    """

    model_type: ClassVar[str] = "pooled_encoder"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "inner": SubConfigSpec(AutoConfig, model_type="bert")
    }

    inner: Any = None
    pooling: str = "mean"
    normalize: bool = False
    scale: float = 1.0
    max_position_embeddings: int = 512
    pad_token_id: int | None = 0
    projection_dim: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the inner configuration, and check the rest.

        Raises:
            ValueError: an unknown pooling, or a scale that is not a number above 0.
        """
        require_pooling(self.pooling)
        require_scale(self.scale)
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Length of a vector."""
        size: int = self.inner.hidden_size
        return size


@dataclass
class PooledEncoderOutput(ModelOutput):
    """What a `PooledEncoder` returns.

    Attributes:
        pooler_output: the vectors, shape (batch, dim), float32 whatever the weights are.
        hidden_states: of each layer, when asked for.
        attentions: of each layer, when asked for.
    """

    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class PooledEncoder(PreTrainedModel):
    """A network that gives one vector a text: pooled, normalised, scaled.

    Attributes:
        inner: the network, without the pooler that it may have had: nothing would train it, and
            distributed training stops at parameters that get no gradient.
    """

    config: PooledEncoderConfig
    config_class = PooledEncoderConfig
    base_model_prefix = "inner"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: PooledEncoderConfig, inner: PreTrainedModel | None = None) -> None:
        """Build the network from its configuration, or around one that has its weights.

        Args:
            config: the configuration.
            inner: a network of configuration `config.inner`; None for a new one.
        """
        super().__init__(config)
        self.inner: Any = AutoModel.from_config(config.inner) if inner is None else inner
        if getattr(self.inner, "pooler", None) is not None:
            self.inner.pooler = nn.Identity()
        self._takes_types = "token_type_ids" in signature(self.inner.forward).parameters
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of the network within."""
        embeddings: nn.Module = self.inner.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the network within."""
        self.inner.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> PooledEncoderOutput:
        """Vectors of a batch of texts.

        Args:
            input_ids: token ids, shape (batch, length), padded on the right.
            attention_mask: 1 for tokens, 0 for padding, shape (batch, length). None: everything
                but `config.pad_token_id`, since `RagSequenceForGeneration.generate` of plain
                Transformers passes none.
            token_type_ids: shape (batch, length); left out where the network knows none.
            inputs_embeds: embeddings in place of `input_ids`, shape (batch, length, hidden).
            return_dict: taken and not read: a RAG model needs a ModelOutput.
            **kwargs: for the network, such as output_attentions.
        """
        del return_dict
        if attention_mask is None:
            attention_mask = self._mask_of(input_ids, inputs_embeds)
        if token_type_ids is not None and self._takes_types:
            kwargs["token_type_ids"] = token_type_ids
        outputs = self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        vectors = pool(outputs[0], attention_mask, self.config.pooling)
        if self.config.normalize:
            vectors = nn.functional.normalize(vectors, dim=-1)
        return PooledEncoderOutput(
            pooler_output=vectors * self.config.scale,
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )

    def _mask_of(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """The attention mask that the padding tells, shape (batch, length)."""
        if input_ids is not None and self.config.pad_token_id is not None:
            return (input_ids != self.config.pad_token_id).long()
        source = inputs_embeds if input_ids is None else input_ids
        if source is None:
            raise ValueError("PooledEncoder needs input_ids or inputs_embeds, found neither.")
        return torch.ones(source.shape[:2], dtype=torch.long, device=source.device)


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector a text from the states of its tokens, in float32.

    Args:
        hidden: states of the last layer, shape (batch, length, dim).
        mask: 1 for tokens, 0 for padding, shape (batch, length).
        pooling: "cls" or "mean".

    Returns:
        Shape (batch, dim); zeros for the mean over no tokens at all.
    """
    if pooling == "cls":
        return hidden[:, 0].float()
    # The sum of 512 states may be more than float16 holds, and bfloat16 would round the mean.
    weights = mask.unsqueeze(-1).float()  # (batch, length, 1)
    with torch.autocast(hidden.device.type, enabled=False):
        # where, not a product alone: padding may be NaN, as in a row that is all padding.
        states = torch.where(weights > 0, hidden.float(), 0.0)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def require_pooling(pooling: str) -> None:
    """Raise for an unknown way of pooling.

    Raises:
        ValueError: it is neither "cls" nor "mean".
    """
    if pooling not in POOLINGS:
        raise ValueError(f'pooling must be {" or ".join(POOLINGS)}, found "{pooling}".')


def require_scale(scale: float) -> None:
    """Raise for a scale that would turn the ranking round, or end it.

    Raises:
        ValueError: it is not a finite number above 0.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a number above 0, found {scale}.")


def register() -> None:
    """Make `PooledEncoder` known to Transformers' auto classes; again does nothing.

    Needed once in a process before plain Transformers loads a checkpoint with such an encoder: it
    would raise `KeyError: 'pooled_encoder'`. Everything of this package that loads calls it.
    """
    AutoConfig.register(PooledEncoderConfig.model_type, PooledEncoderConfig, exist_ok=True)
    AutoModel.register(PooledEncoderConfig, PooledEncoder, exist_ok=True)
