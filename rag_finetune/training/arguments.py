"""RagTrainingArguments: Seq2SeqTrainingArguments with RAG's options, defaults and refusals."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from huggingface_hub import constants, get_token
from transformers import GenerationConfig, Seq2SeqTrainingArguments

from rag_finetune.training.launch import can_keep_best, check_world, refuse
from rag_finetune.training.loss_terms import check_losses
from rag_finetune.training.options import OF_REFRESH, REFUSED, TRAINABLE, RagOptions

# Numbers that must be at least 1, where they are set.
AT_LEAST_ONE = (
    "n_docs",
    "max_question_length",
    "max_target_length",
    "max_combined_length",
    "early_stopping_patience",
    "index_refresh_steps",
    "fresh_top",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)

# The learning rate of a part alone.
RATES = {
    "question_encoder": "learning_rate_question_encoder",
    "context_encoder": "learning_rate_context_encoder",
}

HIDDEN_TOKEN = "<HUB_TOKEN>"  # what `to_dict` writes for any hub_token, None too

# What validation reports only where it answers the questions.
ANSWER_METRICS = ("exact_match", "f1", "bleu", "rouge1", "rouge2", "rougeL")


@dataclass
class RagTrainingArguments(RagOptions, Seq2SeqTrainingArguments):
    """Seq2SeqTrainingArguments with what RAG training adds.

    Args:
        trainable: any of "question_encoder", "context_encoder" and "generator".

    The other options are described in `rag_finetune.training.options`, and by
    `rag-finetune train --help`. Inherited arguments keep Transformers' meaning; those that
    cannot work are refused by name. `label_smoothing_factor` is the ε of our losses.
    """

    command = "train"  # of `rag-finetune`, for messages; no field

    learning_rate: float = field(default=3e-5, metadata={"help": "highest learning rate"})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "steps of warm-up; below 1 a share of all steps"}
    )
    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "questions a process and step"}
    )
    per_device_eval_batch_size: int = field(
        default=8, metadata={"help": "questions a process when evaluating"}
    )
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "bfloat16 autocast; default: on CUDA where it is supported"}
    )
    logging_steps: float = field(default=10, metadata={"help": "steps between two log lines"})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "refused"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "refused"})
    eval_strategy: str = field(
        default="epoch", metadata={"help": "when to evaluate", "choices": ("no", "steps", "epoch")}
    )
    save_strategy: str = field(
        default="epoch",
        metadata={"help": "when to save", "choices": ("no", "steps", "epoch", "best")},
    )
    save_total_limit: int | None = field(
        default=2, metadata={"help": "checkpoints that are kept, the best among them"}
    )
    load_best_model_at_end: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "keep the best checkpoint, not the last; default: where one evaluates"},
    )
    metric_for_best_model: str | None = field(
        default=None, metadata={"help": "default: exact_match, or loss without generation"}
    )
    predict_with_generate: bool = field(
        default=True, metadata={"help": "answer the questions in validation"}
    )
    hub_strategy: str = field(
        default="end",
        metadata={"help": "what is uploaded: the finished model, at the end", "choices": ("end",)},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "not needed: every trainable part gets gradients"}
    )

    def __post_init__(self) -> None:
        """Check all arguments together, fill in what depends on the machine.

        Raises:
            ValueError: an argument is refused, out of range, or does not go with another; or a
                launcher started several processes that do not see each other.
        """
        self._refuse()
        self._check_hub()
        if self.prediction_loss_only:
            self.predict_with_generate = False
        self._check_options()
        self._check_combinations()
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = can_keep_best(self)
        if self.metric_for_best_model is None:
            self.metric_for_best_model = "exact_match" if self.predict_with_generate else "loss"
        cuda = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = (
                cuda and not self.fp16 and torch.cuda.is_bf16_supported(including_emulation=False)
            )
        if not torch.accelerator.is_available():
            # Without it processes on a CPU machine would each be a world of their own.
            self.use_cpu = True
        super().__post_init__()
        self.do_eval = False  # Transformers sets it, and it is refused in a copy of the arguments
        if self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
            # Both take a falling figure for a better one, whatever greater_is_better says.
            mode = "max" if self.greater_is_better else "min"
            self.lr_scheduler_kwargs = {"mode": mode, **dict(self.lr_scheduler_kwargs or {})}  # type: ignore[arg-type]
        self._check_world()

    def public_dict(self) -> dict[str, Any]:
        """The arguments as data, without paths of this machine and without tokens."""
        hidden = {"output_dir", "run_name", "resume_from_checkpoint", "hub_token"}
        if not isinstance(self.generation_config, GenerationConfig):
            hidden.add("generation_config")  # a path; its content goes with the model
        shown = {key: value for key, value in self.to_dict().items() if key not in hidden}
        if isinstance(self.generation_config, GenerationConfig):
            shown["generation_config"] = self.generation_config.to_dict()
        return shown

    def rates(self) -> dict[str, float]:
        """The learning rates that are not `learning_rate`, by part."""
        own = {part: getattr(self, name) for part, name in RATES.items()}
        return {part: rate for part, rate in own.items() if rate is not None}

    def without_evaluation(self) -> None:
        """Evaluate nothing, because there is nothing to evaluate on.

        Raises:
            ValueError: another argument needs evaluations.
        """
        self.eval_strategy = "no"
        self.load_best_model_at_end = False
        self._check_combinations()

    def _refuse(self) -> None:
        """Raise for an inherited argument that is set and cannot work."""
        refuse(self, REFUSED)
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"--train_sampling_strategy {self.train_sampling_strategy} cannot be used: "
                "questions are short, and contexts are only known after retrieval."
            )

    def _check_hub(self) -> None:
        """Raise where an upload at the end could not succeed, before anything is trained."""
        if self.hub_token == HIDDEN_TOKEN:
            self.hub_token = None
        strategy = getattr(self.hub_strategy, "value", self.hub_strategy)  # a copy holds the enum
        if strategy != "end":
            raise ValueError(
                f'hub_strategy must be end, found "{strategy}": only the finished model is '
                "uploaded."
            )
        named = [n for n in ("hub_model_id", "hub_revision", "hub_token") if getattr(self, n)]
        if named and not self.push_to_hub:
            raise ValueError(f"--{named[0]} goes with --push_to_hub.")
        if self.push_to_hub and constants.HF_HUB_OFFLINE:
            raise ValueError("--push_to_hub needs the Hub, and HF_HUB_OFFLINE is set.")
        if self.push_to_hub and not (self.hub_token or get_token()):
            raise ValueError(
                "--push_to_hub needs a token that may write. Log in with `hf auth login`, set "
                "HF_TOKEN, or give --hub_token."
            )

    def _check_options(self) -> None:
        """Raise for options of ours that are out of range."""
        unknown = set(self.trainable) - set(TRAINABLE)
        if unknown or not self.trainable:
            raise ValueError(
                f"trainable must be one or more of {', '.join(TRAINABLE)}, found "
                f"{' '.join(self.trainable) or 'nothing'}."
            )
        for option in fields(RagOptions):
            value, choices = getattr(self, option.name), option.metadata.get("choices")
            if isinstance(value, str) and choices is not None and value not in choices:
                raise ValueError(
                    f'{option.name} must be one of {", ".join(choices)}, found "{value}".'
                )
        for name in AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        for name in ("learning_rate", *RATES.values()):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(
                    f"{name} must be above 0, found {value}. A part that shall stay as it is, is "
                    "left out of --trainable."
                )
        if self.max_steps <= 0 and not self.num_train_epochs > 0:
            raise ValueError(f"num_train_epochs must be above 0, found {self.num_train_epochs}.")
        for name in ("label_smoothing_factor", "passage_loss_weight"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be from 0 to below 1, found {getattr(self, name)}.")
        if not 0.0 <= self.doubt_weight < math.inf:
            raise ValueError(f"doubt_weight must be 0 or more, found {self.doubt_weight}.")
        check_losses(self)

    def _check_combinations(self) -> None:
        """Raise for options that do not go together; each would show only hours later, or never."""
        if self.eval_strategy == "no":
            if self.early_stopping_patience is not None:
                raise ValueError(
                    "early_stopping_patience needs evaluations: validation questions and an "
                    "eval_strategy."
                )
            if self.save_strategy == "best":
                raise ValueError(
                    "save_strategy best needs evaluations: validation questions and an "
                    "eval_strategy."
                )
        metric = (self.metric_for_best_model or "").removeprefix("eval_")
        if metric in ANSWER_METRICS and not self.predict_with_generate:
            raise ValueError(
                f"metric_for_best_model {metric} needs answers: leave --predict_with_generate on, "
                "or choose loss."
            )
        for part, rate in RATES.items():
            if getattr(self, rate) is not None and part not in self.trainable:
                raise ValueError(
                    f"{rate} is set, but the {part.replace('_', ' ')} does not learn: add it to "
                    "--trainable."
                )
        self._check_refresh()
        if self.target == "random" and self.dataloader_persistent_workers:
            raise ValueError(
                "target random draws anew each epoch, which dataloader_persistent_workers do not "
                "hear of. Leave one of them out."
            )

    def _check_refresh(self) -> None:
        """Raise where the index can not follow the context encoder, or has none to follow."""
        learns = "context_encoder" in self.trainable
        for name in ("fresh_top", *OF_REFRESH):
            if getattr(self, name) is not None and not learns:
                raise ValueError(
                    f"{name} is set, but the context encoder does not learn: add context_encoder "
                    "to --trainable."
                )
        for name in OF_REFRESH:
            if self.index_refresh == "none" and getattr(self, name) not in (None, "none"):
                raise ValueError(
                    f"{name} is set, but index_refresh is none: leave one of them out."
                )
        if self.index_refresh_overlap is not None and not 0.0 < self.index_refresh_overlap < 1.0:
            raise ValueError(
                "index_refresh_overlap must be above 0 and below 1, found "
                f"{self.index_refresh_overlap}."
            )
        if learns and self.save_index == "none":
            raise ValueError(
                "save_index none leaves out the index, which training with context_encoder in "
                "--trainable makes: choose copy or link."
            )

    def _check_world(self) -> None:
        """Raise where a launcher's processes do not see each other; use one GPU of several."""
        check_world(self, self.command)
