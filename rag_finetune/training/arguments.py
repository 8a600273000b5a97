"""RagTrainingArguments: Seq2SeqTrainingArguments with RAG's options, defaults and refusals."""

import os
import warnings
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments

from rag_finetune.training.options import PARTS, RagOptions

# Inherited arguments that cannot work here. Each is refused by name when it is set, with a reason.
REFUSED: dict[str, str] = {
    "auto_find_batch_size": "lower --per_device_train_batch_size and raise "
    "--gradient_accumulation_steps by the same factor: the loss stays the same",
    "average_tokens_across_devices": "the loss is always the mean over the global batch",
    "batch_eval_metrics": "metrics are taken over all questions at once",
    "dataloader_drop_last": "it would drop questions from the evaluation too",
    "deepspeed": "not supported",
    "do_eval": "set --eval_strategy instead",
    "do_predict": "use `rag-finetune evaluate`",
    "do_train": "`train` always trains",
    "enable_jit_checkpoint": "a checkpoint is written on SIGTERM anyway",
    "eval_accumulation_steps": "no logits are kept",
    "eval_do_concat_batches": "answers are keyed by question, not by batch",
    "eval_use_gather_object": "answers are always gathered so",
    "fsdp": "not supported",
    "fsdp_config": "not supported",
    "include_for_metrics": "compute_metrics gets token ids of answers and labels",
    "label_names": "labels come from the collator",
    "length_column_name": "questions are not grouped by length",
    "liger_kernel_config": "see --use_liger_kernel",
    "local_rank": "the launcher sets it",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "neftune_noise_alpha": "the RAG model has no single input embedding",
    "parallelism_config": "not supported",
    "push_to_hub": "upload the finished folder with `hf upload`",
    "remove_unused_columns": "the collator needs them",
    "sortish_sampler": "Transformers no longer reads it",
    "torch_compile": "retrieval runs inside the forward pass and cuts the graph",
    "torch_compile_backend": "see --torch_compile",
    "torch_compile_mode": "see --torch_compile",
    "use_cache": "training never caches; generation always does",
    "use_liger_kernel": "it replaces losses that RAG does not use",
}


@dataclass
class RagTrainingArguments(RagOptions, Seq2SeqTrainingArguments):
    """Seq2SeqTrainingArguments with what RAG training adds.

    Args:
        trainable: "question_encoder", "generator" or both.

    The other options are described in `rag_finetune.training.options`, and by
    `rag-finetune train --help`. Inherited arguments keep Transformers' meaning; those that
    cannot work are refused by name. `label_smoothing_factor` is the ε of our losses.
    """

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
        self._check_options()
        if self.prediction_loss_only:
            self.predict_with_generate = False
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = (
                self.eval_strategy != "no" and self.save_strategy == self.eval_strategy
            )
        if self.metric_for_best_model is None:
            self.metric_for_best_model = "exact_match" if self.predict_with_generate else "loss"
        cuda = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = cuda and not self.fp16 and torch.cuda.is_bf16_supported()
        if not torch.accelerator.is_available():
            # Without it processes on a CPU machine would each be a world of their own.
            self.use_cpu = True
        super().__post_init__()
        self._check_world()

    def public_dict(self) -> dict[str, Any]:
        """The arguments as data, without paths of this machine and without tokens."""
        hidden = {"output_dir", "run_name", "resume_from_checkpoint", "hub_token"}
        return {key: value for key, value in self.to_dict().items() if key not in hidden}

    def _refuse(self) -> None:
        """Raise for an inherited argument that is set and cannot work."""
        defaults = {f.name: f.default for f in fields(self) if f.name in REFUSED}
        for name, default in defaults.items():
            value = getattr(self, name)
            implied = name == "do_eval" and self.eval_strategy != "no"  # set by Transformers
            if value != default and value not in (None, "", []) and not implied:
                raise ValueError(f"--{name} {value} cannot be used: {REFUSED[name]}.")
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"--train_sampling_strategy {self.train_sampling_strategy} cannot be used: "
                "questions are short, and contexts are only known after retrieval."
            )

    def _check_options(self) -> None:
        """Raise for options of ours that are out of range."""
        unknown = set(self.trainable) - set(PARTS)
        if unknown or not self.trainable:
            raise ValueError(
                f"trainable must be one or more of {', '.join(PARTS)}, found "
                f"{' '.join(self.trainable) or 'nothing'}."
            )
        for name in ("n_docs", "max_question_length", "max_target_length", "max_combined_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        if not 0.0 <= self.label_smoothing_factor < 1.0:
            raise ValueError(
                "label_smoothing_factor must be from 0 to below 1, found "
                f"{self.label_smoothing_factor}."
            )

    def _check_world(self) -> None:
        """Raise where a launcher's processes do not see each other; use one GPU of several."""
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched > 1 and self.world_size == 1:
            raise ValueError(
                f"{launched} processes were started, but this one is alone: each would train a "
                "model of its own. On a machine without GPUs: accelerate launch --multi_gpu "
                "--num_processes 2 --mixed_precision no -m rag_finetune train … --use_cpu"
            )
        if self.n_gpu > 1:
            warnings.warn(
                f"{self.n_gpu} GPUs are here, one is used. For all of them: accelerate launch "
                f"--num_processes {self.n_gpu} -m rag_finetune train …",
                stacklevel=3,
            )
            self._n_gpu = 1
