"""`--retriever_loss` read and checked."""

import dataclasses
import math
import types

import pytest
from light_imports import assert_imports_none_of

from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.loss_terms import BESIDE, LOSSES, check_losses, parse_losses
from rag_finetune.training.options import RagOptions


def test_losses_and_weights_are_read_in_order():
    found = parse_losses("lsr:0.5, contrastive : 1e-1,listwise")
    assert list(found.items()) == [("lsr", 0.5), ("contrastive", 0.1), ("listwise", 1.0)]
    assert parse_losses(None) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrs:0.5", 'there is no loss "lrs". Did you mean "lsr"?'),
        ("contrast", 'there is no loss "contrast". Did you mean "contrastive"?'),
        ("contrastive=0.5", 'Did you mean "contrastive:0.5"?'),
        ("lsr:1,qqq", "Known are lsr, pdist, emdr2, adist, loop, contrastive, listwise."),
        ("", 'there is no loss ""'),
        ("lsr,", 'there is no loss ""'),
        ("lsr:1,lsr:2", '"lsr" is named twice'),
        ("lsr:0", 'the weight of "lsr" must be a number above 0, found "0"'),
        ("lsr:-1", 'must be a number above 0, found "-1"'),
        ("lsr:nan", 'must be a number above 0, found "nan"'),
        ("lsr:inf", 'must be a number above 0, found "inf"'),
        ("lsr:", 'must be a number above 0, found "". Write lsr:0.5, say'),
        ("lsr:half", 'must be a number above 0, found "half"'),
    ],
)
def test_what_is_no_loss_or_no_weight_is_named(text, message):
    with pytest.raises(ValueError) as caught:
        parse_losses(text)
    assert message in str(caught.value)


def options(**changed):
    rest = {"label_smoothing_factor": 0.0}
    return types.SimpleNamespace(**(dataclasses.asdict(RagOptions()) | rest | changed))


def test_the_defaults_here_are_those_of_the_options():
    assert {name: getattr(RagOptions(), name) for name in BESIDE} == BESIDE
    assert {name for read in LOSSES.values() for name in read} < BESIDE.keys()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"retriever_loss": "lsr", "lsr_direction": "lm_retriever", "lm_temperature": 0.1},
        {"retriever_loss": "contrastive", "retriever_temperature": 0.1},
        {"retriever_loss": "contrastive", "contrastive_negatives": "in_batch"},
        {
            "retriever_loss": "emdr2",
            "likelihood_weight": 0.0,
            "trainable": ["question_encoder"],
        },
        {
            "retriever_loss": "contrastive",
            "likelihood_weight": 0.0,
            "trainable": ["context_encoder"],
        },
    ],
)
def test_what_goes_together_is_taken(changed):
    check_losses(options(**changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"likelihood_weight": 0.5}, "likelihood_weight does nothing without a loss that reads it"),
        ({"retriever_temperature": 2.0}, "retriever_temperature does nothing"),
        (
            {"retriever_loss": "emdr2", "lm_likelihood": "per_token"},
            "lm_likelihood does nothing without a loss that reads it: give --retriever_loss lsr or "
            "pdist or loop, or leave lm_likelihood out",
        ),
        (
            {"retriever_loss": "pdist", "lsr_direction": "lm_retriever"},
            "lsr_direction does nothing without a loss that reads it: give --retriever_loss lsr",
        ),
        ({"lm_temperature": 0.0}, "lm_temperature must be above 0, found 0.0"),
        ({"retriever_temperature": math.nan}, "retriever_temperature must be above 0, found nan"),
        ({"likelihood_weight": -1.0}, "likelihood_weight must be 0 or more, found -1.0"),
        (
            {"retriever_loss": "lsr", "trainable": ["generator"]},
            "teaches the encoders, and neither learns: add question_encoder to",
        ),
        (
            {"retriever_loss": "lsr", "likelihood_weight": 0.0},
            "leaves the generator nothing to learn from. Say --trainable question_encoder",
        ),
        (
            {
                "retriever_loss": "lsr",
                "likelihood_weight": 0.0,
                "trainable": ["question_encoder"],
                "passage_loss_weight": 0.3,
            },
            "passage_loss_weight is a part of the likelihood, whose likelihood_weight is 0. Say "
            "--passage_loss_weight 0 (it may stand in the --config), or give the likelihood a",
        ),
    ],
)
def test_what_does_nothing_or_cannot_learn_is_named(changed, message):
    with pytest.raises(ValueError) as caught:
        check_losses(options(**changed))
    assert message in str(caught.value)


def test_the_training_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match='there is no loss "lrs"'):
        RagTrainingArguments(str(tmp_path), retriever_loss="lrs")


def test_the_losses_import_no_torch():
    modules = {"torch", "transformers", "numpy"}
    assert_imports_none_of(modules, "import rag_finetune.training.loss_terms")
