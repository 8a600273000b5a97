"""Texts cut into pieces, by words and by tokens."""

import math
import re
import unicodedata
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from rag_finetune.data.cutting import check_cut, cut_text, needs_tokenizer

CHINESE = "北京是中华人民共和国的首都、人口超过两千万。"
THAI = "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย"


def numbered(count):
    return " ".join(f"w{n}" for n in range(count))


def spans(count, limit, overlap):
    """First word and end of each piece of a text of numbered words."""
    pieces = [piece.split() for piece in cut_text(numbered(count), limit, overlap)]
    return [(int(piece[0][1:]), int(piece[-1][1:]) + 1) for piece in pieces]


def bert():
    """Chinese characters by themselves, other words by characters."""
    characters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:/?=-"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(CHINESE)), *characters]
    vocabulary = [*words, *(f"##{c}" for c in characters)]
    return BertTokenizer(vocab={word: n for n, word in enumerate(dict.fromkeys(vocabulary))})


def byte_level():
    """One token a byte: three for a Chinese character, four for most emoji."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize(
    ("count", "limit", "overlap", "expected"),
    [
        (9, 4, 0, [(0, 3), (3, 6), (6, 9)]),
        (9, 8, 0, [(0, 5), (5, 9)]),
        (10, 4, 1, [(0, 4), (3, 7), (6, 10)]),
        (11, 5, 2, [(0, 5), (3, 8), (6, 11)]),
        (9, 5, 2, [(0, 5), (3, 8), (6, 9)]),
        (6, 5, 4, [(0, 5), (1, 6)]),
        (5, 5, 4, [(0, 5)]),
        (3, 2, 1, [(0, 2), (1, 3)]),
    ],
)
def test_pieces_share_exactly_the_overlap(count, limit, overlap, expected):
    assert spans(count, limit, overlap) == expected


def test_pieces_are_as_few_as_can_be_for_every_length():
    for count in range(1, 60):
        for limit in (1, 2, 3, 7, 10):
            for overlap in range(limit):
                found = spans(count, limit, overlap)
                least = max(1, math.ceil((count - overlap) / (limit - overlap)))
                assert len(found) == least
                assert (found[0][0], found[-1][1]) == (0, count)
                assert all(end - first <= limit for first, end in found)
                assert all(a[1] - b[0] == overlap for a, b in pairwise(found))


def test_white_space_stays_inside_and_goes_outside():
    assert cut_text("  a\t b\n\nc  d ", 2) == ["a\t b", "c  d"]
    assert cut_text(" a\n b ", 2) == ["a\n b"]
    assert cut_text(" a\n b ", 0) == [" a\n b "]
    assert cut_text(" \n ", 5) == []


def test_chinese_is_cut_by_tokens_and_rejoins():
    tokenizer = bert()
    text = CHINESE * 3  # 22 tokens each: 66 in all
    pieces = cut_text(text, 20, tokenizer=tokenizer)
    assert [len(piece) for piece in pieces] == [17, 17, 17, 15]
    assert "".join(pieces) == text
    assert [len(tokenizer.tokenize(piece)) for piece in pieces] == [17, 17, 17, 15]


def test_chinese_pieces_overlap_by_tokens():
    assert cut_text(CHINESE[:9], 5, 1, bert()) == [CHINESE[0:5], CHINESE[4:9]]


def test_a_short_chinese_text_stays_in_one_piece():
    assert cut_text(CHINESE, 22, tokenizer=bert()) == [CHINESE]


def test_no_cut_falls_inside_a_character_of_several_tokens():
    tokenizer = byte_level()
    pieces = cut_text(CHINESE, 10, tokenizer=tokenizer)
    assert "".join(pieces) == CHINESE
    assert max(len(tokenizer.tokenize(piece)) for piece in pieces) == 9  # three characters
    assert len(pieces) == 8  # 22 characters of three tokens


def test_a_character_of_more_tokens_than_a_piece_holds_stays_whole():
    assert cut_text("北京市", 2, tokenizer=byte_level()) == ["北", "京", "市"]
    assert cut_text("北京市", 2, 1, tokenizer=byte_level()) == ["北", "京", "市"]


def test_no_cut_falls_before_an_accent_or_inside_a_joined_sign():
    family = "👩‍👩‍👧"
    text = "กำลังที่นี่" * 5 + family * 10 + "👍🏽" * 10 + "e\u0301" * 30
    pieces = cut_text(text, 12, tokenizer=byte_level())
    assert "".join(pieces) == text
    assert len(pieces) > 10
    for piece in pieces:
        assert not unicodedata.category(piece[0]).startswith("M")
        assert piece[0] not in "\u200d🏽" and piece[-1] != "\u200d"


def test_thai_is_cut_by_tokens_although_it_has_some_spaces():
    text = " ".join([THAI] * 4)
    pieces = cut_text(text, 30, tokenizer=byte_level())
    assert len(pieces) > 10
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert len(cut_text(text, 30)) == 1


def test_an_english_text_is_cut_alike_with_and_without_a_tokenizer():
    text = "It's a well-known fact, isn't it? " * 20
    assert cut_text(text, 7, 2, bert()) == cut_text(text, 7, 2)


def test_english_around_a_chinese_paragraph_counts_by_words():
    text = f"{numbered(10)} {CHINESE} {numbered(10)}"  # 10 words, 22 tokens, 10 words
    pieces = cut_text(text, 21, tokenizer=bert())
    assert pieces == [
        f"{numbered(10)} {CHINESE[:11]}",
        f"{CHINESE[11:]} {numbered(10)}",
    ]


def test_a_long_url_counts_as_its_tokens_and_a_short_one_as_a_word():
    short, long = "http://a.b/c", "http://a.b/" + "c" * 60
    assert len(cut_text(f"{short} x y", 3, tokenizer=bert())) == 1
    pieces = cut_text(f"x {long} y", 40, tokenizer=bert())
    assert len(pieces) == 2
    assert "".join(pieces) == f"x {long} y"


def test_base64_is_cut_into_pieces_that_rejoin():
    blob = "QUJD" * 3_000
    pieces = cut_text(blob, 100, tokenizer=byte_level())
    assert "".join(pieces) == blob
    assert {len(piece) for piece in pieces} == {100}


def test_long_stretches_are_tokenised_in_parts(monkeypatch):
    monkeypatch.setattr("rag_finetune.data.cutting.CHARACTERS_PER_CALL", 7)
    assert cut_text(CHINESE, 5, tokenizer=bert()) == re.findall(".{1,5}", CHINESE)
    text = "e\u0301" * 30
    for limit in (1, 9):  # with 1 every place where a cut is allowed is one
        assert all(p[0] == "e" for p in cut_text(text, limit, tokenizer=byte_level()))


def test_what_the_tokenizer_drops_stays_in_the_text():
    text = "北\u200b京\ufeff" * 20  # BERT's normaliser deletes both
    pieces = cut_text(text, 10, tokenizer=bert())
    assert "".join(pieces) == text
    assert len(pieces) == 4


def test_a_tokenizer_that_puts_a_prefix_first_changes_no_text():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("passage: ")
    pieces = cut_text(CHINESE, 30, tokenizer=tokenizer)
    assert "".join(pieces) == CHINESE


def test_a_text_that_holds_long_words_needs_a_tokenizer():
    assert needs_tokenizer("北" * 101, 100)
    assert not needs_tokenizer("北" * 100, 100)
    assert not needs_tokenizer("北" * 101, 0)
    assert needs_tokenizer("a" * 404, 100)
    assert not needs_tokenizer("http://example.org/" + "a" * 200, 100)
    assert not needs_tokenizer("word " * 500, 100)
    assert not needs_tokenizer("In 李白's time. " * 30, 100)


@pytest.mark.parametrize("overlap", [-1, 5, 6])
def test_an_overlap_must_lie_below_the_words_of_a_passage(overlap):
    with pytest.raises(ValueError, match=rf"at least 0 and below passage_words \(5\).*{overlap}\."):
        check_cut(5, overlap)


def test_an_overlap_of_whole_documents_is_an_error():
    check_cut(0, 0)
    with pytest.raises(ValueError, match=r"below passage_words \(0\), found 1"):
        check_cut(0, 1)


def test_a_tokenizer_without_offsets_is_refused():
    check_cut(5, 0, bert())
    slow = _Slow()
    with pytest.raises(ValueError, match="tokenizer must be a fast one, found _Slow"):
        check_cut(5, 0, slow)


class _Slow:
    is_fast = False
