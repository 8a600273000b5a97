"""What the flags of `index` ask for in indexes by words."""

import pytest
from tiny_job import error_of, usage_error_of

from rag_finetune.cli import lexical_flags
from rag_finetune.cli.index import make_index_parser
from rag_finetune.cli.lexical_flags import lexical_kinds
from rag_finetune.index import bm25, lexical


def kinds_of(*words):
    given = ["--passages", "p", "--output_dir", "o", *words]
    return lexical_kinds(make_index_parser().parse_args(given))


def test_kinds_and_methods_are_those_of_the_index():
    assert lexical_flags.KINDS == lexical.KINDS
    assert lexical_flags.METHODS == bm25.METHODS


def test_settings_go_to_the_kinds_that_take_them():
    words = "--lexical tfidf bm25 bm25 --language english --bm25_k1 0.9 --bm25_b 0".split()
    assert kinds_of(*words) == {
        "tfidf": {"language": "english"},
        "bm25": {"language": "english", "k1": 0.9, "b": 0.0},
    }
    assert kinds_of("--context_encoder", "m") == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Give --context_encoder for an index of vectors, or --lexical for words."),
        (["--lexical", "tfidf", "--bm25_b", "0.5"], "--bm25_b go with --lexical bm25."),
        (["--context_encoder", "m", "--language", "english"], "--language goes with --lexical."),
        (["--lexical", "bm25", "--index_type", "hnsw"], "--index_type goes with --context_enc"),
        (["--lexical", "bm25", "--pooling", "cls"], "--pooling goes with --context_encoder"),
    ],
)
def test_a_flag_that_nothing_would_read_is_an_error(words, message):
    assert message in error_of("index", "--passages", "p", "--output_dir", "o", *words)


def test_an_unknown_kind_is_wrong_usage():
    words = ["--passages", "p", "--output_dir", "o", "--lexical", "splade"]
    assert "invalid choice: 'splade'" in usage_error_of("index", *words)
