"""The starter's three networks, untrained but with a head start.

A network this small learns to copy only once one head looks at the token before and another follows
what it found. Both can be written down, so the generator starts with them in place of waiting
thousands of steps: positions have dimensions of their own and are sinusoids, a turn of which is a
step to the side. All weights are trained from there on.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from tokenizer import MAX_LENGTH, PAD
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.bart.modeling_bart import BartAttention, BartEncoderLayer

SPECIAL_IDS = ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id")
WIDTH = 128
POSITIONS = WIDTH // 4  # the last dimensions of an embedding
START = time.monotonic()


def sinusoid_rates() -> Tensor:
    """Radians a token, shape (POSITIONS / 2,)."""
    return torch.exp(torch.arange(0, POSITIONS, 2) * (-math.log(1000.0) / POSITIONS))


def sinusoids(count: int) -> Tensor:
    """Sines, then cosines, of each position, shape (count, POSITIONS)."""
    angles = torch.arange(count).unsqueeze(1) * sinusoid_rates()
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def turned(places: int) -> Tensor:
    """The matrix that turns the sinusoids of a position into those so many places on."""
    angles = sinusoid_rates() * places
    cos, sin = angles.cos().diag(), angles.sin().diag()
    return torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])


def separate_positions(words: Tensor, positions: Tensor) -> None:
    """Leave the last dimensions of the embeddings to the positions."""
    words[:, -POSITIONS:] = 0
    positions.zero_()
    positions[:, -POSITIONS:] = 0.1 * sinusoids(len(positions))


def hand_on(value: nn.Linear, out: nn.Linear, scale: float) -> None:
    """Let an attention hand on what it looks at nearly as it is: out = valueᵀ."""
    value.weight.normal_(0, scale * len(value.weight) ** -0.5)
    out.weight.copy_(value.weight.T)


def look_aside(
    query: nn.Linear, key: nn.Linear, value: nn.Linear, out: nn.Linear, places: tuple[int, ...]
) -> None:
    """Let each of the first heads look at the token so many places on, and hand on which it is."""
    for head, place in enumerate(places):
        rows = slice(head * POSITIONS, (head + 1) * POSITIONS)
        query.weight[rows] = 0
        query.weight[rows, -POSITIONS:] = 5 * turned(place)
        key.weight[rows] = 0
        key.weight[rows, -POSITIONS:] = torch.eye(POSITIONS)
        value.weight[rows, -POSITIONS:] = 0
        out.weight[:, rows].normal_(0, 0.5 * WIDTH**-0.5)


def new_generator(vocab_size: int) -> Any:
    """A BART whose decoder starts by going on where it is in the context."""
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=vocab_size,
            d_model=WIDTH,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=WIDTH // POSITIONS,
            decoder_attention_heads=WIDTH // POSITIONS,
            encoder_ffn_dim=2 * WIDTH,
            decoder_ffn_dim=2 * WIDTH,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=0,
            pad_token_id=PAD,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
            dropout=0.0,
            init_std=0.05,
        )
    )
    ids = {name: getattr(model.config, name) for name in SPECIAL_IDS}
    model.generation_config = GenerationConfig(max_length=48, **ids)
    encoder, decoder = model.model.encoder, model.model.decoder
    with torch.no_grad():
        for part in (encoder, decoder):
            separate_positions(model.model.shared.weight, part.embed_positions.weight)
        for attention in model.modules():
            if isinstance(attention, BartAttention):  # looks for what is like itself
                attention.q_proj.weight.normal_(0, WIDTH**-0.5)
                attention.k_proj.weight.copy_(attention.q_proj.weight)
                hand_on(attention.v_proj, attention.out_proj, 0.5)
        behind = encoder.layers[0].self_attn
        for attention, places in ((behind, (-1, 1, -2)), (decoder.layers[0].self_attn, (-1,))):
            parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
            look_aside(*parts, places)
        for layer in decoder.layers:  # head 0 looks for what had the last token before it
            go_on, rows = layer.encoder_attn, slice(0, POSITIONS)
            go_on.q_proj.weight[rows] = 2 * behind.v_proj.weight[rows]
            go_on.k_proj.weight[rows] = 2 * behind.out_proj.weight[:, rows].T
    return model


@torch.no_grad()
def deepen_encoder(model: Any, after: Sequence[int], contexts: Tensor, real: Tensor) -> None:
    """Add a layer to the generator's encoder after each of these, nearly without effect.

    What attention and feed-forward of a new layer add is zero at first. Its norms put back what
    normalising takes away: their weights are fitted to what the layer before gives for a batch,
    with token ids `contexts` and attention mask `real` (bool), both of shape (rows, length).
    """
    encoder = model.model.encoder
    read = encoder(input_ids=contexts, attention_mask=real.long(), output_hidden_states=True)
    for place in sorted(after, reverse=True):
        states = read.hidden_states[place + 1][real]  # the first are the embeddings
        normal = (states - states.mean(1, keepdim=True)) / states.std(1, keepdim=True)
        centred = normal - normal.mean(0)
        weight = (states * centred).sum(0) / centred.square().sum(0)
        layer = BartEncoderLayer(model.config)
        for parameter in layer.parameters():
            parameter.zero_() if parameter.ndim == 1 else parameter.normal_(0, WIDTH**-0.5)
        for norm in (layer.self_attn_layer_norm, layer.final_layer_norm):
            norm.weight.copy_(weight)
            norm.bias.copy_(states.mean(0) - weight * normal.mean(0))
        layer.self_attn.out_proj.weight.zero_()
        layer.fc2.weight.zero_()
        encoder.layers.insert(place + 1, layer)
    model.config.encoder_layers = model.config.num_hidden_layers = len(encoder.layers)


@torch.no_grad()
def change_vocabulary(
    model: Any, old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast
) -> None:
    """Let the generator read another tokenizer's tokens, special ones having the same ids.

    The embedding of a token is the sum of those of its old pieces, over the root of their number
    so that its length stays.
    """
    table, known = model.get_input_embeddings().weight.clone(), old.get_vocab()
    pieces = old.backend_tokenizer.model
    rows = torch.empty(len(new), table.shape[1])
    for token, row in new.get_vocab().items():
        ids = [known[token]] if token in known else [one.id for one in pieces.tokenize(token)]
        rows[row] = table[ids].sum(0) / len(ids) ** 0.5
    model.resize_token_embeddings(len(new), mean_resizing=False)
    model.get_input_embeddings().weight.copy_(rows)
    model.final_logits_bias.zero_()


def new_encoders(vocab_size: int, width: int = 192) -> tuple[Any, Any]:
    """A question encoder and a context encoder that start alike, near to a bag of word pieces."""
    config = DPRConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=8,
        intermediate_size=width,
        max_position_embeddings=MAX_LENGTH // 2,
        projection_dim=0,
        pad_token_id=PAD,
        initializer_range=0.05,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    question, context = DPRQuestionEncoder(config), DPRContextEncoder(config)
    layer = question.question_encoder.bert_model.encoder.layer[0].attention
    with torch.no_grad():
        hand_on(layer.self.value, layer.output.dense, 1.0)
    context.ctx_encoder.load_state_dict(question.question_encoder.state_dict())
    return question, context


def parameters_of(*models: nn.Module) -> int:
    """How many weights they have."""
    return sum(parameter.numel() for model in models for parameter in model.parameters())


def say(text: str) -> None:
    """Print with the seconds since the import of this file."""
    print(f"{time.monotonic() - START:7.0f} s  {text}", flush=True)
