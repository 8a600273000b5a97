"""The options that RAG training adds."""

import dataclasses

import pytest
from light_imports import assert_imports_none_of
from option_checks import require_reason

from rag_finetune.training.options import PARTS, REFUSED, TRAINABLE, RagOptions


def test_the_options_import_no_torch():
    assert_imports_none_of(
        {"torch", "transformers", "numpy"}, "import rag_finetune.training.options"
    )


@pytest.mark.parametrize("option", dataclasses.fields(RagOptions), ids=lambda field: field.name)
def test_every_option_says_what_it_is_for_and_its_default_is_a_choice(option):
    assert option.metadata["help"]
    default = getattr(RagOptions(), option.name)
    if "choices" in option.metadata and default is not None:
        chosen = default if isinstance(default, list) else [default]
        assert set(chosen) <= set(option.metadata["choices"])


def test_the_defaults_are_fresh_lists():
    first = RagOptions()
    first.trainable.append("x")
    assert RagOptions().trainable == list(PARTS)
    assert set(PARTS) < set(TRAINABLE)


@pytest.mark.parametrize("name", REFUSED)
def test_every_refusal_gives_a_reason_that_fits_into_a_sentence(name):
    require_reason(REFUSED, name)
