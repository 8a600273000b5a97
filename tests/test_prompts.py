"""Prompts are cut in their passages alone, and answers are tokenised as they go on."""

import pytest
import tiny_causal
import tiny_tokenizers

from rag_finetune.rag.prompt_template import PromptTemplate
from rag_finetune.rag.prompts import PromptWriter, fair_shares, leading_tokens, written

ADA = {"title": "house of ada", "text": "the house of ada is red . ada has a dog"}
BEN = {"title": "", "text": "ben lives in rome"}
QUESTION = "what is the house of ada ?"


def writer_of(tokenizer, text=tiny_causal.TEMPLATE, **options):
    return PromptWriter(tokenizer, PromptTemplate(text, **options))


def test_a_prompt_that_fits_is_written_whole():
    words = tiny_causal.tokenizer()
    [ids] = writer_of(words).write(words, [[ADA]], [QUESTION], 40)
    assert words.decode(ids) == f"house of ada {ADA['text']} // {QUESTION} /"


def test_a_title_stands_on_a_line_of_its_own_and_none_takes_none():
    assert written(ADA) == "house of ada\nthe house of ada is red . ada has a dog"
    assert written(BEN) == "ben lives in rome"


@pytest.mark.parametrize("limit", range(9, 24))
def test_what_is_too_long_loses_the_end_of_its_passage(limit):
    words = tiny_causal.tokenizer()
    [ids] = writer_of(words).write(words, [[ADA]], [QUESTION], limit)
    tail = words(f"// {QUESTION} /", add_special_tokens=False)["input_ids"]
    passage = words(written(ADA), add_special_tokens=False)["input_ids"]
    assert len(ids) == min(limit, len(passage) + len(tail))
    assert ids == passage[: limit - len(tail)] + tail


def test_a_question_without_room_is_an_error_that_names_it():
    words = tiny_causal.tokenizer()
    with pytest.raises(ValueError, match=r"has 9 of .* fit into max_combined_length 8.*of ada \?"):
        writer_of(words).write(words, [[ADA]], [QUESTION], 8)


def test_the_longest_passages_of_a_joined_prompt_give_way_first():
    words = tiny_causal.tokenizer()
    writer = writer_of(words, tiny_causal.JOINED, reading="joined")
    [whole] = writer.write(words, [[ADA, BEN]], [QUESTION], 100)
    assert words.decode(whole) == (
        f"[1] house of ada {ADA['text']} [2] {BEN['text']} // {QUESTION} /"
    )
    [cut] = writer.write(words, [[ADA, BEN]], [QUESTION], len(whole) - 8)
    assert words.decode(cut) == f"[1] house of ada the house of [2] {BEN['text']} // {QUESTION} /"
    [less] = writer.write(words, [[ADA, BEN]], [QUESTION], len(whole) - 14)
    assert words.decode(less) == f"[1] house of [2] ben lives // {QUESTION} /"


@pytest.mark.parametrize(
    ("lengths", "total", "shares"),
    [
        ([5, 3, 9], 17, [5, 3, 9]),
        ([5, 3, 9], 12, [4, 3, 5]),
        ([5, 3, 9], 4, [1, 1, 2]),
        ([5], 0, [0]),
        ([], 3, []),
    ],
)
def test_shares_are_fair(lengths, total, shares):
    assert fair_shares(lengths, total) == shares


def test_special_tokens_stand_in_front_and_never_between_prompt_and_answer():
    words = tiny_tokenizers.byte_level_bpe(tiny_tokenizers.PLAIN, 400)  # <s> … </s>
    assert leading_tokens(words) == [0]
    writer = writer_of(words)
    [ids] = writer.write(words, [[ADA]], [QUESTION], 200)
    assert ids[0] == 0 and words.eos_token_id not in ids
    [answer] = writer.answers(words, ["red"])
    assert answer[-1] == words.eos_token_id and words.eos_token_id not in answer[:-1]


@pytest.mark.parametrize("make", [tiny_tokenizers.byte_level_bpe, tiny_tokenizers.byte_fallback])
@pytest.mark.parametrize("text", ["{passage} // {question} /", "{passage}\n{question}\n"])
def test_an_answer_has_the_tokens_that_it_has_behind_its_prompt(make, text):
    words = make(tiny_tokenizers.PLAIN, 400)
    writer = writer_of(words, text)
    [prompt] = writer.write(words, [[ADA]], [QUESTION], 400)
    [answer] = writer.answers(words, ["the red house"])
    gap = "" if text.endswith("\n") else " "
    whole = text.format(passage=written(ADA), question=QUESTION) + gap + "the red house"
    expected = words(whole, add_special_tokens=False)["input_ids"]
    assert [*prompt[len(writer.lead) :], *answer[:-1]] == expected


def test_what_a_chat_template_puts_before_an_answer_alone_ends_the_prompt():
    words = tiny_causal.tokenizer()
    words.chat_template = tiny_causal.CHAT.replace("<assistant> {% endif", "{% endif")
    writer = writer_of(words, chat=True)
    [ids] = writer.answers(words, ["red"])
    assert words.convert_ids_to_tokens(ids) == ["red", "</s>"]
    [prompt] = writer.write(words, [[ADA]], [QUESTION], 100)
    assert words.convert_ids_to_tokens(prompt)[-2:] == ["</s>", "<assistant>"]


def test_an_empty_thought_of_a_chat_template_is_neither_learnt_nor_answered():
    """As Qwen3's template does: it stands before an answer, and not where one is asked for."""
    words = tiny_tokenizers.byte_level_bpe(tiny_tokenizers.PLAIN, 400)
    words.chat_template = (
        "{% for m in messages %}[{{ m.role }}]\n{% if m.role == 'assistant' %}<think>\n\n</think>"
        "\n\n{% endif %}{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]\n{% endif %}"
    )
    writer = writer_of(words, chat=True)
    [answer] = writer.answers(words, ["Paris"])
    assert words.decode(answer, skip_special_tokens=True) == "Paris"
    [prompt] = writer.write(words, [[ADA]], [QUESTION], 400)
    assert words.decode(prompt).endswith("[assistant]\n<think>\n\n</think>\n\n")


def test_a_tokenizer_without_an_end_is_refused():
    words = tiny_causal.tokenizer()
    words.eos_token = None
    with pytest.raises(ValueError, match=r"has no eos_token"):
        writer_of(words)
