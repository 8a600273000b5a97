"""RagRetrieval: the forward pass of training, with passages that may have been found beforehand."""

import copy
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rag_finetune.encoders.encode import evaluation_mode
from rag_finetune.rag.generation import retrieve
from rag_finetune.rag.scoring import Contexts, score_passages
from rag_finetune.retrieval.retriever import RagIndexRetriever
from rag_finetune.training.health_watch import HealthWatch
from rag_finetune.training.rag_saver import RagSaver


class RagRetrieval(RagSaver):
    """A RagSaver that runs the model on retrieved passages.

    Where neither encoder learns, the passages of the next batch are found in the
    background while a batch is trained on. Batches, passages and losses are the same either way.
    """

    _background: "BackgroundRetrieval | None" = None

    def get_train_dataloader(self) -> DataLoader:
        """Batches to train on; of a frozen question encoder with their passages on the way."""
        self.retriever.expect_contexts(self._n_questions() * self.retriever.n_docs)
        # What a thread of this process finds cannot be sent to or from another process.
        is_sent = self.args.dataloader_num_workers or self.accelerator.dispatch_batches
        if self.args.trainable != ["generator"] or is_sent:
            return self._plain_train_dataloader()
        self.stop_background()
        collate: Any = self.data_collator
        self._background = BackgroundRetrieval(
            self.rag.model, self.retriever, collate, self._question_vectors
        )
        self.data_collator = self._background
        try:
            return self._plain_train_dataloader()
        finally:
            self.data_collator = collate

    def _plain_train_dataloader(self) -> DataLoader:
        """Batches as the collator makes them."""
        return super().get_train_dataloader()

    def _n_questions(self) -> int:
        """Questions that training will ask in this process, each as often as it does."""
        if self.args.max_steps > 0:
            of_a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return self.args.max_steps * of_a_step
        count = 0 if self.train_dataset is None else len(self.train_dataset)  # type: ignore[arg-type]
        return round(count * self.args.num_train_epochs / self.args.world_size)

    def stop_background(self) -> None:
        """End the thread that retrieves, if there is one; what it had not begun is dropped."""
        if self._background is not None:
            self._background.close()
            self._background = None

    def _question_vectors(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the frozen question encoder makes of questions, shape (batch, dim)."""
        encoder, device = self.rag.model.question_encoder, self.args.device
        if not self.retriever.index.manifest.has_vectors:
            return torch.zeros(len(input_ids), self.rag.model.config.retrieval_vector_size)
        with evaluation_mode(encoder), torch.no_grad(), self.accelerator.autocast():
            hidden: Tensor = encoder(
                input_ids.to(device), attention_mask=attention_mask.to(device), return_dict=True
            )[0]
        return hidden

    def _forward(
        self, model: nn.Module, inputs: dict[str, Any], labels: Tensor
    ) -> tuple[Any, Tensor]:
        """The model's outputs on a batch, logits left out, and its doc_scores, shape (batch, K)."""
        given: dict[str, Any]
        contexts = self._contexts_of(inputs)
        if contexts is not None:
            asked, n_docs = None, contexts.doc_scores.shape[1]
            given = contexts.as_inputs(labels.device)
        else:
            asked, n_docs = self._texts_of(inputs), self.retriever.n_docs
            given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            given["output_retrieved"] = True
        with self.target_losses.watch():
            self.retriever.asked = asked
            outputs = model(
                **given,
                decoder_input_ids=self.target_losses.decoder_input_ids(labels),
                use_cache=False,
                n_docs=n_docs,
            )
            self.retriever.asked = None
        if "doc_scores" in given:
            return outputs, given["doc_scores"]
        doc_ids = outputs.retrieved_doc_ids
        rows = doc_ids.cpu().numpy()
        vectors = self._passage_vectors(outputs, rows)
        hidden = outputs.question_encoder_last_hidden_state
        prior = None if asked is None else self.retriever.searcher.prior_scores(asked, rows)
        doc_scores = score_passages(hidden, vectors, doc_ids, prior)
        self.health.note(rows, doc_scores)
        return outputs, doc_scores

    def _contexts_of(self, inputs: dict[str, Any]) -> Contexts | None:
        """What the generator shall read; None where the model is to retrieve it."""
        if "contexts" not in inputs:
            return None
        contexts: Contexts = inputs["contexts"].result()
        return contexts

    @functools.cached_property
    def health(self) -> HealthWatch:
        """Watches the passages of the questions that this process trains on."""
        return HealthWatch(len(self.retriever.index), self._collapses)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with how varied the passages were since the last line; warn where they are not."""
        if "grad_norm" in logs:
            logs |= self.health.take(warn=self.is_world_process_zero())
        super().log(logs, start_time)

    def _passage_vectors(self, outputs: Any, rows: np.ndarray) -> Tensor:
        """Vectors of the passages that were found, shape (batch, K, dim)."""
        # The index's own: under autocast the model's copy may be in bfloat16.
        return torch.from_numpy(self.retriever.index.vectors_at(rows))

    def _texts_of(self, inputs: dict[str, Any]) -> list[str] | None:
        """The questions of a training batch; None where nothing is searched by words."""
        if not self.retriever.searcher.by_words:
            return None
        items: Any = self.train_dataset
        return [items[row]["question"] for row in inputs["rows"].tolist()]


class BackgroundRetrieval:
    """A collator that starts the retrieval for a batch when it is collated.

    The loader collates a batch while the one before it is handed out, so the passages are found
    while that one is trained on. One thread finds them, in order. What goes wrong in it is raised
    where the result is asked for.
    """

    def __init__(
        self,
        model: Any,
        retriever: RagIndexRetriever,
        collate: Callable[[Any], dict[str, Any]],
        question_vectors: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        """Start no thread yet.

        Args:
            model: the RAG model, whose configuration says how contexts are written.
            retriever: its retriever; the thread uses a copy, as tokenizers are not safe to share.
            collate: what makes a batch of items.
            question_vectors: the frozen question encoder; runs in the caller's thread, in which
                modules are put into and out of training mode.
        """
        self._model, self._collate, self._encode = model, collate, question_vectors
        self._retriever = copy.copy(retriever)
        for name in ("question_encoder_tokenizer", "generator_tokenizer"):
            setattr(self._retriever, name, copy.deepcopy(getattr(retriever, name)))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="retrieval")

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch, with the `contexts` of its questions on the way: a future of `Contexts`."""
        batch = self._collate(items)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden, asked = self._encode(ids, mask), [item["question"] for item in items]
        contexts: Future[Contexts] = self._thread.submit(self._find, ids, mask, hidden, asked)
        return {**batch, "contexts": contexts}

    def close(self) -> None:
        """Wait for the search that runs, drop those that have not begun."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _find(
        self, input_ids: Tensor, attention_mask: Tensor, hidden: Tensor, asked: list[str]
    ) -> Contexts:
        retriever = self._retriever
        return retrieve(
            self._model,
            retriever,
            input_ids,
            attention_mask,
            n_docs=retriever.n_docs,
            question_vectors=hidden,
            questions=asked,
        ).contexts
