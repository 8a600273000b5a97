"""What retriever training adds to Transformers' arguments and refuses; imports no torch."""

from dataclasses import dataclass, field

from rag_finetune.training.options import REFUSED as OF_RAG

FUSED = "bm25"  # the `teacher` that is no cross-encoder: BM25 and the encoders as they begin

# Inherited arguments that cannot work here. Each is refused by name when it is set, with a reason.
REFUSED: dict[str, str] = {
    name: OF_RAG[name]
    for name in (
        "auto_find_batch_size average_tokens_across_devices debug deepspeed do_eval do_predict "
        "do_train enable_jit_checkpoint fsdp fsdp_config local_rank logging_nan_inf_filter "
        "parallelism_config torch_compile_backend torch_compile_mode"
    ).split()
} | {
    "activation_checkpointing": "--grad_cache_chunk recomputes whole parts of a batch",
    "batch_eval_metrics": "validation searches the whole index",
    "dataloader_drop_last": "every question counts",
    "eval_accumulation_steps": "validation searches the whole index",
    "label_names": "the loss is contrastive",
    "label_smoothing_factor": "the loss is contrastive",
    "length_column_name": "parts of a batch are of like length anyway",
    "neftune_noise_alpha": "there are two networks",
    "push_to_hub": "upload each of the two folders: hf upload NAME FOLDER",
    "remove_unused_columns": "the collator needs them",
    "torch_compile": "parts of a batch have many shapes",
    "use_liger_kernel": "it replaces losses that are not used here",
}


@dataclass
class RetrieverOptions:
    """The options of retriever training. Lengths are in tokens."""

    temperature: float | None = field(
        default=None,
        metadata={
            "help": "what inner products are divided by; default: 0.05 for vectors of length 1, "
            "else 1"
        },
    )
    symmetric: bool = field(
        default=False,
        metadata={"help": "also teach each passage which question is its own, half and half"},
    )
    n_negatives: int | None = field(
        default=None,
        metadata={
            "help": "hard negatives of a question and step, drawn anew each epoch; default: 1 "
            "where the training file has any"
        },
    )
    topics: int | None = field(
        default=None,
        metadata={
            "help": "so many clusters of the gold passages: batches are of one as far as possible, "
            "whose passages are each other's hard negatives; a good number is that of the "
            "questions, divided by six batches of all processes; default: batches are drawn from "
            "all questions"
        },
    )
    grad_cache_chunk: int | None = field(
        default=None,
        metadata={
            "help": "texts that are in memory with their activations at once: large batches fit, "
            "the gradient is the same, and a step takes about a third longer"
        },
    )
    lora_rank: int | None = field(
        default=None,
        metadata={"help": "train low-rank adapters of this rank, merged on saving (extra `peft`)"},
    )
    distillation_weight: float = field(
        default=0.0,
        metadata={
            "help": "share of the loss that follows a teacher's scores: those of --teacher, else "
            "a cross-encoder's of the candidates (`cross_encoder_score` in the training file); "
            "from 0 to 1"
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "`bm25`: BM25 and the encoders as they begin, weighed by the gold passages, "
            "score all passages of a batch; else a cross-encoder, folder or Hub name, that scores "
            "the candidates before training"
        },
    )
    teacher_language: str | None = field(
        default=None,
        metadata={"help": "stop words and stemmer for --teacher bm25, such as `english`"},
    )
    save_index: bool = field(
        default=False, metadata={"help": "also leave the passages, indexed by the trained encoder"}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "stop after this many evaluations without a better one"},
    )
