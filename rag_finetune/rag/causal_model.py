"""A RAG model with a decoder-only generator: what the RAG heads are for BART and T5."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, RagConfig
from transformers.modeling_outputs import ModelOutput

from rag_finetune.losses.likelihood import target_log_probs
from rag_finetune.rag.packing import Packing, lay_out
from rag_finetune.rag.prompt_template import PromptTemplate
from rag_finetune.rag.scoring import Contexts, score_passages
from rag_finetune.retrieval.context_parts import doc_lists

if TYPE_CHECKING:  # it needs datasets, which the model does not
    from rag_finetune.rag.prompt_retriever import PromptRetriever

IGNORED = -100  # stands in labels where there is no token


@dataclass
class CausalRagOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        logits: at the places that predict a token of an answer, and only there, shape (R, V):
            the tokens of the first prompt's answer in order, then of the second's, and so on.
        doc_scores: inner products of question and passage, shape (B, K).
        retrieved_doc_ids: rows of the passages in the index, shape (B, K), −1 for none; None where
            prompts were given.
    """

    logits: Tensor | None = None
    doc_scores: Tensor | None = None
    retrieved_doc_ids: Tensor | None = None


class CausalRag(nn.Module):
    """A question encoder and a decoder-only generator.

    Attributes:
        config: a RagConfig that holds those of both networks, n_docs and max_combined_length. It
            stands in no file: the checkpoint writes down what it was made from.
        question_encoder: gives the vectors of questions.
        generator: any model of AutoModelForCausalLM.
        template: how prompts are written.
        max_target_length: tokens of an answer at most, its end included.
        parts: names of the networks, of each role, where it was joined from these; else empty.
        packing: how short prompts with given answers share a row; None where they do not.
        retriever: finds passages and writes prompts; None for none.
    """

    def __init__(
        self,
        config: RagConfig,
        question_encoder: PreTrainedModel,
        generator: Any,
        template: PromptTemplate,
        max_target_length: int,
    ) -> None:
        """Join the networks."""
        super().__init__()
        self.config: Any = config
        self.question_encoder: Any = question_encoder
        self.generator = generator
        self.template, self.max_target_length = template, max_target_length
        self.parts: dict[str, str] = {}
        self.packing: Packing | None = None
        self.retriever: PromptRetriever | None = None

    @property
    def rag(self) -> "CausalRag":
        """Itself: where Transformers' heads keep their networks."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        found: torch.device = self.generator.device
        return found

    @property
    def generation_config(self) -> GenerationConfig:
        """The generator's generation settings."""
        found: GenerationConfig = self.generator.generation_config
        return found

    @generation_config.setter
    def generation_config(self, settings: GenerationConfig) -> None:
        self.generator.generation_config = settings

    def set_retriever(self, retriever: "PromptRetriever") -> None:
        """Keep the retriever that a forward pass asks."""
        self.retriever = retriever

    def forward(
        self,
        labels: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        questions: Sequence[str] | None = None,
        context_input_ids: Tensor | None = None,
        context_attention_mask: Tensor | None = None,
        doc_scores: Tensor | None = None,
        n_docs: int | None = None,
    ) -> CausalRagOutput:
        """Logits of given answers behind their prompts.

        Args:
            labels: token ids of answers, the end included, shape (B, T), −100 where there is none.
            input_ids: questions for the question encoder, shape (B, length); with the two that
                follow in place of what comes behind them.
            attention_mask: their mask.
            questions: their texts.
            context_input_ids: prompts, as from the retriever, shape (B·P, length).
            context_attention_mask: their mask.
            doc_scores: of the passages in them, shape (B, K).
            n_docs: passages a question; None for the configuration's.
        """
        doc_ids = None
        if context_input_ids is None:
            assert input_ids is not None and questions is not None
            n_docs = self.config.n_docs if n_docs is None else n_docs
            contexts, doc_ids = self._retrieve(input_ids, attention_mask, questions, n_docs)
        else:
            assert context_attention_mask is not None and doc_scores is not None
            contexts = Contexts(context_input_ids, context_attention_mask, doc_scores)
        return CausalRagOutput(self.answer_logits(contexts, labels), contexts.doc_scores, doc_ids)

    def answer_logits(self, contexts: Contexts, labels: Tensor) -> Tensor:
        """Logits at the places that predict the tokens of answers.

        Each prompt is followed by its answer and padded behind it, where nothing that counts can
        see the padding; or, with `packing`, by others, which neither sees. The output layer reads
        the places that count alone.

        Args:
            contexts: prompts, P a question.
            labels: see `forward`.

        Returns:
            Shape (R, V); see `CausalRagOutput`.
        """
        prompts = len(contexts.input_ids) // len(labels)
        answers = labels.repeat_interleave(prompts, 0)  # (B·P, T)
        rows, places = [], []
        pairs = zip(contexts.input_ids, contexts.attention_mask, answers, strict=True)
        for ids, mask, answer in pairs:
            prompt, answer = ids[mask.bool()], answer[answer != IGNORED]
            rows.append(torch.cat([prompt, answer]))
            # What predicts a token stands one place before it.
            places.append(torch.arange(len(answer)) + len(prompt) - 1)
        layout = lay_out(rows, self.packing)
        flat = torch.cat([at + start for start, at in zip(layout.starts, places, strict=True)])
        with self._only(flat.to(labels.device)):
            logits: Tensor = self.generator(**layout.inputs, use_cache=False).logits
        return logits[0]

    def token_log_probs(self, contexts: Contexts, labels: Tensor) -> Tensor:
        """Log p(y_t|x,z,y_<t) of given answers, in nats, shape (B, P, T); 0 where no token is.

        Args:
            contexts: prompts, P a question.
            labels: see `forward`.
        """
        return spread(self.answer_logits(contexts, labels), labels)

    @contextmanager
    def _only(self, places: Tensor) -> Iterator[None]:
        """Let the output layer read these places of the flattened batch, as one row."""
        head = self.generator.get_output_embeddings()

        def choose(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (args[0].flatten(0, 1)[places].unsqueeze(0),)

        hook = head.register_forward_pre_hook(choose)
        try:
            yield
        finally:
            hook.remove()

    def _retrieve(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        questions: Sequence[str],
        n_docs: int,
    ) -> tuple[Contexts, Tensor]:
        """Prompts of questions, whose doc_scores have gradients, and rows of their passages."""
        retriever = self.retriever
        assert retriever is not None  # checked by the trainer
        hidden = self.question_encoder(input_ids, attention_mask=attention_mask)[0]
        texts = questions if retriever.searcher.by_words else None
        found = retriever.retrieve_passages(hidden.detach().float().cpu().numpy(), n_docs, texts)
        vectors, rows, passages = found
        prior = retriever.searcher.prior_scores(questions, rows) if texts else None
        doc_ids = torch.from_numpy(rows)
        scores = score_passages(hidden, torch.from_numpy(vectors), doc_ids, prior)
        ids, mask = retriever.postprocess_docs(
            [doc_lists(group) for group in passages], list(questions), None, n_docs, "pt"
        )
        return Contexts(ids.to(input_ids.device), mask.to(input_ids.device), scores), doc_ids


def spread(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of the tokens of answers, from the logits that `answer_logits` gives.

    Args:
        logits: shape (R, V).
        labels: token ids, shape (B, T), −100 where there is none.

    Returns:
        Nats, float32 at least, shape (B, P, T), P = prompts a question; 0 where no token is.
    """
    counted = (labels != IGNORED).unsqueeze(1)  # (B, 1, T)
    prompts = len(logits) // int(counted.sum())
    counted = counted.expand(-1, prompts, -1)  # (B, P, T)
    targets = labels.unsqueeze(1).expand_as(counted)[counted]  # (R,)
    chosen = target_log_probs(logits, targets)
    return chosen.new_zeros(counted.shape).masked_scatter(counted, chosen)
