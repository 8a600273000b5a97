"""The flags of how a decoder-only generator is asked, and what they say together."""

import argparse

import pytest
from light_imports import assert_imports_none_of

from rag_finetune.cli.prompt_flags import READINGS, add_prompt_flags, prompting_of
from rag_finetune.rag.causal_assemble import Prompting


def said(*words, answer=True):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_prompt_flags(parser, answer=answer)
    return prompting_of(parser.parse_args(words))


def test_nothing_said_is_nothing_given():
    assert said() == Prompting()
    assert said(answer=False) == Prompting()
    assert said().given() == []


def test_what_is_said_is_given():
    words = ["--reading", "joined", "--prompt_template", "{passages} {question}"]
    words += ["--chat", "false", "--max_target_length", "9"]
    assert said(*words) == Prompting("joined", "{passages} {question}", False, 9)


@pytest.mark.parametrize("reading", READINGS)
def test_each_reading_can_be_asked_for(reading):
    assert said("--reading", reading).reading == reading


def test_the_length_of_an_answer_may_be_left_to_the_training_arguments():
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        said("--max_target_length", "9", answer=False)


def test_the_flags_import_nothing_heavy():
    assert_imports_none_of({"torch", "transformers"}, "import rag_finetune.cli.prompt_flags")
