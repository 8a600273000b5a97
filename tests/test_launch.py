"""What arguments of any trainer are held to."""

import pytest

from rag_finetune.training.launch import check_world
from rag_finetune.training.retriever_arguments import RetrieverTrainingArguments


def test_processes_that_do_not_see_each_other_are_an_error_with_the_command(tmp_path, monkeypatch):
    args = RetrieverTrainingArguments(output_dir=str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"this one is alone.*-m rag_finetune train-retriever"):
        check_world(args, "train-retriever")


def test_a_split_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="told to use FSDP"):
        RetrieverTrainingArguments(output_dir=str(tmp_path))
