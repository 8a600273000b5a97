"""Questions made of passages."""

import random
import unicodedata

import pytest

from rag_finetune.data.cloze import LONGEST, cloze_questions, is_cloze, sentences_of

RIVER = "The river that divides the old town was bridged in 1742."
MILL = "Its mill, built by Ada Quill (a physician) of Port Wend, ground flour until 1803!"
ROWS = [
    {"id": "a", "title": "Wend", "text": f"{RIVER} Nobody knows why. {MILL}"},
    {"id": "b", "title": "", "text": "Too short."},
    {"id": "c", "title": "", "text": "  ".join(f"word{n}" for n in range(100))},
]


def passages(*texts):
    return [{"id": str(n), "title": "", "text": text} for n, text in enumerate(texts)]


def sentences(text):
    return ["".join(units) for units in sentences_of(text, random.Random(0))]


def test_a_question_is_a_sentence_without_some_of_its_words_and_has_its_passage_as_gold():
    first, last = cloze_questions(ROWS)
    assert first["id"] == "cloze1-a"
    assert (first["title"], first["context"]) == ("Wend", ROWS[0]["text"])
    [answer] = first["answers"]
    assert answer in (RIVER, MILL)
    left = iter(answer.split())
    words = first["question"].split()
    assert all(word in left for word in words)  # in the order of the sentence
    assert 0 < len(words) < len(answer.split())
    assert last["context"] == ROWS[2]["text"]


def test_all_is_kept_where_all_shall_be():
    for row in cloze_questions(ROWS, share_kept=1):
        assert [row["question"]] == row["answers"]


def test_the_share_of_words_that_stay_is_about_what_is_asked_for():
    rows = passages(*[" ".join(f"w{k}" for k in range(40))] * 200)
    for share in (0.1, 0.3, 0.6):
        counts = [len(row["question"].split()) for row in cloze_questions(rows, share_kept=share)]
        assert sum(counts) / (200 * 40) == pytest.approx(share, abs=0.03)


def test_where_hardly_any_word_stays_four_do_and_not_the_sentence():
    rows = passages(*[" ".join(f"w{k}" for k in range(8))] * 50)
    made = [row["question"].split() for row in cloze_questions(rows, share_kept=0.001)]
    assert {len(words) for words in made} == {4}
    assert len({words[0] for words in made}) > 3


def test_a_passage_gives_no_more_questions_than_it_has_sentences():
    rows = list(cloze_questions(ROWS[:1], per_passage=5))
    assert sorted(row["answers"][0] for row in rows) == sorted([RIVER, MILL])
    assert [row["id"] for row in rows] == ["cloze1-a", "cloze2-a"]


def test_what_is_made_of_a_passage_hangs_on_it_and_the_seed_alone():
    first, again = list(cloze_questions(ROWS)), list(cloze_questions(ROWS[::-1]))
    assert first == again[::-1]
    rows = passages(*[ROWS[0]["text"]] * 20)
    one, other = ([row["question"] for row in cloze_questions(rows, seed=n)] for n in (1, 2))
    assert one != other
    assert len(set(one)) > 15  # nor is it the same for each id


def test_an_abbreviation_before_a_small_letter_ends_no_sentence():
    first = "It was, as Quill wrote, ca. two miles from the town."
    assert sentences(f"{first} {RIVER}") == [first, RIVER]


def test_quotes_and_brackets_go_with_their_sentence_and_paragraphs_end_one():
    quoted = '"The river that divides the old town was bridged."'
    bare = "A heading of more than eight words without any stop"
    assert sentences(f"{quoted} {RIVER}") == [f"{quoted} ".strip(), RIVER]
    assert sentences(f"{bare}\n\n{RIVER}") == [bare, RIVER]
    assert sentences(RIVER.replace(" ", "\n ")) == [RIVER]
    small = [text.casefold().rstrip(".") for text in (RIVER, bare)]
    assert sentences("\n \n".join(small)) == small


def test_the_rule_of_a_table_is_no_sentence():
    assert sentences("| --- " * 12) == []
    assert sentences("| The river was bridged | in 1742 |") != []


def test_a_stretch_of_a_sentence_that_is_too_long():
    [units] = sentences_of(ROWS[2]["text"], random.Random(3))
    assert len(units) == LONGEST
    numbers = [int(unit.strip().removeprefix("word")) for unit in units]
    assert numbers == list(range(numbers[0], numbers[0] + LONGEST))
    begins = {
        next(sentences_of(ROWS[2]["text"], random.Random(seed)))[0].strip() for seed in range(20)
    }
    assert len(begins) > 5


def test_scripts_without_spaces_lose_characters():
    found = [
        "\u8fd9\u6761\u6cb3\u628a\u8001\u57ce\u5206\u6210\u4e24\u534a" + end
        for end in "\u3002\uff01\uff1f"
    ]
    assert sentences("".join(found)) == found
    [row] = cloze_questions(passages(found[0]))
    assert 0 < len(row["question"]) < len(found[0]) and " " not in row["question"]


def test_marks_stay_with_the_character_that_they_are_written_on():
    thai = "\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48\u0e21\u0e35\u0e19\u0e49\u0e33"
    thai += "\u0e14\u0e37\u0e48\u0e21\u0e17\u0e35\u0e48\u0e14\u0e35\u0e21\u0e32\u0e01"
    for row in cloze_questions(passages(*[thai] * 50)):
        text = "x" + row["question"]
        for place, sign in enumerate(text):
            if unicodedata.category(sign) == "Mn":
                assert text[place - 1 : place + 1] in thai


def test_words_that_a_character_had_parted_do_not_grow_together():
    text = "\u4f7f\u7528Python\u7684NumPy\u5e93\u8ba1\u7b97\u77e9\u9635"
    made = {row["question"] for row in cloze_questions(passages(*[text] * 200))}
    assert any("Python NumPy" in question for question in made)
    assert not any("PythonNumPy" in question for question in made)


def test_what_is_made_is_told_from_what_people_ask():
    made = list(cloze_questions(ROWS, share_kept=0.5))
    assert made and all(is_cloze(row["question"], row["answers"][0]) for row in made)
    unspaced = list(
        cloze_questions(passages("\u4f7f\u7528\u5e93\u8ba1\u7b97\u77e9\u9635\u7684\u503c\u3002"))
    )
    assert unspaced and all(is_cloze(row["question"], row["answers"][0]) for row in unspaced)
    sentence = "The river Ossel runs for ninety miles into the northern sea."
    assert is_cloze("river runs ninety miles", sentence)
    assert not is_cloze("runs river ninety miles", sentence)  # in another order
    assert not is_cloze("Where does the river Ossel run?", sentence)
    assert not is_cloze("river runs ninety", sentence)  # fewer words than are ever left
    assert not is_cloze("the sea the sea", "the sea")
    long = (
        "Whoever wants to use it is told how: to begin is common, to go on is what it takes. " * 4
    )
    assert not is_cloze("is it common to", long)
    assert not is_cloze("to use it is", long)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_passage": 0}, "per_passage must be at least 1, found 0"),
        ({"share_kept": 0}, "share_kept must be above 0 and at most 1, found 0"),
        ({"share_kept": 1.5}, "found 1.5"),
    ],
)
def test_numbers_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        next(cloze_questions(ROWS, **options))
