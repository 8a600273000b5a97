"""The options that reranker training adds."""

import dataclasses

import pytest
from light_imports import assert_imports_none_of
from option_checks import require_reason

from rag_finetune.training.reranker_options import REFUSED, RerankerOptions


def test_the_options_import_no_torch():
    assert_imports_none_of(
        {"torch", "transformers", "numpy"}, "import rag_finetune.training.reranker_options"
    )


@pytest.mark.parametrize(
    "option", dataclasses.fields(RerankerOptions), ids=lambda field: field.name
)
def test_every_option_says_what_it_is_for_and_is_not_refused(option):
    assert option.metadata["help"]
    assert option.name not in REFUSED


@pytest.mark.parametrize("name", REFUSED)
def test_every_refusal_gives_a_reason_that_fits_into_a_sentence(name):
    require_reason(REFUSED, name)
