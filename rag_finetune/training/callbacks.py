"""Callbacks of RAG training: proof that it learns, and a checkpoint on SIGTERM."""

import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rag_finetune.rag.four_bits import parameter_count

SAMPLED_TENSORS = 8


class LearningCheck(TrainerCallback):
    """Stops a run that cannot learn, at its first step, and says which part does not.

    At the first step every trainable part must have a finite gradient norm above 0; after the
    first step with a learning rate above 0 its weights must differ.
    """

    def __init__(self, parts: Mapping[str, nn.Module], n_docs: int | None = None) -> None:
        """Watch the trainable parts, by name; n_docs, if known, is what the retriever gives."""
        self.parts = parts
        self.n_docs = n_docs
        self.gradients_seen = False
        self.waiting: dict[str, list[tuple[Tensor, Tensor]]] | None = {}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the gradients of the first step; copy some weights until they have moved."""
        if not self.gradients_seen:
            for name, module in self.parts.items():
                _require_gradient(name, grad_norm_of(module), args, self.n_docs)
            self.gradients_seen = True
        if self.waiting is not None:
            self.waiting = {name: _samples(module) for name, module in self.parts.items()}

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Check that the weights moved, at the first step whose learning rate is above 0."""
        if self.waiting is None or not all(group["lr"] > 0 for group in optimizer.param_groups):
            return
        if getattr(optimizer, "step_was_skipped", False):  # fp16: the scaler is still searching
            return
        for name, samples in self.waiting.items():
            if all(torch.equal(parameter, before) for parameter, before in samples):
                raise ValueError(
                    f"{name} did not change in the first step with a learning rate above 0 "
                    f"({optimizer.param_groups[0]['lr']:g}). Is the learning rate too small for "
                    "its weights, or the optimiser given other parameters?"
                )
        self.waiting = None


class SaveOnSigterm(TrainerCallback):
    """On SIGTERM: finish the step on every process, write a checkpoint, stop.

    Attributes:
        stopped: True once a signal ended the run.
    """

    def __init__(self) -> None:
        """Nothing is caught before training begins."""
        self.stopped = False
        self._received = False
        self._previous: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start catching the signal, where Python lets one: in the main thread."""
        self._received = self.stopped = False
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop where any process was asked to."""
        received = self._received
        if args.world_size > 1:
            flag = torch.tensor(float(received), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            received = bool(flag.item())
        if received:
            self.stopped = control.should_save = control.should_training_stop = True
            control.should_evaluate = False  # there may be no time for it

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the step that was saved, neither evaluate nor save again."""
        if self.stopped:
            control.should_evaluate = control.should_save = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the signal back."""
        self.release()

    def release(self) -> None:
        """Give the signal back; also after a run that failed."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal."""
        self._received = True


class EpochTeller(TrainerCallback):
    """Tells a data set its epoch before anything of it is read.

    The data loaders of accelerate 1.15 do not on a run that goes on within an epoch, nor on several
    processes: what draws anew each epoch would go on as in the first.
    """

    def __init__(self, dataset: Any) -> None:
        """Keep the data set, which has `set_epoch`."""
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell it; the epoch of a run that goes on is a fraction."""
        self.dataset.set_epoch(int(state.epoch or 0))


def grad_norm_of(module: nn.Module) -> float:
    """Norm over all gradients of a module; 0 where there is none."""
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    return float(nn.utils.get_total_norm(grads)) if grads else 0.0


def trainable_table(
    parts: Mapping[str, nn.Module], trainable: Sequence[str], rates: Mapping[str, float]
) -> str:
    """A table of what trains: part, parameters, learning rate.

    Where less than all of a part learns, as adapters do, how much of it does. A part that has a
    rate and no network is not loaded, as the context encoder of an index.
    """
    rows = [("part", "parameters", "learning rate")]
    for name, module in parts.items():
        count = f"{parameter_count(module):,}"
        if name in trainable and not all(p.requires_grad for p in module.parameters()):
            learning = sum(p.numel() for p in module.parameters() if p.requires_grad)
            count = f"{learning:,} of {count}"
        rows.append((name, count, f"{rates[name]:g}" if name in trainable else "frozen"))
    rows += [(name, "in index", "frozen") for name in rates if name not in parts]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(_row(row, widths) for row in rows)


def _row(cells: Iterable[str], widths: Sequence[int]) -> str:
    """Cells padded to the width of their columns."""
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _samples(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The smallest parameters that have a gradient, each with a copy."""
    moving = [p for p in module.parameters() if p.grad is not None and p.grad.any()]
    smallest = sorted(moving, key=lambda p: p.numel())[:SAMPLED_TENSORS]
    return [(parameter, parameter.detach().clone()) for parameter in smallest]


def _require_gradient(name: str, norm: float, args: TrainingArguments, n_docs: int | None) -> None:
    """Raise where a trainable part has no gradient, or one that is not finite."""
    if not torch.isfinite(torch.tensor(norm)) and not args.fp16:
        raise ValueError(
            f"The gradient of {name} is {norm} at the first step. Lower the learning rate or the "
            "scale of the encoders' vectors; with --fp16 use --bf16 instead."
        )
    if norm == 0.0:
        hint = "Take it out of --trainable, or look for what cuts its gradient."
        if name != "generator" and n_docs == 1:
            hint = "With one passage a question (n_docs 1, or an index of one) p(z|x) is always 1: "
            hint += "raise --n_docs, or take it out of --trainable."
        elif name != "generator" and not getattr(args, "likelihood_weight", 1.0):
            hint = "A loss that compares passages is 0 where there is one, as contrastive's in a "
            hint += "batch with one gold passage: raise --per_device_train_batch_size, or leave "
            hint += "questions without gold passages out."
        raise ValueError(f"No gradient reaches {name}: it is trainable and cannot learn. {hint}")
