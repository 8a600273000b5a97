"""A RagRetriever over an index folder, for Transformers' own RAG models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase, RagConfig, RagRetriever

from rag_finetune.index.store import PassageIndex
from rag_finetune.retrieval.context_parts import Template, doc_lists, squeeze
from rag_finetune.retrieval.reranked import RerankedSearcher
from rag_finetune.retrieval.search import Searcher, clamp_n_docs, search_texts
from rag_finetune.retrieval.token_cache import TokenCache, load_token_cache, quick_state
from rag_finetune.retrieval.way import Retrieval

# From so many contexts a passage on, making a token cache takes less than half of what it saves.
CONTEXTS_PER_PASSAGE = 2


class RagIndexRetriever(RagRetriever):
    """Retrieves from an index folder, and writes what the generator reads.

    Same calls, keys and text format as `transformers.RagRetriever`, with five differences:
    contexts are padded to the longest of the batch instead of `max_combined_length`; a context
    that is too long loses the end of its passage, never of the question; asking for more
    passages than there are gives all of them; one read fetches the passages of a batch; and
    passages may be found by words.

    Attributes:
        index: the opened index folder.
        searcher: searches it by vectors, by words, or by both; another may take its place.
        asked: the questions of the next call, to search for by words; None to read them off its
            token ids, which may have lost something.
    """

    index: PassageIndex
    asked: Sequence[str] | None = None

    def __init__(
        self,
        config: RagConfig,
        question_encoder_tokenizer: PreTrainedTokenizerBase,
        generator_tokenizer: PreTrainedTokenizerBase,
        index: PassageIndex,
        retrieval: Retrieval | None = None,
    ) -> None:
        """Join a model's configuration and tokenizers with an index.

        Args:
            config: gives n_docs, max_combined_length and the separators.
            question_encoder_tokenizer: decodes the question.
            generator_tokenizer: writes the contexts; must be a fast tokenizer.
            index: the opened index folder.
            retrieval: how passages are found, from `choose_retrieval`; None for the index's own.

        Raises:
            ValueError: the dimension differs from the question encoder's, the generator's
                tokenizer is not a fast one, or the index cannot be searched so.
        """
        dimension = index.manifest.dimension
        if index.manifest.has_vectors and config.retrieval_vector_size != dimension:
            raise ValueError(
                f"{index.folder}: expected vectors of dimension {config.retrieval_vector_size}, "
                f"as the question encoder's are, found {dimension}. Build the "
                "index with the context encoder that belongs to the question encoder."
            )
        if not generator_tokenizer.is_fast:
            raise ValueError(
                f"The generator's tokenizer is a {type(generator_tokenizer).__name__}, which has "
                "no fast implementation. Save it with a tokenizer.json and load it again."
            )
        super().__init__(
            config,
            question_encoder_tokenizer,
            generator_tokenizer,
            index=index,
            init_retrieval=False,
        )
        self.searcher: Searcher | RerankedSearcher = Searcher(index, retrieval)
        self._caches: dict[tuple[Any, ...], TokenCache | None] = {}  # None: it cannot be made

    def clamp(self, n_docs: int | None) -> int:
        """n_docs, or the configuration's for None, at most the number of passages."""
        return clamp_n_docs(self.n_docs if n_docs is None else n_docs, len(self.index))

    def expect_contexts(self, count: int) -> None:
        """Say how many contexts it will write, so that passages are tokenised once where it pays.

        Opens the token cache of the index if it has one. Where each passage will be read twice on
        average, one is made first, in the index folder. Contexts are the same either way.
        """
        template = self._template(getattr(self.config.generator, "prefix", None))
        make = count >= CONTEXTS_PER_PASSAGE * len(self.index)
        key = self._key(template)
        if key not in self._caches:
            cache = load_token_cache(self.index, self.generator_tokenizer, template, make=make)
            if cache is not None or make:
                self._caches[key] = cache

    def retrieve_passages(
        self,
        question_hidden_states: np.ndarray,
        n_docs: int,
        questions: Sequence[str] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, list[list[dict[str, str]]]]:
        """Passages of each question, best first, with all their columns.

        Args:
            question_hidden_states: shape (batch, dim).
            n_docs: passages a question; clamped to the number of passages.
            questions: their texts; None where they are not searched by words.

        Returns:
            Their vectors, shape (batch, n_docs, dim) float32 (zeros where the index holds none),
            their rows in the index, shape (batch, n_docs) int64, and n_docs dicts of id,
            document_id, title and text for each question. Row −1, a zero vector and empty texts
            stand where an approximate index, or a search by words, found too few.
        """
        n_docs = self.clamp(n_docs)
        _, doc_ids = self.searcher.search(question_hidden_states, questions, n_docs)
        found, vectors = self.index.gather(doc_ids)
        if not self.index.manifest.has_vectors:
            shape = (*doc_ids.shape, self.config.retrieval_vector_size)
            vectors = np.zeros(shape, np.float32)
        return vectors, doc_ids, [found[i : i + n_docs] for i in range(0, len(found), n_docs)]

    def retrieve(
        self,
        question_hidden_states: np.ndarray,
        n_docs: int,
        questions: Sequence[str] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, list[dict]]:
        """Like `retrieve_passages`, with a dict of title and text lists for each question."""
        found = self.retrieve_passages(question_hidden_states, n_docs, questions)
        vectors, doc_ids, passages = found
        return vectors, doc_ids, [doc_lists(group) for group in passages]

    def postprocess_docs(
        self,
        docs: list[dict],
        input_strings: list[str],
        prefix: str | None,
        n_docs: int,
        return_tensors: str | None = None,
        doc_ids: np.ndarray | None = None,
    ) -> tuple[Any, Any]:
        """What the generator reads: prefix, title, text and question of every passage.

        Args:
            docs: a dict of n_docs titles and texts for each question.
            input_strings: the questions.
            prefix: put in front of every context; None for nothing.
            n_docs: passages a question.
            return_tensors: "pt", "np" or None for lists.
            doc_ids: rows of the passages in the index, shape (batch, n_docs), for the token cache;
                None for passages from elsewhere.

        Returns:
            Token ids and attention mask, shape (batch · n_docs, length of the longest).

        Raises:
            ValueError: a question alone is longer than `config.max_combined_length`.
        """
        del n_docs  # as many as docs holds; the name is Transformers'
        template = self._template(prefix)
        passages, tails = [], []
        for found, question in zip(docs, input_strings, strict=True):
            passages += list(zip(found["title"], found["text"], strict=True))
            tails += [template.tail(question)] * len(found["title"])
        ids: list[list[int] | None] = [None] * len(tails)
        cache = self._caches.get(self._key(template))
        if cache is not None and doc_ids is not None:
            limit, rows = self.config.max_combined_length, doc_ids.reshape(-1).tolist()
            ids = cache.contexts(self.generator_tokenizer, rows, tails, limit)
        missing = [row for row, tokens in enumerate(ids) if tokens is None]
        if missing:
            heads = [template.head(*passages[row]) for row in missing]
            written = self._tokenize_contexts(heads, [tails[row] for row in missing])
            for row, tokens in zip(missing, written, strict=True):
                ids[row] = tokens
        kind = "np" if return_tensors == "pt" else return_tensors  # torch is slow to read lists
        padded = self.generator_tokenizer.pad({"input_ids": ids}, return_tensors=kind)
        matrix, mask = padded["input_ids"], padded["attention_mask"]
        if return_tensors == "pt":
            return torch.from_numpy(matrix), torch.from_numpy(mask)
        return matrix, mask

    def __call__(
        self,
        question_input_ids: torch.Tensor | list[list[int]],
        question_hidden_states: np.ndarray,
        prefix: str | None = None,
        n_docs: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Retrieve for a batch of questions and write the generator's input.

        Args:
            question_input_ids: token ids of the questions, shape (batch, length).
            question_hidden_states: their vectors, shape (batch, dim).
            prefix: put in front of every context; default the generator's own.
            n_docs: passages a question; default the configuration's.
            return_tensors: "pt", "np" or None for lists.

        Returns:
            context_input_ids, context_attention_mask (batch · n_docs, length),
            retrieved_doc_embeds (batch, n_docs, dim) and doc_ids (batch, n_docs).
        """
        n_docs = n_docs if n_docs is not None else self.n_docs
        if prefix is None:
            prefix = getattr(self.config.generator, "prefix", None)
        questions = self.asked
        if questions is None and self.searcher.by_words:
            questions = search_texts(self.question_encoder_tokenizer, question_input_ids)
        vectors, doc_ids, docs = self.retrieve(question_hidden_states, n_docs, questions)
        context_input_ids, context_attention_mask = self.postprocess_docs(
            docs,
            self.question_texts(question_input_ids),
            prefix,
            n_docs,
            return_tensors,
            doc_ids,
        )
        return BatchEncoding(
            {
                "context_input_ids": context_input_ids,
                "context_attention_mask": context_attention_mask,
                "retrieved_doc_embeds": vectors,
                "doc_ids": doc_ids,
            },
            tensor_type=return_tensors,
        )

    def require_room(self, questions: list[str]) -> None:
        """Check that every question fits into the generator's input.

        Raises:
            ValueError: one is longer than `config.max_combined_length` by itself.
        """
        self._tokenize_contexts([""] * len(questions), [self.config.doc_sep + q for q in questions])

    def question_texts(self, question_input_ids: torch.Tensor | list[list[int]]) -> list[str]:
        """Questions as the generator sees them: the question encoder's tokens, decoded."""
        texts: list[str] = self.question_encoder_tokenizer.batch_decode(
            question_input_ids, skip_special_tokens=True
        )
        return texts

    def _template(self, prefix: str | None) -> Template:
        """How contexts are put together."""
        return Template(prefix or "", self.config.title_sep, self.config.doc_sep)

    def _key(self, template: Template) -> tuple[Any, ...]:
        """What a token cache is for."""
        return template, quick_state(self.generator_tokenizer)

    def _tokenize_contexts(self, heads: list[str], tails: list[str]) -> list[list[int]]:
        """Token ids of head + tail, at most max_combined_length; the head gives way."""
        contexts = [squeeze(head + tail) for head, tail in zip(heads, tails, strict=True)]
        ids: list[list[int]] = self.generator_tokenizer(
            contexts, return_attention_mask=False, truncation=False, verbose=False
        )["input_ids"]
        for row, tokens in enumerate(ids):
            if len(tokens) > self.config.max_combined_length:
                tail_length = len(squeeze(tails[row]))
                ids[row] = self._cut_head(contexts[row], tail_length)
        return ids

    def _cut_head(self, context: str, tail_length: int) -> list[int]:
        """Token ids of a context whose last tail_length characters must stay whole."""
        encoding = self.generator_tokenizer(
            context, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
        )
        ids, special = encoding["input_ids"], encoding["special_tokens_mask"]
        tail_start = len(context) - tail_length
        lead = special.index(0)
        in_tail = [
            not is_special and end > tail_start
            for is_special, (_, end) in zip(special, encoding["offset_mapping"], strict=True)
        ]
        first_of_tail = in_tail.index(True) if any(in_tail) else len(ids)
        spare = self.config.max_combined_length - (len(ids) - first_of_tail) - lead
        if spare < 0:
            raise ValueError(
                f"A question of {sum(in_tail)} of the generator's tokens does not fit into "
                f"max_combined_length {self.config.max_combined_length}. Raise "
                "max_combined_length or lower max_question_length. The question: "
                f"{context[tail_start:][:80]!r}."
            )
        return ids[: lead + spare] + ids[first_of_tail:]
