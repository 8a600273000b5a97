"""RerankerTrainingArguments: TrainingArguments with the options of reranker training."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from rag_finetune.training.launch import can_keep_best, check_world, refuse
from rag_finetune.training.reranker_options import REFUSED, RerankerOptions

AT_LEAST_ONE = (
    "n_negatives",
    "early_stopping_patience",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)


@dataclass
class RerankerTrainingArguments(RerankerOptions, TrainingArguments):
    """TrainingArguments with what reranker training adds.

    The options are described in `rag_finetune.training.reranker_options`. Inherited arguments keep
    Transformers' meaning; those that cannot work are refused by name.
    """

    learning_rate: float = field(default=2e-5, metadata={"help": "highest learning rate"})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "steps of warm-up; below 1 a share of all steps"}
    )
    per_device_train_batch_size: int = field(
        default=8, metadata={"help": "questions a process and step, each with its list"}
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
        default="mrr@10", metadata={"help": "mrr@10 or recall@1, over each question's candidates"}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "not needed: every part gets gradients"}
    )

    def __post_init__(self) -> None:
        """Check all arguments together, fill in what depends on the machine.

        Raises:
            ValueError: an argument is refused or out of range; or a launcher started several
                processes that do not see each other.
        """
        refuse(self, REFUSED)
        for name in AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be a number above 0, found {self.learning_rate}.")
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"--train_sampling_strategy {self.train_sampling_strategy} cannot be used: a "
                "question stands beside its own candidates."
            )
        for name, is_set in (
            ("early_stopping_patience", self.early_stopping_patience is not None),
            ("save_strategy best", self.save_strategy == "best"),
        ):
            if is_set and self.eval_strategy == "no":
                raise ValueError(
                    f"{name} needs evaluations: --validation_file and an eval_strategy."
                )
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = can_keep_best(self)
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
        check_world(self, "train-reranker")
