"""What a training command trains where nothing else is said: a checkpoint, by RagTrainer."""

import argparse

import pytest
import tiny_rag
from light_imports import assert_imports_none_of

from rag_finetune.cli.task import Task, load_checkpoint
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_trainer import RagTrainer


def test_by_default_it_is_rag_training():
    task = Task(argparse.ArgumentParser, argparse.ArgumentParser)
    assert task.arguments() is RagTrainingArguments
    assert task.trainer() is RagTrainer
    assert task.load is load_checkpoint


@pytest.mark.parametrize("model_type", [None, "rag_token"])
def test_a_checkpoint_is_loaded_as_the_flags_say(tmp_path, model_type):
    tiny_rag.tiny_rag(tmp_path)
    data = argparse.Namespace(
        model_name_or_path=str(tmp_path / "assembled"),
        index=str(tmp_path / "index"),
        model_type=model_type,
        retrieval="dense",
        lexical_prior=None,
    )
    rag = load_checkpoint(data, RagTrainingArguments(str(tmp_path / "run"), eval_strategy="no"))
    assert type(rag.model).__name__ == (
        "RagTokenForGeneration" if model_type else "RagSequenceForGeneration"
    )
    assert rag.retriever.index.folder == tmp_path / "index"
    assert rag.retriever.searcher.retrieval.way == "dense"


def test_it_imports_nothing_heavy():
    assert_imports_none_of({"torch", "transformers"}, "import rag_finetune.cli.task")
