"""What generator training refuses, and why."""

import re

import pytest

from rag_finetune.training.generator_arguments import GeneratorTrainingArguments


def arguments(tmp_path, **options):
    return GeneratorTrainingArguments(output_dir=str(tmp_path), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": ["question_encoder"]}, "--trainable cannot be used: the generator alone"),
        ({"learning_rate_question_encoder": 1e-4}, "the question encoder stays as it is"),
        (
            {"retriever_loss": "lsr"},
            "--retriever_loss lsr cannot be used: the question encoder stays as it is; "
            "`rag-finetune train` teaches it",
        ),
        ({"likelihood_weight": 0.5}, "--likelihood_weight 0.5 cannot be used"),
        ({"passage_loss_weight": 0.3}, "--passage_loss_weight 0.3 cannot be used: a question is"),
        ({"doubt_weight": 1.0}, "--doubt_weight 1.0 cannot be used: a question is trained on"),
        ({"context": "golden"}, 'context must be one of gold, retrieved, mixed, found "golden"'),
        ({"gold_probability": 1.5}, "gold_probability must be from 0 to 1, found 1.5"),
        ({"gold_probability": 0.5}, "gold_probability does nothing with --context gold: say"),
        (
            {
                "context": "mixed",
                "dataloader_persistent_workers": True,
                "dataloader_num_workers": 1,
            },
            "context mixed draws passages anew each epoch",
        ),
        ({"n_docs": 0}, "n_docs must be at least 1, found 0"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        arguments(tmp_path, **options)


def test_the_defaults_train_the_generator_on_gold_passages(tmp_path):
    args = arguments(tmp_path)
    assert (args.trainable, args.context, args.command) == (
        ["generator"],
        "gold",
        "train-generator",
    )
    assert args.metric_for_best_model == "exact_match"
