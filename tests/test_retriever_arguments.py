"""Arguments of retriever training."""

import pytest

from rag_finetune.training.retriever_arguments import RetrieverTrainingArguments
from rag_finetune.training.retriever_options import REFUSED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a number above 0"),
        ({"distillation_weight": 1.5}, "from 0 to 1"),
        ({"teacher": "x"}, "teacher goes with --distillation_weight"),
        ({"teacher": "bm52", "distillation_weight": 0.5}, "did you mean bm25?"),
        ({"teacher": "BM25", "distillation_weight": 0.5}, "did you mean bm25?"),
        (
            {"teacher": "x", "distillation_weight": 0.5, "teacher_language": "english"},
            "teacher_language goes with --teacher bm25",
        ),
        ({"grad_cache_chunk": 0}, "grad_cache_chunk must be at least 1"),
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
        ({"topics": 0}, "topics must be at least 1"),
        ({"topics": 2, "train_sampling_strategy": "sequential"}, "topics draws the batches"),
        ({"n_negatives": -1}, "n_negatives must be at least 0"),
        ({"early_stopping_patience": 2, "eval_strategy": "no"}, "needs evaluations"),
        ({"activation_checkpointing": True}, "grad_cache_chunk recomputes"),
        ({"train_sampling_strategy": "group_by_length"}, "of like length anyway"),
        ({"label_smoothing_factor": 0.1}, "the loss is contrastive"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        RetrieverTrainingArguments(output_dir=str(tmp_path), **options)


def test_the_best_is_kept_where_every_evaluation_has_a_checkpoint(tmp_path):
    args = RetrieverTrainingArguments(output_dir=str(tmp_path))
    assert args.load_best_model_at_end and args.metric_for_best_model == "mrr@10"
    assert args.greater_is_better
    args.without_evaluation()
    assert not args.load_best_model_at_end
    other = RetrieverTrainingArguments(output_dir=str(tmp_path), save_strategy="no")
    assert not other.load_best_model_at_end


def test_that_the_best_is_not_kept_is_said(tmp_path):
    with pytest.warns(UserWarning, match="steps and save_strategy epoch differ: the last model"):
        args = RetrieverTrainingArguments(output_dir=str(tmp_path), eval_strategy="steps")
    assert not args.load_best_model_at_end


def test_every_refused_argument_is_one_of_transformers():
    assert set(REFUSED) <= set(RetrieverTrainingArguments.__dataclass_fields__)
