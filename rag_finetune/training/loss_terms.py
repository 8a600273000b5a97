"""Which losses train the retriever, and how much each weighs: `--retriever_loss` and its checks.

Imports no torch.
"""

import math
from typing import Any

from rag_finetune.files import nearest

# What can be named, and which of the options beside it each one reads.
LOSSES: dict[str, tuple[str, ...]] = {
    "lsr": ("lm_temperature", "lm_likelihood", "lsr_direction"),
    "pdist": ("lm_temperature", "lm_likelihood"),
    "emdr2": (),
    "adist": ("lm_temperature",),
    "loop": ("lm_temperature", "lm_likelihood"),
    "contrastive": ("contrastive_negatives",),
    "listwise": (),
}
# Options that mean nothing without a loss, and their defaults.
BESIDE = {
    "retriever_temperature": 1.0,
    "lm_temperature": 1.0,
    "lm_likelihood": "summed",
    "lsr_direction": "retriever_lm",
    "contrastive_negatives": "all",
    "likelihood_weight": 1.0,
}
OF_THE_LIKELIHOOD = ("label_smoothing_factor", "passage_loss_weight", "doubt_weight")


def parse_losses(text: str | None) -> dict[str, float]:
    """Read weighted losses.

    Args:
        text: as in "lsr:0.5,contrastive:0.1"; a name alone has the weight 1. None for none.

    Returns:
        Weights by name, in the order of the text.

    Raises:
        ValueError: a name is unknown or stands there twice, or a weight is not above 0.
    """
    weights: dict[str, float] = {}
    for part in [] if text is None else text.split(","):
        name, colon, number = (word.strip() for word in part.partition(":"))
        if name not in LOSSES:
            before, sign, after = name.partition("=")
            meant = nearest(before.strip(), LOSSES)
            hint = f"Known are {', '.join(LOSSES)}."
            if meant:
                hint = f'Did you mean "{meant}{":" if sign else ""}{after}"?'
            raise ValueError(f'retriever_loss "{text}": there is no loss "{name}". {hint}')
        if name in weights:
            raise ValueError(f'retriever_loss "{text}": "{name}" is named twice. Name it once.')
        weights[name] = _weight(number, name, str(text)) if colon else 1.0
    return weights


def check_losses(args: Any) -> None:
    """Check all that has to do with the retriever's losses, together.

    Args:
        args: the training arguments.

    Raises:
        ValueError: an option is out of range, does nothing, or nothing is left to learn from.
    """
    weights = parse_losses(args.retriever_loss)
    for name in ("retriever_temperature", "lm_temperature"):
        if not 0.0 < getattr(args, name) < math.inf:
            raise ValueError(f"{name} must be above 0, found {getattr(args, name)}.")
    if not 0.0 <= args.likelihood_weight < math.inf:
        raise ValueError(f"likelihood_weight must be 0 or more, found {args.likelihood_weight}.")
    for name in (name for name, default in BESIDE.items() if getattr(args, name) != default):
        readers = [loss for loss, options in LOSSES.items() if name in options] or list(LOSSES)
        if not weights.keys() & set(readers):
            raise ValueError(
                f"{name} does nothing without a loss that reads it: give --retriever_loss "
                f"{' or '.join(readers)}, or leave {name} out."
            )
    if not weights:
        return
    if not {"question_encoder", "context_encoder"} & set(args.trainable):
        raise ValueError(
            f"retriever_loss {args.retriever_loss} teaches the encoders, and neither learns: add "
            "question_encoder to --trainable."
        )
    if args.likelihood_weight == 0.0:
        _check_without_likelihood(args)


def _check_without_likelihood(args: Any) -> None:
    """Raise for what only the likelihood could teach, or weigh."""
    if "generator" in args.trainable:
        raise ValueError(
            "likelihood_weight 0 leaves the generator nothing to learn from. Say --trainable "
            "question_encoder, or give the likelihood a weight."
        )
    for name in OF_THE_LIKELIHOOD:
        if getattr(args, name):
            raise ValueError(
                f"{name} is a part of the likelihood, whose likelihood_weight is 0. Say --{name} 0 "
                "(it may stand in the --config), or give the likelihood a weight."
            )


def _weight(number: str, name: str, text: str) -> float:
    """A weight as a number above 0."""
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0.0 < weight < math.inf:
        raise ValueError(
            f'retriever_loss "{text}": the weight of "{name}" must be a number above 0, found '
            f'"{number}". Write {name}:0.5, say.'
        )
    return weight
