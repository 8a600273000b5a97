"""What is cut of questions."""

import warnings

import pytest
import tiny_rag

from rag_finetune.rag.lengths import check_question_lengths, question_limit, too_long


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return tiny_rag.tiny_rag(tmp_path_factory.mktemp("lengths"))


def test_a_question_may_be_as_long_as_the_question_encoder_takes(untrained):
    assert question_limit(untrained, 1000) == 64
    assert question_limit(untrained, 9) == 9


def test_rows_that_are_too_long_are_those_with_more_tokens(untrained):
    tokenizer = untrained.tokenizer.generator
    texts = ["red", "red blue green", "red blue", "red " * 40]
    assert too_long(tokenizer, texts, 4) == [1, 3]  # two of them are its frame
    assert too_long(tokenizer, texts[:1], 100) == []


def test_questions_that_will_be_cut_are_counted_and_the_first_is_shown(untrained):
    words = "what is the house of ada and ben ?".split()
    questions = [" ".join(words[:count]) for count in (7, 8, 3, 9)]
    message = r"2 of 4 questions are longer than 9 tokens .* the first is row 1: 'what is the house"
    with pytest.warns(UserWarning, match=message):
        check_question_lengths(untrained, questions, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_question_lengths(untrained, questions, 11)
        check_question_lengths(untrained, [], 9)


def test_words_that_the_generator_will_not_see_are_announced(untrained):
    with pytest.warns(UserWarning, match=r"1 of 2 questions hold words .* the first is row 1"):
        check_question_lengths(untrained, ["what is the house of ada ?", "what is the zebra ?"], 64)
