"""RetrieverTrainingArguments: TrainingArguments with the options of retriever training."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from rag_finetune.files import nearest
from rag_finetune.index.lexical import require_lexical
from rag_finetune.index.words import require_language
from rag_finetune.training.launch import can_keep_best, check_world, refuse
from rag_finetune.training.retriever_options import FUSED, REFUSED, RetrieverOptions

AT_LEAST_ONE = (
    "n_negatives",
    "topics",
    "grad_cache_chunk",
    "lora_rank",
    "early_stopping_patience",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)


@dataclass
class RetrieverTrainingArguments(RetrieverOptions, TrainingArguments):
    """TrainingArguments with what retriever training adds.

    The options are described in `rag_finetune.training.retriever_options`. Inherited arguments keep
    Transformers' meaning; those that cannot work are refused by name.
    """

    learning_rate: float = field(default=2e-5, metadata={"help": "highest learning rate"})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "steps of warm-up; below 1 a share of all steps"}
    )
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "questions a process and step, each other's negatives"}
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
    eval_on_start: bool = field(
        default=True,
        metadata={"help": "where one evaluates, do it before training too: what is it worth?"},
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
        default="mrr@10", metadata={"help": "recall@1, recall@5, mrr@10, ndcg@10, …"}
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
        refuse(self, REFUSED)
        self._check_options()
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = can_keep_best(self)
        if self.eval_strategy == "no":
            self.eval_on_start = False
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
        check_world(self, "train-retriever")

    def without_evaluation(self) -> None:
        """Evaluate nothing, because there is nothing to evaluate on."""
        self.eval_strategy, self.eval_on_start = "no", False
        self.load_best_model_at_end = False
        self._check_options()

    def _check_options(self) -> None:
        """Raise for options that are out of range or do not go together."""
        for name in AT_LEAST_ONE:
            value = getattr(self, name)
            least = 0 if name == "n_negatives" else 1
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, found {value}.")
        for name in ("learning_rate", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a number above 0, found {value}.")
        if not 0.0 <= self.distillation_weight <= 1.0:
            raise ValueError(
                f"distillation_weight must be from 0 to 1, found {self.distillation_weight}."
            )
        if self.teacher is not None and not self.distillation_weight:
            raise ValueError(
                "--teacher goes with --distillation_weight, which is 0. Write 0.5, say: half of "
                "the loss follows the teacher."
            )
        if self.teacher == FUSED:
            require_lexical("bm25", self.teacher_language)
            if self.teacher_language is not None:
                require_language(self.teacher_language, "teacher_language")
        elif self.teacher_language is not None:
            raise ValueError(f"--teacher_language goes with --teacher {FUSED}.")
        elif nearest((self.teacher or "").lower(), [FUSED]) and "/" not in str(self.teacher):
            raise ValueError(
                f'--teacher "{self.teacher}": did you mean {FUSED}? A folder of this name is '
                f"./{self.teacher}."
            )
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"--train_sampling_strategy {self.train_sampling_strategy} cannot be used: parts "
                "of a batch are of like length anyway."
            )
        if self.topics is not None and self.train_sampling_strategy != "random":
            raise ValueError(
                "--topics draws the batches, --train_sampling_strategy "
                f"{self.train_sampling_strategy} takes them as they come: give one of them."
            )
        if self.eval_strategy == "no":
            for name, is_set in (
                ("early_stopping_patience", self.early_stopping_patience is not None),
                ("save_strategy best", self.save_strategy == "best"),
            ):
                if is_set:
                    raise ValueError(
                        f"{name} needs evaluations: --validation_file and an eval_strategy."
                    )
