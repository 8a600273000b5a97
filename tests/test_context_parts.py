import pytest
import tiny_rag
from conftest import ROOT
from tiny_tokenizers import ODD, PLAIN, byte_fallback, byte_level_bpe, marked, unigram, word_piece
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rag_finetune.retrieval.context_parts import (
    PROBES,
    JoinedError,
    Template,
    require_parted,
    squeeze,
    tokenize_heads,
    tokenize_tails,
)

TEMPLATE = Template("", " / ", " // ")
TEXTS = [*PLAIN, *ODD, 'it ends with a quote"', "(and a bracket (", "3.", "house\u0301", "à"]
HEADS = [TEMPLATE.head(title, text) for text in TEXTS for title in ("", "house of ada")]
# Also what normalisers turn into a space: a zero-width space, a mark behind a space.
ENDS_IN_SPACE = ("red ", "red  ", "red\n", "red\u00a0", "red\u200b", "red \u0301")
TOKENIZERS = {
    "word": lambda: tiny_rag.word_tokenizer("bart"),
    "starter": lambda: AutoTokenizer.from_pretrained(ROOT / "data" / "starter" / "generator"),
    "bpe": lambda: byte_level_bpe(TEXTS, 400),
    "unigram": lambda: unigram(TEXTS * 3, 300),
    "word_piece": lambda: word_piece(TEXTS, 300),
    "marked": lambda: marked(TEXTS, 400),
    "byte_fallback": lambda: byte_fallback(TEXTS, 400),
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


def test_tokenizers_of_all_families_part_contexts(tokenizer):
    require_parted(tokenizer, TEMPLATE)


@pytest.mark.parametrize("doc_sep", ["", " ", "  ", " \n", "\n", "// "])
def test_a_separator_must_be_a_space_and_something(doc_sep):
    with pytest.raises(JoinedError, match=r"^doc_sep .* is not a space and characters behind it$"):
        require_parted(tiny_rag.word_tokenizer("t5"), Template("", " / ", doc_sep))


@pytest.mark.parametrize("token", ["red // who", "red //", "red ", "red\t//", "red▁//"])
def test_a_token_that_reaches_over_a_space_is_named(token):
    tokenizer = tiny_rag.word_tokenizer("t5")
    tokenizer.add_tokens([token])
    with pytest.raises(JoinedError, match="of the generator's tokenizer reaches over a space"):
        require_parted(tokenizer, TEMPLATE)


@pytest.mark.parametrize(("token", "is_joined"), [("redĠ//", True), ("Ġred", False), ("ĠĠ", False)])
def test_the_space_of_a_byte_level_tokenizer_has_another_spelling(token, is_joined):
    byte_level, words = byte_level_bpe(PLAIN, 300), tiny_rag.word_tokenizer("t5")
    for tokenizer in (byte_level, words):
        tokenizer.add_tokens([token])
    require_parted(words, TEMPLATE)
    if is_joined:
        with pytest.raises(JoinedError, match=f"token '{token}' of"):
            require_parted(byte_level, TEMPLATE)
    else:
        require_parted(byte_level, TEMPLATE)


def test_a_tokenizer_that_draws_lots_is_told():
    tokenizer = byte_level_bpe(PLAIN, 300)
    tokenizer.backend_tokenizer.model.dropout = 0.1
    with pytest.raises(JoinedError, match="merges at random"):
        require_parted(tokenizer, TEMPLATE)


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


def test_white_space_at_the_cut_or_nothing_leaves_a_passage_without_ids(tokenizer):
    heads = [TEMPLATE.head("ada", text) for text in ENDS_IN_SPACE]
    found = tokenize_heads(tokenizer, TEMPLATE, [*heads, TEMPLATE.head("ada", "red"), ""])
    assert found[:-2] == [[]] * len(heads) and found[-2] and found[-1] == []
