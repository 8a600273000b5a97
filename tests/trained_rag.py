"""Tiny RAG models that have learnt the twenty facts, trained once a process."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import tiny_rag

from rag_finetune.index.build import build_index
from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import Rag, load_rag
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_trainer import RagTrainer

STEPS = {"bart": 150, "t5": 300}


@functools.cache
def trained_rag(kind: str, model_type: str) -> Rag:
    """A model of width 32 that was trained on the twenty questions; leave it as it is."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
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
    rag.model.eval()
    return rag
