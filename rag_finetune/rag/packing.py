"""Sequences laid out in rows: one a row and padded behind, or several a row, behind each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.masking_utils import create_causal_mask

from rag_finetune.encoders.encode import evaluation_mode

PACKS = ("sdpa", "eager")  # kinds of attention for which Transformers keeps packed sequences apart
TRIED = (5, 9, 3)  # lengths of the sequences that packing is tried with
SAME = 1e-3  # largest difference of logits, as a share of the largest of them
# How a network is told which tokens of a row belong together: see `require_packing`.
Packing = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass
class Layout:
    """Sequences in the rows of a batch.

    Attributes:
        inputs: what a decoder-only model takes of them, each of shape (rows, length).
        starts: where each sequence begins in the flattened batch, (sequences,), on the CPU.
    """

    inputs: dict[str, Tensor]
    starts: list[int]


def lay_out(sequences: Sequence[Tensor], packing: Packing | None = None) -> Layout:
    """Put sequences into rows of the longest one's length.

    Args:
        sequences: token ids, each of shape (length,).
        packing: as many a row as it has room for, each to be read by itself, as `require_packing`
            found for the network. None: one a row.
    """
    lengths = [len(sequence) for sequence in sequences]
    width, device = max(lengths), sequences[0].device
    rows = first_fit(lengths) if packing else [[at] for at in range(len(lengths))]
    starts = [0] * len(lengths)
    for row, held in enumerate(rows):
        place = row * width
        for at in held:
            starts[at], place = place, place + lengths[at]
    joined = [torch.cat([sequences[at] for at in held]) for held in rows]
    inputs = {"input_ids": pad_sequence(joined, batch_first=True)}
    if packing:  # what is left of a row is a sequence of its own, too
        parts = [[lengths[at] for at in held] for held in rows]
        parts = [[*part, width - sum(part)] for part in parts]
        positions = [torch.cat([torch.arange(length) for length in part]) for part in parts]
        inputs["position_ids"] = torch.stack(positions).to(device)
        inputs = packing(inputs)
    else:
        real = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
        inputs["attention_mask"] = real.long().to(device)
    return Layout(inputs, starts)


def first_fit(lengths: Sequence[int]) -> list[list[int]]:
    """Which sequences share a row, whose length is that of the longest.

    The longest goes first, each into the first row that has room for it.
    """
    width, rows, room = max(lengths), list[list[int]](), list[int]()
    for at in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        for row, left in enumerate(room):
            if lengths[at] <= left:
                rows[row].append(at)
                room[row] -= lengths[at]
                break
        else:
            rows.append([at])
            room.append(width - lengths[at])
    return rows


def by_positions(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs as they are: positions that begin anew, in the absence of a mask, say it."""
    return inputs


def by_mask(generator: Any) -> Packing:
    """Inputs with the mask that Transformers makes of such positions, for a network that does not.

    Args:
        generator: the network, which is to take a mask of four dimensions as it is.
    """
    config, weight = generator.config.get_text_config(), next(generator.parameters())

    def with_mask(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        positions = inputs["position_ids"]
        states = torch.empty((*positions.shape, 1), dtype=weight.dtype, device=positions.device)
        mask: Any = create_causal_mask(config, states, None, None, position_ids=positions)
        return {**inputs, "attention_mask": mask}

    return with_mask


def require_packing(generator: Any) -> Packing:
    """How a decoder-only model reads packed sequences as it reads them one by one, which is tried.

    Most of Transformers' networks tell sequences apart by their positions. Others (OPT) do not look
    at these, but take a mask; those whose positions are made of the mask (Bloom) can do neither.

    Returns:
        What `lay_out` takes.

    Raises:
        ValueError: it does not, or its attention is none of those that can.
    """
    kind = generator.config._attn_implementation
    if kind not in PACKS:
        raise ValueError(
            f"packing needs the attention {' or '.join(PACKS)}, found {kind}. Leave --packing out."
        )
    apart = _difference(generator, by_positions)
    if apart <= SAME:
        return by_positions
    reason: Exception | None = None
    # The mask would take the place of one that holds the window, wider than what is tried here.
    if getattr(generator.config.get_text_config(), "sliding_window", None) is None:
        packing = by_mask(generator)
        try:
            if _difference(generator, packing) <= SAME:
                return packing
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = error  # it wants a mask of two dimensions
    raise ValueError(
        f"{type(generator).__name__} does not keep packed sequences apart: their logits differ "
        f"by {apart:.2g} of the largest. Leave --packing out."
    ) from reason


def _difference(generator: Any, packing: Packing) -> float:
    """How far logits of packed sequences are from those one by one, as a share of the largest."""
    draw = torch.Generator().manual_seed(0)
    tokens = min(generator.config.get_text_config().vocab_size, 1000)
    drawn = [torch.randint(tokens, (length,), generator=draw) for length in TRIED]
    sequences = [sequence.to(generator.device) for sequence in drawn]
    found = []
    with torch.no_grad(), evaluation_mode(generator):
        for way in (None, packing):
            layout = lay_out(sequences, way)
            logits = generator(**layout.inputs, use_cache=False).logits.flatten(0, 1)
            pairs = zip(layout.starts, TRIED, strict=True)
            found.append(torch.cat([logits[start : start + n] for start, n in pairs]).float())
    difference = (found[0] - found[1]).abs().max() / found[0].abs().max().clamp(min=1e-6)
    return float(difference.nan_to_num(torch.inf))
