"""The options of generator training, before anything heavy is loaded."""

from dataclasses import fields

from light_imports import assert_imports_none_of

from rag_finetune.training.generator_options import CONTEXTS, NOT_HERE, GeneratorOptions
from rag_finetune.training.options import RagOptions


def test_what_is_refused_is_an_option_of_rag_training():
    assert set(NOT_HERE) <= {option.name for option in fields(RagOptions)}


def test_the_context_is_one_of_its_choices_and_the_generator_learns():
    options = GeneratorOptions()
    assert options.context in CONTEXTS
    assert options.trainable == ["generator"]


def test_they_are_read_without_torch():
    assert_imports_none_of(
        {"torch", "transformers"}, "import rag_finetune.training.generator_options"
    )
