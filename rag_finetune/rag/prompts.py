"""Prompts and answers of a decoder-only generator as token ids; too long ones lose of passages."""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from rag_finetune.rag.prompt_template import FIELD, Piece, PromptTemplate, render_chat

ANCHOR = "a"  # what an answer is tokenised behind where a prompt ends with its question
ANSWER = "RagAnswerHere"

Passage = Mapping[str, str]


class PromptWriter:
    """Writes prompts as a template says.

    A prompt that is too long loses the ends of its passages, the longest first, never a token of
    the question or of the template. The tokenizer is given to each call, so that threads may use
    copies of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: PromptTemplate) -> None:
        """Lay out the template.

        Args:
            tokenizer: the generator's, a fast one.
            template: what is written.

        Raises:
            ValueError: the tokenizer has no end of sequence, or see `PromptTemplate.pieces`.
        """
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "The generator's tokenizer has no eos_token: the end of an answer could not be "
                "learnt. Set one in its tokenizer_config.json."
            )
        self.template = template
        self.pieces = template.pieces(tokenizer)
        self.end = int(tokenizer.eos_token_id)
        # A chat template writes the tokens that begin a sequence itself.
        self.lead = [] if template.chat else leading_tokens(tokenizer)
        self._before = self._gap(tokenizer)
        if self._before.strip():  # words of a chat template, such as an empty thought: not to learn
            self.pieces.append(Piece(self._before, ""))
            self._before = ""

    def write(
        self,
        tokenizer: PreTrainedTokenizerBase,
        passages: Sequence[Sequence[Passage]],
        questions: Sequence[str],
        limit: int,
    ) -> list[list[int]]:
        """Token ids of one prompt a question.

        Args:
            tokenizer: the generator's.
            passages: title and text of the passages of each prompt.
            questions: of each prompt.
            limit: tokens of a prompt at most.

        Raises:
            ValueError: a question does not fit without any passage.
        """
        filled = [self._fill(*pair) for pair in zip(passages, questions, strict=True)]
        encoded = tokenizer(
            [text for text, _ in filled],
            add_special_tokens=False,
            return_attention_mask=False,
            truncation=False,
            verbose=False,
        )["input_ids"]
        rows = [[*self.lead, *ids] for ids in encoded]
        for row, (text, spans) in enumerate(filled):
            if len(rows[row]) > limit:
                rows[row] = self._cut(tokenizer, text, spans, questions[row], limit)
        return rows

    def answers(
        self, tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]
    ) -> list[list[int]]:
        """Token ids of answers as they stand behind a prompt, each with the end of sequence."""
        tail = self.pieces[-1].text or ANCHOR
        options = {"add_special_tokens": False, "verbose": False}
        before = tokenizer(tail, **options)["input_ids"]
        behind = [tail + self._before + answer.strip() for answer in answers]
        rows = []
        for ids, text in zip(tokenizer(behind, **options)["input_ids"], answers, strict=True):
            own = ids[len(before) :]
            if ids[: len(before)] != before:  # the first token would reach into the prompt
                own = tokenizer(self._before + text.strip(), **options)["input_ids"]
            rows.append([*own, self.end])
        return rows

    def _gap(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """What stands between prompt and answer: what a chat template puts there, or a space.

        Words that it puts there for an answer and not for a prompt belong to the prompt: Qwen3's
        are "<think>" and "</think>" around nothing, which `generate` would otherwise write.
        """
        tail = self.pieces[-1].text
        if not self.template.chat:
            return "" if tail[-1:].isspace() else " "
        said = [{"role": "user", "content": ANCHOR}]
        prompt = render_chat(tokenizer, said, True)
        answered = [*said, {"role": "assistant", "content": ANSWER}]
        whole = render_chat(tokenizer, answered, False)
        if not whole.startswith(prompt):  # what asks for an answer is not what stands before one
            return ""
        return whole[len(prompt) :].partition(ANSWER)[0]

    def _fill(
        self, passages: Sequence[Passage], question: str
    ) -> tuple[str, list[tuple[int, int]]]:
        """A prompt, and where in it each passage stands, as first and last character + 1."""
        text, spans = "", []
        for piece in self.pieces:
            text += piece.text
            if piece.field == "question":
                text += question
            elif piece.field == FIELD["ensemble"]:
                [passage] = passages
                spans.append((len(text), len(text) + len(written(passage))))
                text += written(passage)
            elif piece.field:
                for number, passage in enumerate(passages, start=1):
                    text += f"{chr(10) * 2 if number > 1 else ''}[{number}] "
                    spans.append((len(text), len(text) + len(written(passage))))
                    text += written(passage)
        return text, spans

    def _cut(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text: str,
        spans: Sequence[tuple[int, int]],
        question: str,
        limit: int,
    ) -> list[int]:
        """Token ids of a prompt that is too long, less what is cut from its passages."""
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        inside: list[list[int]] = [
            [at for at, (first, last) in enumerate(offsets) if start <= first and last <= end]
            for start, end in spans
        ]
        lengths = [len(places) for places in inside]
        room = limit - len(self.lead) - (len(ids) - sum(lengths))
        if room < 0:
            raise ValueError(
                f"A prompt without its passages has {limit - room} of the generator's tokens and "
                f"does not fit into max_combined_length {limit}. Raise --max_combined_length, or "
                f"shorten the question or the prompt template. The question: {question[:80]!r}."
            )
        cut = {
            at
            for places, kept in zip(inside, fair_shares(lengths, room), strict=True)
            for at in places[kept:]
        }
        return [*self.lead, *(token for at, token in enumerate(ids) if at not in cut)]


def written(passage: Passage) -> str:
    """A passage as a prompt shows it: the title on a line of its own, where there is one."""
    return f"{passage['title']}\n{passage['text']}" if passage["title"] else passage["text"]


def fair_shares(lengths: Sequence[int], total: int) -> list[int]:
    """How much of each length stays where all of them have room for `total`; the longest give way.

    No length is cut below another that is cut, but by one.
    """
    shares, left = [0] * len(lengths), total
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    for done, place in enumerate(order):
        shares[place] = min(lengths[place], left // (len(order) - done))
        left -= shares[place]
    return shares


def leading_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that a tokenizer puts in front of a text."""
    encoded = tokenizer(ANCHOR, return_special_tokens_mask=True)
    special = encoded["special_tokens_mask"]
    first = special.index(0) if 0 in special else 0
    lead: list[int] = encoded["input_ids"][:first]
    return lead
