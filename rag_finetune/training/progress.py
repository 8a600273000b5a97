"""What a training run shows: a bar on a terminal, and a line for every log and evaluation."""

from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.logging import tqdm

# What a line tells, in this order, where it is known; trainer_state.json holds the rest.
SHARES = ("exact_match", "f1", "recall@1", "recall@5", "mrr@10", "answer_recall@5")
COUNT = "n_examples"  # in the figures of every evaluation
NORM = "grad_norm"
RATE = "learning_rate"
TERM = "loss_"  # what the losses are called that are a part of the loss


class ProgressLines(ProgressCallback):
    """In place of Transformers' bar and dictionaries: one readable line each.

    The bars show on a terminal only, and not with --disable_tqdm; the lines always.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar of the run."""
        off = _bars_are_off(args, state)
        bar = tqdm(
            total=state.max_steps, desc="Training", unit=" steps", dynamic_ncols=True, disable=off
        )
        bar.update(state.global_step)  # of a run that goes on
        self.training_bar = bar
        self.current_step = state.global_step

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Show how far an evaluation is."""
        bar: Any = self.prediction_bar
        if bar is None:
            bar = self.prediction_bar = tqdm(
                total=len(eval_dataloader),
                desc="Validating",
                unit=" batches",
                leave=False,
                dynamic_ncols=True,
                disable=_bars_are_off(args, state),
            )
        bar.update(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a line."""
        line = log_line(logs or {}, state.global_step, state.max_steps)
        if not state.is_world_process_zero or not line:
            return
        if self.training_bar is None or self.training_bar.disable:
            print(line, flush=True)  # a pipe would hold it back
        else:
            self.training_bar.write(line)


def log_line(logs: Mapping[str, Any], step: int, steps: int) -> str:
    """What is logged, as it is read; empty for what the end of the run says anyway.

    Args:
        logs: as the Trainer gives them; those of an evaluation begin with its prefix.
        step: steps done.
        steps: steps of the run.
    """
    place = f"step {step:,} of {steps:,}" if steps else ""
    if "loss" in logs:
        terms = [f"{key.removeprefix(TERM)} {logs[key]:.4g}" for key in logs if TERM in key]
        shown = [f"loss {logs['loss']:.4g}" + (f" ({', '.join(terms)})" if terms else "")]
        if NORM in logs:
            parts = {key.removeprefix(f"{NORM}_"): logs[key] for key in logs if NORM in key}
            whole = parts.pop(NORM)
            each = ", ".join(f"{name} {norm:.3g}" for name, norm in parts.items())
            shown.append(f"gradient {whole:.3g}" + (f" ({each})" if len(parts) > 1 else ""))
        if RATE in logs:
            rates = {key.removeprefix(f"{RATE}_"): logs[key] for key in logs if RATE in key}
            rate = rates.pop(RATE)
            own = ", ".join(f"{name} {value:.3g}" for name, value in rates.items())
            shown.append(f"learning rate {rate:.3g}" + (f" ({own})" if own else ""))
        if logs.get("index_staleness"):
            shown.append(f"index age {logs['index_staleness']:,}")
        return f"{place}:  {'  '.join(shown)}"
    if "index_refresh_seconds" in logs:
        seconds, age = logs["index_refresh_seconds"], logs["index_staleness"]
        return f"{place}:  index encoded anew in {seconds:.1f} s  age {age:,}"
    counted = next((key for key in logs if key.endswith(("_loss", COUNT))), "train_loss")
    if counted == "train_loss":
        return ""
    prefix = counted.removesuffix(COUNT).removesuffix("loss")
    shown = [f"loss {logs[f'{prefix}loss']:.4g}"] if f"{prefix}loss" in logs else []
    for name in SHARES:
        if f"{prefix}{name}" in logs:
            shown.append(f"{name.replace('_', ' ')} {100 * logs[f'{prefix}{name}']:.1f} %")
    title = prefix.removeprefix("eval").strip("_")
    what = f"validation ({title})" if title else "validation"
    return f"{', '.join(filter(None, (place, what)))}:  {'  '.join(shown)}"


def _bars_are_off(args: TrainingArguments, state: TrainerState) -> bool | None:
    """Whether bars are hidden; None leaves it to whether there is a terminal."""
    return True if args.disable_tqdm or not state.is_world_process_zero else None
