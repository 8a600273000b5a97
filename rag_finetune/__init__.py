"""Fine-tune retrieval-augmented generation models on Hugging Face Transformers' RAG classes.

The public names are resolved when they are first used, so that importing the package, and asking a
command for its help, takes no time:

    >>> from rag_finetune import load_rag
    >>> rag = load_rag("runs/rag_sequence/model")
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_finetune.data.passages import load_passages
    from rag_finetune.data.qa import TrainingQuestions, load_questions
    from rag_finetune.encoders.load import load_context_encoder, load_question_encoder
    from rag_finetune.encoders.pooled import register
    from rag_finetune.evaluation.evaluate import evaluate_rag
    from rag_finetune.index.build import build_index
    from rag_finetune.index.store import open_index
    from rag_finetune.index.update import compact_index, update_index
    from rag_finetune.rag.assemble import assemble_rag
    from rag_finetune.rag.causal_assemble import Prompting
    from rag_finetune.rag.checkpoint import load_rag, save_rag
    from rag_finetune.rag.generation import generate_answers
    from rag_finetune.retrieval.retriever import RagIndexRetriever
    from rag_finetune.training.arguments import RagTrainingArguments
    from rag_finetune.training.causal_arguments import CausalTrainingArguments
    from rag_finetune.training.causal_trainer import CausalRagTrainer
    from rag_finetune.training.generator_arguments import GeneratorTrainingArguments
    from rag_finetune.training.generator_trainer import GeneratorTrainer
    from rag_finetune.training.rag_trainer import RagTrainer
    from rag_finetune.training.retriever_arguments import RetrieverTrainingArguments
    from rag_finetune.training.retriever_trainer import RetrieverTrainer

__all__ = [
    "CausalRagTrainer",
    "CausalTrainingArguments",
    "GeneratorTrainer",
    "GeneratorTrainingArguments",
    "Prompting",
    "RagIndexRetriever",
    "RagTrainer",
    "RagTrainingArguments",
    "RetrieverTrainer",
    "RetrieverTrainingArguments",
    "TrainingQuestions",
    "__version__",
    "assemble_rag",
    "build_index",
    "compact_index",
    "evaluate_rag",
    "generate_answers",
    "load_context_encoder",
    "load_passages",
    "load_question_encoder",
    "load_questions",
    "load_rag",
    "open_index",
    "register",
    "save_rag",
    "update_index",
]

_MODULES = {
    "GeneratorTrainer": "training.generator_trainer",
    "GeneratorTrainingArguments": "training.generator_arguments",
    "CausalRagTrainer": "training.causal_trainer",
    "CausalTrainingArguments": "training.causal_arguments",
    "Prompting": "rag.causal_assemble",
    "RagIndexRetriever": "retrieval.retriever",
    "RagTrainer": "training.rag_trainer",
    "RagTrainingArguments": "training.arguments",
    "RetrieverTrainer": "training.retriever_trainer",
    "RetrieverTrainingArguments": "training.retriever_arguments",
    "TrainingQuestions": "data.qa",
    "assemble_rag": "rag.assemble",
    "build_index": "index.build",
    "compact_index": "index.update",
    "evaluate_rag": "evaluation.evaluate",
    "generate_answers": "rag.generation",
    "load_context_encoder": "encoders.load",
    "load_passages": "data.passages",
    "load_question_encoder": "encoders.load",
    "load_questions": "data.qa",
    "load_rag": "rag.checkpoint",
    "open_index": "index.store",
    "register": "encoders.pooled",
    "save_rag": "rag.checkpoint",
    "update_index": "index.update",
}

try:
    __version__ = version("rag-finetune")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+not.installed"


def __getattr__(name: str) -> Any:
    """Import the module of a public name when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, also those not yet resolved."""
    return sorted({*globals(), *__all__})
