"""The options that training with a decoder-only generator adds."""

import dataclasses

import pytest
from light_imports import assert_imports_none_of
from option_checks import require_reason

from rag_finetune.training.causal_options import NOT_HERE, CausalOptions


def test_the_options_import_no_torch():
    assert_imports_none_of(
        {"torch", "transformers", "numpy"}, "import rag_finetune.training.causal_options"
    )


def test_what_is_refused_is_an_option_that_is_inherited():
    assert NOT_HERE.keys() <= {option.name for option in dataclasses.fields(CausalOptions)}


@pytest.mark.parametrize("name", NOT_HERE)
def test_every_refusal_gives_a_reason_that_fits_into_a_sentence(name):
    require_reason(NOT_HERE, name)


def test_the_generator_alone_trains_unless_more_is_asked_for():
    assert CausalOptions().trainable == ["generator"]
