import json

import pytest
import tiny_rag
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from rag_finetune.encoders.prefix import prefix_of, tokenizer_state, with_prefix

TEXTS = ["Who IS it?", "who  is\tit", "éclair", "", "it", "the house of ada is red ."]
PREFIX = "Query: "


def lower_casing_word_pieces() -> PreTrainedTokenizerFast:
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] query : who is it ? e ##c ##lair the house of".split()
    return BertTokenizer(vocab={word: row for row, word in enumerate(words)})


def cased_word_pieces() -> PreTrainedTokenizerFast:
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] Query : Who IS is it ?".split()
    return BertTokenizer(vocab={word: row for row, word in enumerate(words)}, do_lower_case=False)


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Query: Who is it? Query: who"] * 4, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]])


def unigram() -> PreTrainedTokenizerFast:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁Query", ":", "▁Who", "▁who", "▁is", "▁it"]
    pieces += [*"QueryWhoISit?é:claidfsn", "<mask>"]
    scores = [(piece, -float(row)) for row, piece in enumerate(dict.fromkeys(pieces))]
    return XLMRobertaTokenizer(vocab=scores)


def with_normaliser_of_llama() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE({"▁": 0, "a": 1, "<unk>": 2, "▁a": 3}, [("▁", "a")]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


KINDS = pytest.mark.parametrize(
    "make",
    [
        lower_casing_word_pieces,
        cased_word_pieces,
        byte_level,
        unigram,
        lambda: tiny_rag.word_tokenizer("bert"),
        with_normaliser_of_llama,
    ],
    ids=["lower_casing", "cased", "byte_level", "unigram", "words", "llama"],
)


@KINDS
def test_ids_are_those_of_the_prefix_written_out(make):
    tokenizer = make()
    prefixed = with_prefix(tokenizer, PREFIX)
    assert prefix_of(prefixed) == PREFIX
    for text in filter(None, TEXTS):
        assert dict(prefixed(text)) == dict(tokenizer(PREFIX + text)), text
    assert prefixed("")["input_ids"] == tokenizer("")["input_ids"]
    assert prefix_of(tokenizer) == ""  # the one given is left as it is


@KINDS
def test_it_is_saved_and_loaded_by_plain_transformers(make, tmp_path):
    prefixed = with_prefix(make(), PREFIX)
    prefixed.model_max_length = 77
    prefixed.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert prefix_of(loaded) == PREFIX
    assert tokenizer_state(loaded) == tokenizer_state(prefixed)
    assert loaded.model_max_length == 77
    for text in TEXTS:
        assert dict(loaded(text)) == dict(prefixed(text))
        ids = prefixed(text)["input_ids"]
        assert loaded.decode(ids) == prefixed.decode(ids)
    assert with_prefix(loaded, PREFIX) is loaded  # and so it is not added twice


@KINDS
def test_no_prefix_changes_nothing_and_takes_one_away_again(make):
    tokenizer = make()
    assert with_prefix(tokenizer, "") is tokenizer
    back = with_prefix(with_prefix(tokenizer, PREFIX), "")
    assert tokenizer_state(back) == tokenizer_state(tokenizer)
    assert back.special_tokens_map == tokenizer.special_tokens_map
    assert [dict(back(text)) for text in TEXTS] == [dict(tokenizer(text)) for text in TEXTS]


@KINDS
def test_another_prefix_takes_the_place_of_the_first(make):
    tokenizer = make()
    replaced = with_prefix(with_prefix(tokenizer, "first: "), PREFIX)
    assert dict(replaced("who is it")) == dict(tokenizer(PREFIX + "who is it"))


def test_the_decoded_question_shows_the_prefix():
    prefixed = with_prefix(lower_casing_word_pieces(), PREFIX)
    ids = prefixed("Who is it?")["input_ids"]
    assert prefixed.decode(ids, skip_special_tokens=True).startswith("query : who is it")


def test_a_prefix_counts_among_the_tokens_that_are_kept():
    ids = with_prefix(tiny_rag.word_tokenizer("bert"), "who is ")(
        "the house of ada", truncation=True, max_length=5
    )["input_ids"]
    assert ids == tiny_rag.word_tokenizer("bert")("who is the")["input_ids"]


@pytest.mark.parametrize("normalized", [True, False])
def test_added_tokens_are_found_behind_a_prefix_as_before(normalized, tmp_path):
    tokenizer = tiny_rag.word_tokenizer("bert")
    added = ["tokyo", "new (york)", "   "]  # runs of spaces, as ModernBERT has them
    tokenizer.add_tokens([AddedToken(token, normalized=normalized) for token in added])
    prefixed = with_prefix(tokenizer, "who ")
    prefixed.save_pretrained(tmp_path)
    for found in (prefixed, AutoTokenizer.from_pretrained(tmp_path)):
        assert prefix_of(found) == "who "
        if normalized:  # else a text is cut at the token, and what follows is a text of its own
            for text in ("the tokyo house", "red new (york)", "the   house"):
                assert dict(found(text)) == dict(tokenizer("who " + text))
        assert found.convert_ids_to_tokens(found("red tokyo")["input_ids"])[-2] == "tokyo"
        assert tokenizer_state(with_prefix(found, "")) == tokenizer_state(tokenizer)


def test_tokenizer_without_fast_implementation_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow has no fast implementation"):
        with_prefix(Slow(), "query: ")
