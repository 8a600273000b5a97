import pytest
import tiny_causal

from rag_finetune.rag.prompt_template import PromptTemplate, choose_template, template_of


def test_a_plain_template_is_cut_at_its_fields_and_double_braces_are_braces():
    template = PromptTemplate("{{a}} {passage} // {question} /")
    pieces = [tuple(piece) for piece in template.pieces(tiny_causal.tokenizer())]
    assert pieces == [("{a} ", "passage"), (" // ", "question"), (" /", "")]


def test_a_chat_template_stands_around_what_the_user_says():
    words = tiny_causal.tokenizer()
    words.chat_template = tiny_causal.CHAT
    pieces = PromptTemplate("{passage} // {question} ?", chat=True).pieces(words)
    assert [tuple(piece) for piece in pieces] == [
        ("<user> ", "passage"),
        (" // ", "question"),
        (" ? </s> <assistant> ", ""),
    ]


@pytest.mark.parametrize(
    ("text", "reading", "message"),
    [
        ("{question}", "ensemble", r"expected \{passage\} once.*found \{question\}"),
        ("{passage}", "ensemble", r"found \{passage\}"),
        ("{passage} {passage} {question}", "ensemble", r"expected \{passage\} once"),
        ("{passages} {question}", "ensemble", r"reading ensemble; found \{passages\}"),
        ("{passage} {question}", "joined", r"expected \{passages\} once"),
        ("{passage} {question} {answer}", "ensemble", r"\{answer\}"),
        ("{passage} {question", "ensemble", r"prompt_template: .*expected '\}'"),
        ("{passage} {question:>9}", "ensemble", r'a plain field .* found "question"'),
        ("{passage} {question.x}", "ensemble", r'found "question.x"'),
        ("{passage} {question}", "both", r'reading must be ensemble or joined, found "both"'),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(text, reading, message):
    with pytest.raises(ValueError, match=message):
        PromptTemplate(text, reading=reading)


def test_a_question_may_stand_twice():
    PromptTemplate("{question} {passage} {question}")


def test_the_default_is_a_chat_where_the_tokenizer_has_a_template():
    plain, chat = tiny_causal.tokenizer(), tiny_causal.tokenizer()
    chat.chat_template = tiny_causal.CHAT
    assert choose_template(plain) == PromptTemplate("{passage}\n\nQuestion: {question}\nAnswer:")
    assert choose_template(chat).chat is True
    assert "{passages}" in choose_template(chat, reading="joined").text
    assert choose_template(chat, chat=False).chat is False


def test_a_chat_without_a_template_is_refused():
    with pytest.raises(ValueError, match=r"has no chat template.*--chat false"):
        choose_template(tiny_causal.tokenizer(), chat=True)


def test_a_chat_template_that_drops_what_is_said_is_refused():
    words = tiny_causal.tokenizer()
    words.chat_template = "<user> nothing"
    with pytest.raises(ValueError, match=r"do not come back once each.*--chat false"):
        choose_template(words)


def test_what_is_written_down_comes_back():
    template = PromptTemplate("{passages} {question}", chat=True, reading="joined")
    assert template_of(template.data(), "joined", "x.json") == template


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", r'x.json: "prompt" must be an object with template and chat, found the string'),
        ({"template": "{passage}{question}"}, r'x.json: "prompt" must be an object'),
        ({"template": 7, "chat": False}, r'prompt "template" must be a string, found 7'),
        ({"template": "{passage}{question}", "chat": 1}, r'"chat" must be true or false, found 1'),
        ({"template": "{question}", "chat": False}, r"x.json: prompt_template: expected"),
    ],
)
def test_a_damaged_description_names_file_and_key(data, message):
    with pytest.raises(ValueError, match=message):
        template_of(data, "ensemble", "x.json")
