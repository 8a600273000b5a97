"""What RAG training adds to Transformers' training arguments; imports no torch, for --help."""

from dataclasses import dataclass, field

PARTS = ("question_encoder", "generator")


@dataclass
class RagOptions:
    """The options of RAG training. Lengths are in tokens."""

    trainable: list[str] = field(
        default_factory=lambda: list(PARTS),
        metadata={"help": "the parts that learn; the others stay bit-identical", "choices": PARTS},
    )
    learning_rate_question_encoder: float | None = field(
        default=None, metadata={"help": "for the question encoder alone; default: --learning_rate"}
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
