"""Tiny RAG models that have learnt the twenty facts, trained once a process."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import tiny_rag
import torch

from rag_finetune.rag.checkpoint import Rag
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_trainer import RagTrainer

STEPS = {"bart": 150, "t5": 300}


@functools.cache
def trained_rag(kind: str, model_type: str) -> Rag:
    """A model of width 32 that was trained on the twenty questions; leave it as it is."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rag = tiny_rag.tiny_rag(folder, kind, model_type, width=32, dropout=0.0)
    if kind == "bart":
        spread(rag.model.rag.generator, 0.1)
    args = RagTrainingArguments(
        output_dir=str(folder / "run"),
        max_steps=STEPS[kind],
        learning_rate=1e-2,
        per_device_train_batch_size=20,
        warmup_steps=0.05,
        max_target_length=16,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    RagTrainer(rag, args, train_dataset=tiny_rag.questions()).train()
    rag.model.eval()
    return rag


def spread(network: torch.nn.Module, std: float) -> None:
    """Draw all matrices anew, wider than BART's 0.02, which is near nothing at this width."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)
