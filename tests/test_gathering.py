"""What two processes gather has the gradient of one."""

import json

import pytest
import retriever_worker
import tiny_retriever
import torch
from worlds import run_two

from rag_finetune.training.gathering import gather_counts, gather_rows, rank, world_size


def test_on_one_process_rows_are_the_tensor_itself():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
    assert gather_counts(3, torch.device("cpu")) == [3]
    assert (rank(), world_size()) == (0, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"symmetric": True, "grad_cache_chunk": 2, "tied": True, "topics": 2},
        {"n_negatives": 2, "distillation_weight": 0.5},  # both bring many of the same passages
        pytest.param({"teacher": "bm25", "distillation_weight": 0.5}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_have_the_gradient_and_the_steps_of_one_with_the_whole_batch(
    tmp_path, options
):
    run_two(tmp_path, retriever_worker.run, tmp_path, **options)
    retriever_worker.run(tmp_path, **options)
    figures = [json.loads((tmp_path / f"figures{n}.json").read_text()) for n in (1, 2)]
    assert [found.pop("world_size") for found in figures] == [1, 2]
    assert figures[0].keys() == figures[1].keys() and len(figures[0]["loss"]) == 2
    for name, value in figures[0].items():
        assert figures[1][name] == pytest.approx(value, rel=1e-4), name
    assert (tmp_path / "of2/run/question_encoder/model.safetensors").is_file()
    whole = torch.load(tmp_path / "gradients0of1.pt")
    norm = sum(float(g.square().sum()) for g in whole.values()) ** 0.5
    assert norm > 0
    for process in (0, 1):
        found = torch.load(tmp_path / f"gradients{process}of2.pt")
        assert found.keys() == whole.keys()
        for name, gradient in whole.items():
            assert float((found[name] - gradient).norm()) <= 1e-5 * norm, name


def test_a_duplicate_on_another_process_counts_once():
    data = tiny_retriever.examples(4, n_negatives=1)
    [passage] = data.positives[0]
    assert data.excluded([1], [passage, passage])[0].tolist()[1] is True
