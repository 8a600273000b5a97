"""A retriever on the tiny facts: encoders without dropout unless asked for, data, a trainer."""

from pathlib import Path

import tiny_rag
import torch
from transformers import DPRContextEncoder, DPRQuestionEncoder

from rag_finetune.data.candidates import Candidate, Candidates
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.training.biencoder import tie
from rag_finetune.training.retriever_arguments import RetrieverTrainingArguments
from rag_finetune.training.retriever_data import RetrieverExamples
from rag_finetune.training.retriever_trainer import RetrieverTrainer


def encoders(dropout: float = 0.0, tied: bool = False) -> tuple[TextEncoder, TextEncoder]:
    """A question and a context encoder of one layer, their vectors well apart."""
    made = []
    for seed, kind in enumerate((DPRQuestionEncoder, DPRContextEncoder)):
        torch.manual_seed(seed)
        model = kind(tiny_rag.dpr_config(dropout=dropout)).eval()
        tiny_rag.spread(model, 0.3)
        made.append(TextEncoder(model, tiny_rag.word_tokenizer("bert"), 64, name="tiny"))
    if tied:
        tie(*made)
    return made[0], made[1]


def mined(count: int = 20) -> list[Candidates]:
    """Two hard negatives a question: the passages of the two names that follow."""
    facts = tiny_rag.facts()
    return [
        Candidates(
            positives=[_candidate(facts[row % 20], 3.0)],
            negatives=[_candidate(facts[(row + step) % 20], -float(step)) for step in (1, 2)],
        )
        for row in range(count)
    ]


def _candidate(fact: dict[str, str], score: float) -> Candidate:
    return Candidate(fact["title"], fact["text"], fact["id"], score)


def examples(count: int = 20, n_negatives: int = 0, candidates=None) -> RetrieverExamples:
    """The facts as examples."""
    if n_negatives and candidates is None:
        candidates = mined(count)
    return RetrieverExamples(
        tiny_rag.questions(count), tiny_rag.passages(), candidates, n_negatives=n_negatives
    )


def make_trainer(folder: Path, **options) -> RetrieverTrainer:
    """A trainer that validates on the questions it trains on."""
    tied = options.pop("tied", False)
    pair = options.pop("pair", None) or encoders(options.pop("dropout", 0.0), tied)
    data = options.pop("examples", None) or examples(
        options.pop("count", 20), options.pop("n_negatives", 0)
    )
    questions = options.pop("eval_questions", tiny_rag.questions(20))
    defaults = {
        "output_dir": str(folder / "run"),
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "temperature": 5.0,
    }
    args = RetrieverTrainingArguments(**(defaults | options))
    return RetrieverTrainer(
        *pair, args, data, passages=tiny_rag.passages(), eval_questions=questions, tied=tied
    )


def gradients(trainer: RetrieverTrainer, items: list[int]) -> dict[str, torch.Tensor]:
    """Gradients of the loss of a batch, in training mode, from one state of the generator."""
    batch = trainer.data_collator([trainer.examples[row] for row in items])
    trainer.biencoder.train().zero_grad()
    torch.manual_seed(7)
    trainer.compute_loss(trainer.biencoder, batch).backward()
    return {name: p.grad.clone() for name, p in trainer.biencoder.named_parameters()}
