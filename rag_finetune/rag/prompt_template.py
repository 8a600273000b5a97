"""What a decoder-only generator is asked: a text with places for passages and question."""

import re
from dataclasses import dataclass
from string import Formatter
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from rag_finetune.files import describe

READINGS = ("ensemble", "joined")
FIELD = {"ensemble": "passage", "joined": "passages"}  # what a template of each reading holds
DEFAULT = "{{{field}}}\n\nQuestion: {{question}}\nAnswer:"
DEFAULT_CHAT = "{{{field}}}\n\nAnswer in a few words: {{question}}"
SLOT = "RagSlot{}Here"  # stands for a place while a chat template is filled in
HERE = re.compile(r"RagSlot(\d+)Here")


class Piece(NamedTuple):
    """A literal text, and the name of the field behind it; empty behind the last text."""

    text: str
    field: str


@dataclass(frozen=True)
class PromptTemplate:
    """How a prompt is written.

    Attributes:
        text: with {question}, which may be repeated, and {passage} or {passages}, once; {{ and }}
            stand for braces.
        chat: the text is what the user says in the tokenizer's chat template.
        reading: "ensemble" gives each passage a prompt of its own, "joined" all of them one.
    """

    text: str
    chat: bool = False
    reading: str = "ensemble"

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ValueError: a field is missing or unknown, the passage there twice, or the reading is
                none of the two.
        """
        if self.reading not in READINGS:
            raise ValueError(
                f'reading must be {" or ".join(READINGS)}, found "{self.reading}". Write one.'
            )
        fields = [piece.field for piece in _parse(self.text) if piece.field]
        own = FIELD[self.reading]
        if {*fields} != {"question", own} or fields.count(own) != 1:
            found = ", ".join(f"{{{field}}}" for field in fields) or "none"
            raise ValueError(
                f"prompt_template: expected {{{own}}} once and {{question}}, for the reading "
                f"{self.reading}; found {found}. Write other braces as {{{{ and }}}}."
            )

    def data(self) -> dict[str, Any]:
        """What a checkpoint writes down of it."""
        return {"template": self.text, "chat": self.chat}

    def pieces(self, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
        """The prompt's literal texts and fields, in order, the chat template around them.

        Raises:
            ValueError: the tokenizer has no chat template, or one that drops what the user says.
        """
        pieces = _parse(self.text)
        if not self.chat:
            return pieces
        fields = [piece.field for piece in pieces if piece.field]
        said = "".join(
            piece.text + (SLOT.format(number) if piece.field else "")
            for number, piece in enumerate(pieces)
        )
        rendered = render_chat(tokenizer, [{"role": "user", "content": said}], True)
        texts = HERE.split(rendered)  # text, number, text, number, …, text
        if [int(number) for number in texts[1::2]] != list(range(len(fields))):
            raise ValueError(
                "The chat template of the generator's tokenizer changes what the user says: its "
                "passages and question do not come back once each. Leave it out: --chat false."
            )
        return [*map(Piece, texts[::2], fields), Piece(texts[-1], "")]


def choose_template(
    tokenizer: PreTrainedTokenizerBase,
    text: str | None = None,
    chat: bool | None = None,
    reading: str | None = None,
) -> PromptTemplate:
    """The template that was asked for, its gaps filled.

    Args:
        tokenizer: the generator's.
        text: see `PromptTemplate`; None for a default.
        chat: None to use the tokenizer's chat template where it has one.
        reading: None for "ensemble".

    Raises:
        ValueError: see `PromptTemplate`.
    """
    reading = reading or "ensemble"
    if chat is None:
        chat = bool(getattr(tokenizer, "chat_template", None))
    default = (DEFAULT_CHAT if chat else DEFAULT).format(field=FIELD.get(reading, ""))
    template = PromptTemplate(default if text is None else text, chat, reading)
    template.pieces(tokenizer)  # what is wrong with a chat template shows now
    return template


def template_of(data: Any, reading: Any, place: str) -> PromptTemplate:
    """The template that a checkpoint wrote down.

    Args:
        data: its key "prompt".
        reading: its key "reading".
        place: the file, for messages.

    Raises:
        ValueError: a value is of another kind, or see `PromptTemplate`.
    """
    known = {"template": str, "chat": bool}
    if not isinstance(data, dict) or data.keys() != known.keys():
        raise ValueError(
            f'{place}: "prompt" must be an object with template and chat, found {describe(data)}.'
        )
    for key, kind in known.items():
        if not isinstance(data[key], kind):
            name = "a string" if kind is str else "true or false"
            raise ValueError(f'{place}: prompt "{key}" must be {name}, found {data[key]!r}.')
    try:
        return PromptTemplate(data["template"], data["chat"], str(reading))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], ask: bool
) -> str:
    """Messages in the tokenizer's chat template; ask: up to where the assistant would begin.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "The generator's tokenizer has no chat template. Give a plain prompt: --chat false."
        )
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=ask, tokenize=False)
    return str(rendered)


def _parse(text: str) -> list[Piece]:
    """Literal texts and fields of a format string; the last piece has no field.

    Raises:
        ValueError: braces are not closed, or a field has more than a name.
    """
    try:
        found = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(
            f"prompt_template: {error}. Write braces that are no field as {{{{ and }}}}."
        ) from error
    pieces, literal = [], ""
    for before, field, spec, conversion in found:
        literal += before
        if field is None:
            continue
        if spec or conversion or not field.isidentifier():
            raise ValueError(
                f'prompt_template: expected a plain field such as {{question}}, found "{field}".'
            )
        pieces.append(Piece(literal, field))
        literal = ""
    return [*pieces, Piece(literal, "")]
