"""Arguments of reranker training."""

import copy

import pytest

from rag_finetune.training.reranker_arguments import RerankerTrainingArguments
from rag_finetune.training.reranker_options import REFUSED


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_negatives": 0}, "n_negatives must be at least 1, found 0"),
        ({"early_stopping_patience": 0}, "early_stopping_patience must be at least 1, found 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0, found 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0, found nan"),
        ({"early_stopping_patience": 2, "eval_strategy": "no"}, "needs evaluations"),
        ({"save_strategy": "best", "eval_strategy": "no"}, "save_strategy best needs evaluations"),
        ({"train_sampling_strategy": "group_by_length"}, "stands beside its own candidates"),
        (
            {"label_smoothing_factor": 0.1},
            r"--label_smoothing_factor 0\.1 cannot be used: the loss",
        ),
        ({"dataloader_drop_last": True}, "every question counts"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        RerankerTrainingArguments(output_dir=str(tmp_path), **options)


def test_the_best_is_kept_where_every_evaluation_has_a_checkpoint(tmp_path):
    args = RerankerTrainingArguments(output_dir=str(tmp_path))
    assert args.load_best_model_at_end and args.metric_for_best_model == "mrr@10"
    assert args.greater_is_better
    other = RerankerTrainingArguments(output_dir=str(tmp_path), save_strategy="no")
    assert not other.load_best_model_at_end
    none = RerankerTrainingArguments(output_dir=str(tmp_path), eval_strategy="no")
    assert not none.load_best_model_at_end


def test_that_the_best_is_not_kept_is_said(tmp_path):
    with pytest.warns(UserWarning, match="steps and save_strategy epoch differ: the last model"):
        args = RerankerTrainingArguments(output_dir=str(tmp_path), eval_strategy="steps")
    assert not args.load_best_model_at_end


def test_a_copy_of_arguments_is_accepted(tmp_path):
    args = RerankerTrainingArguments(output_dir=str(tmp_path), n_negatives=3)
    again = copy.copy(args)
    again.__post_init__()
    assert again.n_negatives == 3


def test_every_refused_argument_is_one_of_transformers():
    assert set(REFUSED) <= set(RerankerTrainingArguments.__dataclass_fields__)
