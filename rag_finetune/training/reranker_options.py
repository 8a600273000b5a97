"""What reranker training adds to Transformers' arguments and refuses; imports no torch."""

from dataclasses import dataclass, field

from rag_finetune.training.options import REFUSED as OF_RAG

# Inherited arguments that cannot work here. Each is refused by name when it is set, with a reason.
REFUSED: dict[str, str] = {
    name: OF_RAG[name]
    for name in (
        "auto_find_batch_size average_tokens_across_devices debug deepspeed do_eval do_predict "
        "do_train enable_jit_checkpoint fsdp fsdp_config local_rank logging_nan_inf_filter "
        "parallelism_config"
    ).split()
} | {
    "batch_eval_metrics": "validation ranks whole lists of candidates",
    "dataloader_drop_last": "every question counts",
    "eval_accumulation_steps": "validation ranks whole lists of candidates",
    "label_names": "the loss is listwise",
    "label_smoothing_factor": "the loss is listwise",
    "length_column_name": "a question stands beside its own candidates",
    "push_to_hub": "upload the finished folder: hf upload NAME FOLDER",
    "remove_unused_columns": "the collator needs them",
    "use_liger_kernel": "it replaces losses that are not used here",
}


@dataclass
class RerankerOptions:
    """The options of reranker training."""

    n_negatives: int = field(
        default=7,
        metadata={"help": "passages beside the gold one in each list, drawn anew each epoch"},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "stop after this many evaluations without a better one"},
    )
