"""A retriever that writes prompts for a decoder-only generator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, RagConfig

from rag_finetune.index.store import PassageIndex
from rag_finetune.rag.prompt_template import PromptTemplate
from rag_finetune.rag.prompts import PromptWriter
from rag_finetune.retrieval.retriever import RagIndexRetriever
from rag_finetune.retrieval.way import Retrieval

NOTHING = {"title": "", "text": ""}


class PromptRetriever(RagIndexRetriever):
    """A RagIndexRetriever whose contexts are prompts, padded in front, ready for `generate`.

    Of B questions with K passages, the reading "ensemble" gives B·K prompts, "joined" gives B.
    """

    def __init__(
        self,
        config: RagConfig,
        question_encoder_tokenizer: PreTrainedTokenizerBase,
        generator_tokenizer: PreTrainedTokenizerBase,
        index: PassageIndex,
        retrieval: Retrieval | None = None,
        *,
        template: PromptTemplate,
    ) -> None:
        """Join configuration, tokenizers and index with a template.

        Args:
            config: gives n_docs, and max_combined_length, the tokens of a prompt.
            question_encoder_tokenizer: see `RagIndexRetriever`.
            generator_tokenizer: likewise.
            index: likewise.
            retrieval: likewise.
            template: how prompts are written.

        Raises:
            ValueError: see `RagIndexRetriever` and `PromptWriter`.
        """
        tokenizers = question_encoder_tokenizer, generator_tokenizer
        super().__init__(config, *tokenizers, index, retrieval)
        self.writer = PromptWriter(generator_tokenizer, template)

    def expect_contexts(self, count: int) -> None:
        """Nothing: a cache of passages as token ids is no use, as prompts are tokenised whole."""

    def postprocess_docs(
        self,
        docs: list[dict],
        input_strings: list[str],
        prefix: str | None,
        n_docs: int,
        return_tensors: str | None = None,
        doc_ids: np.ndarray | None = None,
    ) -> tuple[Any, Any]:
        """Prompts of questions and their passages.

        Args:
            docs: a dict of n_docs titles and texts for each question; in a joined prompt those
                without any text are left out.
            input_strings: the questions.
            prefix: not used; the template says what stands in front.
            n_docs: not used: as many as docs holds.
            return_tensors: "pt"; Transformers' other kinds are not made.
            doc_ids: not used.

        Returns:
            Token ids and attention mask, shape (prompts, length of the longest).

        Raises:
            ValueError: a question does not fit, or tensors of another kind are asked for.
        """
        del prefix, n_docs, doc_ids
        if return_tensors != "pt":
            raise ValueError(f'return_tensors must be "pt" for prompts, found "{return_tensors}".')
        groups, questions = [], []
        for found, question in zip(docs, input_strings, strict=True):
            pairs = zip(found["title"], found["text"], strict=True)
            passages = [{"title": title, "text": text} for title, text in pairs]
            if self.writer.template.reading == "joined":
                groups.append([passage for passage in passages if passage != NOTHING])
                questions.append(question)
            else:
                groups += [[passage] for passage in passages]
                questions += [question] * len(passages)
        limit = self.config.max_combined_length
        rows = self.writer.write(self.generator_tokenizer, groups, questions, limit)
        return pad_in_front(rows, pad_id(self.generator_tokenizer))

    def require_room(self, questions: list[str]) -> None:
        """Check that every question fits into a prompt.

        Raises:
            ValueError: one does not, without any passage.
        """
        joined = self.writer.template.reading == "joined"  # each passage has a number
        nothing = [[NOTHING] * (self.config.n_docs if joined else 1)] * len(questions)
        limit = self.config.max_combined_length
        self.writer.write(self.generator_tokenizer, nothing, questions, limit)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What prompts and answers are filled up with: the end of sequence where nothing else is."""
    found = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if found is None else found)


def pad_in_front(rows: Sequence[Sequence[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, shape (rows, longest), padding first."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), fill)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, longest - len(row) :] = torch.tensor(row)
        mask[at, longest - len(row) :] = 1
    return ids, mask
