"""Tiny RAG models that have learnt the twenty facts, trained once for all workers of a run."""

import fcntl
import functools
import os
from pathlib import Path

import tiny_rag
from conftest import TRAINED

from rag_finetune.index.build import build_index
from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import Rag, load_rag, place_index, save_rag
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_trainer import RagTrainer

STEPS = {"bart": 150, "t5": 300}


@functools.cache
def trained_rag(kind: str, model_type: str) -> Rag:
    """A model of width 32 that was trained on the twenty questions; leave it as it is."""
    folder = Path(os.environ[TRAINED]) / f"{kind}-{model_type}"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be training it
        if not (folder / "learnt" / "rag_index.json").exists():
            train(kind, model_type, folder)
    return load_rag(folder / "learnt")


def train(kind: str, model_type: str, folder: Path) -> None:
    """Train one, into folder/learnt."""
    parts = tiny_rag.save_parts(folder / "parts", kind, width=32, dropout=0.0)
    encoder = tiny_rag.context_encoder(width=32)
    tiny_rag.spread(encoder.model, 0.3)  # else all passages score the same to the sixth digit
    assemble_rag(
        parts["question_encoder"],
        parts["generator"],
        folder / "assembled",
        model_type=model_type,
        index=build_index(tiny_rag.passages(), encoder, folder / "index"),
        max_combined_length=40,
    )
    rag = load_rag(folder / "assembled")
    tiny_rag.spread(rag.model.rag.question_encoder, 0.3)
    if kind == "bart":
        tiny_rag.spread(rag.model.rag.generator, 0.1)
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
    save_rag(rag.model, rag.tokenizer, folder / "learnt")
    place_index(rag.retriever.index, folder / "learnt", "link", ours=False)
