"""What RAG training adds to Transformers' arguments, and what it refuses; imports no torch."""

from dataclasses import dataclass, field

from rag_finetune.training.loss_terms import LOSSES

PARTS = ("question_encoder", "generator")  # the networks of a RAG model; they train by default
TRAINABLE = ("question_encoder", "context_encoder", "generator")
# Options that need a context encoder that learns: those of keeping its index fresh, and all.
OF_REFRESH = ("index_refresh", "index_refresh_steps", "index_refresh_overlap")
OF_CONTEXT_ENCODER = ("learning_rate_context_encoder", "fresh_top", *OF_REFRESH)
REFRESH_STEPS = 500  # as REALM, Guu et al. 2020, arXiv:2002.08909

# Inherited arguments that cannot work here. Each is refused by name when it is set, with a reason.
REFUSED: dict[str, str] = {
    "auto_find_batch_size": "lower --per_device_train_batch_size and raise "
    "--gradient_accumulation_steps by the same factor: the loss stays the same",
    "average_tokens_across_devices": "the loss is always the mean over the global batch",
    "batch_eval_metrics": "metrics are taken over all questions at once",
    "dataloader_drop_last": "it would drop questions from the evaluation too",
    "debug": "its hooks cannot take RAG's boolean masks; a loss that is not finite stops the run",
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
    "hub_always_push": "only the finished model is uploaded",
    "include_for_metrics": "compute_metrics gets token ids of answers and labels",
    "label_names": "labels come from the collator",
    "length_column_name": "questions are not grouped by length",
    "liger_kernel_config": "see --use_liger_kernel",
    "local_rank": "the launcher sets it",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "neftune_noise_alpha": "the RAG model has no single input embedding",
    "parallelism_config": "not supported",
    "remove_unused_columns": "the collator needs them",
    "sortish_sampler": "Transformers no longer reads it",
    "torch_compile": "retrieval runs inside the forward pass and cuts the graph",
    "torch_compile_backend": "see --torch_compile",
    "torch_compile_mode": "see --torch_compile",
    "use_cache": "training never caches; generation always does",
    "use_liger_kernel": "it replaces losses that RAG does not use",
}


@dataclass
class RagOptions:
    """The options of RAG training. Lengths are in tokens."""

    trainable: list[str] = field(
        default_factory=lambda: list(PARTS),
        metadata={
            "help": "the parts that learn; the others stay bit-identical. With context_encoder, "
            "which is the index's own, the passages that are read are encoded again with gradient",
            "choices": TRAINABLE,
        },
    )
    learning_rate_question_encoder: float | None = field(
        default=None, metadata={"help": "for the question encoder alone; default: --learning_rate"}
    )
    retriever_loss: str | None = field(
        default=None,
        metadata={
            "help": "losses for the question encoder beside the likelihood, with their weights, as "
            f"in lsr:0.5,contrastive:0.1; of {', '.join(LOSSES)}",
        },
    )
    likelihood_weight: float = field(
        default=1.0,
        metadata={
            "help": "weight of the likelihood beside --retriever_loss; 0: the generator teaches "
            "the retriever and does not learn (--trainable question_encoder)"
        },
    )
    retriever_temperature: float = field(
        default=1.0, metadata={"help": "γ of --retriever_loss: p_R = softmax(q·d/γ)"}
    )
    lm_temperature: float = field(
        default=1.0,
        metadata={"help": "τ of --retriever_loss: p_LM = softmax(log p_LM(y|x,z)/τ)"},
    )
    lm_likelihood: str = field(
        default="summed",
        metadata={
            "help": "log p_LM of --retriever_loss: summed over the answer's tokens, or their mean",
            "choices": ("summed", "per_token"),
        },
    )
    lsr_direction: str = field(
        default="retriever_lm",
        metadata={
            "help": "of lsr: KL(p_R ‖ p_LM), as REPLUG, or KL(p_LM ‖ p_R), as pdist of Atlas",
            "choices": ("retriever_lm", "lm_retriever"),
        },
    )
    contrastive_negatives: str = field(
        default="all",
        metadata={
            "help": "of contrastive: the passages that the batch retrieved and its gold ones, or "
            "its gold ones alone, which are less hard",
            "choices": ("all", "in_batch"),
        },
    )
    learning_rate_context_encoder: float | None = field(
        default=None, metadata={"help": "for the context encoder alone; default: --learning_rate"}
    )
    index_refresh: str | None = field(
        default=None,
        metadata={
            "help": "with --trainable context_encoder, how the passages are encoded anew for the "
            "search: in another process while training goes on, with training waiting, or never; "
            "default: background",
            "choices": ("background", "blocking", "none"),
        },
    )
    index_refresh_steps: int | None = field(
        default=None,
        metadata={"help": f"steps from one such refresh to the next; default: {REFRESH_STEPS}"},
    )
    index_refresh_overlap: float | None = field(
        default=None,
        metadata={
            "help": "refresh too, or only, where less than this share of the passages that are "
            "read would be found by the context encoder as it is, measured every 10 steps"
        },
    )
    fresh_top: int | None = field(
        default=None,
        metadata={
            "help": "with --trainable context_encoder, so many passages are found and encoded as "
            "the encoder is now, and the best n_docs by these vectors are read; default: those "
            "that the index finds"
        },
    )
    passage_loss_weight: float = field(
        default=0.0,
        metadata={
            "help": "share of the loss that each passage bears by itself, weighted by p(z|x): the "
            "generator learns to be unsure of a passage without the answer; from 0 to below 1"
        },
    )
    doubt_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of a loss that teaches the generator to guess nothing from a passage "
            "that does not explain the answer, so that wrong passages cannot outvote the right one"
        },
    )
    n_docs: int | None = field(
        default=None, metadata={"help": "passages a question; default: the model's own"}
    )
    max_question_length: int = field(
        default=128, metadata={"help": "tokens of a question; the rest is cut"}
    )
    max_target_length: int = field(
        default=64, metadata={"help": "tokens of an answer, its start and end included"}
    )
    max_combined_length: int | None = field(
        default=None,
        metadata={"help": "tokens of passage and question together; default: the model's own"},
    )
    target: str = field(
        default="first",
        metadata={
            "help": "of several gold answers: train on the first, on a random one each epoch, or "
            "on all, one example each",
            "choices": ("first", "random", "all"),
        },
    )
    decoding: str = field(
        default="thorough",
        metadata={
            "help": "RAG-Sequence in validation: score each candidate under every passage, or "
            "only where it was found",
            "choices": ("thorough", "fast"),
        },
    )
    loss_reduction: str = field(
        default="mean",
        metadata={
            "help": "mean over the examples of the global batch, or their sum, as Transformers' "
            "reduce_loss has it",
            "choices": ("mean", "sum"),
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "stop after this many evaluations without a better one"},
    )
    save_index: str | None = field(
        default=None,
        metadata={
            "help": "put the index into the checkpoint, write down a relative path, or leave it "
            "out; default: copy up to 1 GB, link above",
            "choices": ("copy", "link", "none"),
        },
    )
