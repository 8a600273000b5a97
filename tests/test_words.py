"""Texts as words."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag_finetune.index.words import LANGUAGES, WordSplitter, splitter_for, splitter_from


def test_words_are_lower_case_and_may_be_single_characters():
    assert WordSplitter().split(["Element H, the 1st!", ""]) == [["element", "h", "the", "1st"], []]


def test_letters_of_other_scripts_are_words():
    assert WordSplitter().split(["Élan vital, Москва 東京"]) == [
        ["élan", "vital", "москва", "東京"]
    ]


def test_a_language_drops_its_stop_words_and_stems():
    [words] = splitter_for("english").split(["The houses' walls were built by a running river s"])
    assert words == ["hous", "wall", "were", "built", "run", "river"]


def test_a_language_is_told_by_its_splitter():
    german = splitter_for("german")
    assert german.stemmer == "german" and "und" in german.stop_words
    assert splitter_for(None) == WordSplitter()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_stop_words_and_a_stemmer(language):
    splitter = splitter_for(language)
    assert len(splitter.stop_words) > 20
    assert splitter.split(["xylophon"])[0]


def test_a_specification_makes_the_same_splitter():
    for language in (None, "english"):
        splitter = splitter_for(language)
        assert splitter_from(json.loads(json.dumps(splitter.spec()))) == splitter


@pytest.mark.parametrize(
    "change",
    [{"stop_words": None}, {"token_pattern": "("}, {"stemmer": "klingon"}, {"more": 1}],
    ids=lambda change: next(iter(change)),
)
def test_a_specification_that_makes_none_is_refused(change):
    with pytest.raises(ValueError, match='"words" is no specification of how texts are cut'):
        splitter_from({**WordSplitter().spec(), **change})


def test_an_unknown_language_is_refused_and_a_near_one_suggested():
    with pytest.raises(ValueError, match=r'found "English"\. Did you mean "english"\?'):
        splitter_for("English")
    with pytest.raises(ValueError, match="Leave it out for any other language"):
        splitter_for("xx")


def test_threads_may_share_a_splitter():
    splitter = splitter_for("english")
    texts = [[f"running houses number{n} quickly{n}ing flies"] * 50 for n in range(64)]
    alone = [splitter.split(block) for block in texts]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(splitter.split, texts)) == alone
