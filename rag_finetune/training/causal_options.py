"""What training with a decoder-only generator adds to RAG's options; imports no torch."""

from dataclasses import dataclass, field

from rag_finetune.training.options import OF_CONTEXT_ENCODER, PARTS, RagOptions

# Options of RAG training that cannot work here. Each is refused by name, with a reason.
NOT_HERE: dict[str, str] = dict.fromkeys(
    OF_CONTEXT_ENCODER,
    "the context encoder stays as it is beside a decoder-only generator",
) | {"contrastive_negatives": "retriever_loss contrastive is not for decoder-only generators"}


@dataclass
class CausalOptions(RagOptions):
    """The options of training with a decoder-only generator. Lengths are in tokens."""

    trainable: list[str] = field(
        default_factory=lambda: ["generator"],
        metadata={
            "help": "the parts that learn; the others stay bit-identical; the question encoder "
            "only where each passage has a prompt of its own",
            "choices": PARTS,
        },
    )
    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "train low-rank adapters of this rank in the generator, nothing else of it; "
            "they are merged into its weights when it is saved (extra peft)"
        },
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={
            "help": "with --lora_rank, keep the generator's fixed weights in 4 bits while its "
            "adapters learn (QLoRA; extra qlora); the weights that are saved are whole"
        },
    )
    packing: bool = field(
        default=False,
        metadata={
            "help": "several short prompts a row, each read by itself, in place of padding; "
            "losses and gradients are the same"
        },
    )
    max_target_length: int | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "tokens of an answer, its end included; default: the model's own"},
    )
    max_combined_length: int | None = field(
        default=None,
        metadata={
            "help": "tokens of a prompt; passages are cut to it, the question never; default: the "
            "model's own"
        },
    )
