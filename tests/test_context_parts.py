import pytest
import tiny_rag
from conftest import ROOT
from tiny_tokenizers import ODD, PLAIN, byte_level_bpe, unigram, word_piece
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rag_finetune.retrieval.context_parts import (
    PROBES,
    Template,
    squeeze,
    tokenize_heads,
    tokenize_tails,
)

TEMPLATE = Template("", " / ", " // ")
TEXTS = [*PLAIN, *ODD, 'it ends with a quote"', "(and a bracket (", "3.", "house\u0301", "à"]
HEADS = [TEMPLATE.head(title, text) for text in TEXTS for title in ("", "house of ada")]
TOKENIZERS = {
    "word": lambda: tiny_rag.word_tokenizer("bart"),
    "starter": lambda: AutoTokenizer.from_pretrained(ROOT / "data" / "starter" / "generator"),
    "bpe": lambda: byte_level_bpe(TEXTS, 400),
    "unigram": lambda: unigram(TEXTS * 3, 300),
    "word_piece": lambda: word_piece(TEXTS, 300),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


def joining() -> PreTrainedTokenizerFast:
    """Characters, and one token that reaches over the space behind an "a" or a "g"."""
    characters = sorted({*"".join([*HEADS, *PROBES, " / // "])})
    vocabulary = {c: i for i, c in enumerate([*characters, "<pad>", "a ", "g "])}
    merges = [("a", " "), ("g", " ")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def test_a_context_is_prefix_title_text_and_question():
    template = Template("old: ", " / ", " // ")
    assert template.head('"ada"', "red") + template.tail("who?") == "old: ada / red // who?"
    assert template.head('"', "red") == "old:  / red"


def test_of_two_spaces_one_is_left():
    assert squeeze("a  b   c") == "a b  c"


def test_the_parts_ids_joined_are_those_of_the_context(tokenizer):
    heads = tokenize_heads(tokenizer, TEMPLATE, HEADS)
    questions = [*PROBES, *ODD, "<s> or </s>?", "\t", "…", "'s", "\u00a0who", "\ufb01sh", "0"]
    tails = tokenize_tails(tokenizer, [TEMPLATE.tail(question) for question in questions])
    whole = [squeeze(head + TEMPLATE.tail(question)) for head in HEADS for question in questions]
    expected = iter(tokenizer(whole)["input_ids"])
    for text, head in zip(HEADS, heads, strict=True):
        assert bool(head) == (text[-1] != " ")
        for tail in tails:
            ids = next(expected)
            assert tail is not None
            assert not head or head + tail.ids == ids


def test_lead_is_what_no_passage_is_cut_below(tokenizer):
    [tail] = tokenize_tails(tokenizer, [" // who?"])
    begins = tokenizer(["a // who?"])["input_ids"][0][: -len(tail.ids)]
    assert tail.lead == len(begins) >= 1


def test_a_part_that_is_joined_with_the_other_has_no_ids():
    tokenizer = joining()
    assert tokenize_tails(tokenizer, [" // who"]) == [None]  # behind the anchor "a"
    assert tokenize_heads(tokenizer, TEMPLATE, HEADS) == [[]] * len(HEADS)


def test_white_space_at_the_cut_leaves_a_passage_without_ids(tokenizer):
    heads = [TEMPLATE.head("ada", text) for text in ("red ", "red  ", "red\n", "red\u00a0", "red")]
    found = tokenize_heads(tokenizer, TEMPLATE, heads)
    assert found[:4] == [[]] * 4 and found[4]
