"""What generator training adds to RAG training, and what it refuses; imports no torch."""

from dataclasses import dataclass, field

from rag_finetune.training.loss_terms import BESIDE
from rag_finetune.training.options import OF_CONTEXT_ENCODER, RagOptions

CONTEXTS = ("gold", "retrieved", "mixed")
GOLD_PROBABILITY = 0.8  # of "mixed", where none is given

# Options of RAG training that cannot work here. Each is refused by name, with a reason.
NOT_HERE: dict[str, str] = {
    "trainable": "the generator alone learns; `rag-finetune train` trains any part",
    "learning_rate_question_encoder": "the question encoder stays as it is",
    "passage_loss_weight": "a question is trained on with one passage, there are none to weigh",
    "doubt_weight": "a question is trained on with one passage, there are none to doubt",
} | dict.fromkeys(OF_CONTEXT_ENCODER, "the context encoder stays as it is")
OF_RETRIEVER = "the question encoder stays as it is; `rag-finetune train` teaches it"
NOT_HERE |= dict.fromkeys(("retriever_loss", *BESIDE), OF_RETRIEVER)


@dataclass
class GeneratorOptions(RagOptions):
    """The options of generator training: those of RAG training, and its own."""

    trainable: list[str] = field(
        default_factory=lambda: ["generator"], metadata={"help": NOT_HERE["trainable"]}
    )
    context: str = field(
        default="gold",
        metadata={
            "help": "the one passage that stands before a question: its gold passage; one of the "
            "n_docs that are found for it, drawn anew each epoch; or (mixed) the gold passage at "
            "times, else another of those found",
            "choices": CONTEXTS,
        },
    )
    gold_probability: float = field(
        default=GOLD_PROBABILITY,
        metadata={"help": "with --context mixed: how often it is the gold passage"},
    )
