"""RagEvaluator: the evaluating half of the trainer, each question counted once."""

import functools
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer
from transformers.modeling_outputs import BaseModelOutput
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from rag_finetune.data.qa import TrainingQuestions, require_columns
from rag_finetune.evaluation.evaluate import RETRIEVAL_DEPTH, answer_batch
from rag_finetune.evaluation.measure import Evaluated, measure
from rag_finetune.index.gold import resolve_positives
from rag_finetune.index.store import PassageIndex
from rag_finetune.metrics.health import ADVISED, collapses
from rag_finetune.rag.causal_targets import CausalTargetLosses
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.generation import Retrieved, retrieve
from rag_finetune.rag.scoring import encode_contexts
from rag_finetune.rag.targets import TargetLosses
from rag_finetune.retrieval.retriever import RagIndexRetriever
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.setup import gather_rows, padded_array


class RagEvaluator(Seq2SeqTrainer):
    """A Seq2SeqTrainer that evaluates RAG models.

    Every question is searched for once; its loss and its answer are kept under its row number, so
    that figures depend neither on the batch size nor on the number of processes.
    """

    args: RagTrainingArguments
    advised_losses: Collection[str] = ADVISED  # those of them that it can take
    rag: Rag
    target_losses: TargetLosses | CausalTargetLosses
    _evaluated: dict[int, Evaluated]
    _questions: Dataset

    @functools.cached_property
    def _first_health(self) -> dict[str, dict[str, float]]:
        """The figures of the first evaluation in training, of each set of questions."""
        return {}

    @property
    def retriever(self) -> RagIndexRetriever:
        """The model's retriever."""
        assert self.rag.retriever is not None  # checked on construction
        return self.rag.retriever

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Questions to evaluate on, given or by name."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            # The Trainer would take the loader that it kept for the questions before these.
            vars(self).get("_eval_dataloaders", {}).pop("eval", None)
            eval_dataset = as_questions(eval_dataset, self.retriever.index)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Questions to predict."""
        questions = as_questions(test_dataset, self.retriever.index)
        return super().get_test_dataloader(questions)  # type: ignore[arg-type]

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[None, None, None]:
        """Retrieve once, take the loss and the answers, keep both under their row number."""
        inputs = self._prepare_inputs(inputs)
        rows = inputs["rows"].tolist()
        examples = [self._questions[row] for row in rows]
        labels = inputs["labels"].masked_fill(inputs["labels"] == -100, self._pad_token_id)
        with torch.no_grad(), self.accelerator.autocast():
            retrieved = retrieve(
                self.rag.model,
                self.retriever,
                inputs["input_ids"],
                inputs["attention_mask"],
                n_docs=self.retriever.n_docs,
                depth=RETRIEVAL_DEPTH,
                questions=[example["question"] for example in examples],
            )
            retrieved, losses = self._losses_of(retrieved, labels)
            if self.args.predict_with_generate:
                thorough = self.args.decoding == "thorough"
                gen_kwargs = gen_kwargs or self._gen_kwargs
                found = answer_batch(self.rag, examples, retrieved, thorough, gen_kwargs)
            else:
                scores = retrieved.contexts.doc_scores.tolist()
                found = list(map(Evaluated, examples, retrieved.passages, scores))
        for row, entry, loss, ids in zip(
            rows, found, losses.tolist(), labels.tolist(), strict=True
        ):
            entry.loss, entry.label_ids = loss, ids
            self._evaluated[row] = entry.without_texts()
        return None, None, None

    def _losses_of(self, retrieved: Retrieved, labels: Tensor) -> tuple[Retrieved, Tensor]:
        """The losses of answers, (batch,), and what was retrieved with its encoder states."""
        # Encoded once, for the loss and for the answers.
        states = encode_contexts(self.rag.model.rag.generator, retrieved.contexts)
        contexts = replace(retrieved.contexts, states=states)
        with self.target_losses.watch():
            outputs = self.rag.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                context_attention_mask=contexts.attention_mask,
                doc_scores=contexts.doc_scores,
                decoder_input_ids=self.target_losses.decoder_input_ids(labels),
                use_cache=False,
                n_docs=contexts.doc_scores.shape[1],
            )
        losses = self._example_losses(outputs.logits, labels, contexts.doc_scores)
        return replace(retrieved, contexts=contexts), losses

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the Trainer's loop, then take the figures over every row once, from all processes."""
        self._evaluated, self._questions = {}, dataloader.dataset.questions  # type: ignore[attr-defined]
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        rows = gather_rows(self._evaluated, len(self._questions))
        self._evaluated = {}
        n_docs = self.retriever.n_docs
        metrics = measure(rows, self.retriever.index, n_docs, ceiling=False)
        before = None
        if self.is_in_train:  # the same questions each time
            before = self._first_health.setdefault(metric_key_prefix, metrics)
        for message in self._collapses(metrics, len(rows), before).values():
            warnings.warn(message, stacklevel=2)
        predictions = padded_array([row.token_ids for row in rows], self._pad_token_id)
        labels = padded_array([row.label_ids for row in rows], self._pad_token_id)
        if self.compute_metrics is not None and self.args.predict_with_generate:
            metrics |= self.compute_metrics(EvalPrediction(predictions, labels))
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions, labels, {**(output.metrics or {}), **named}, len(rows))

    @property
    def _collapses(self) -> Callable[..., dict[str, str]]:
        """`collapses`, with the parts that learn in this run and the losses that it can take."""
        return functools.partial(
            collapses, learning=self.args.trainable, losses=self.advised_losses
        )

    @property
    def _pad_token_id(self) -> int:
        """The generator's padding id."""
        pad_token_id: int = self.rag.model.config.generator.pad_token_id
        return pad_token_id

    def _example_losses(self, logits: Tensor, labels: Tensor, doc_scores: Tensor) -> Tensor:
        """The loss of each example in nats, shape (batch,)."""
        args = self.args
        return self.target_losses.of(
            logits,
            labels,
            doc_scores,
            args.label_smoothing_factor,
            passage_loss_weight=args.passage_loss_weight,
            doubt_weight=args.doubt_weight,
        )


def as_questions(dataset: Any, index: PassageIndex) -> TrainingQuestions:
    """Questions to evaluate on: one item each, its first answer as target, its gold looked up."""
    if isinstance(dataset, TrainingQuestions):
        dataset = dataset.questions
    items: TrainingQuestions = as_items(dataset, "first", 0)
    items.questions = resolve_positives(items.questions, index)
    return items


def eval_sets(dataset: Any, index: PassageIndex) -> dict[str, TrainingQuestions]:
    """Sets of questions to evaluate on by name; a single one has the name ""."""
    if dataset is None:
        return {}
    named = dataset if isinstance(dataset, Mapping) else {"": dataset}
    return {name: as_questions(questions, index) for name, questions in named.items()}


def as_items(dataset: Dataset | TrainingQuestions | None, target: str, seed: int) -> Any:
    """Questions as items with one target each.

    Raises:
        ValueError: it is a dict of several sets, or a column is missing.
    """
    if dataset is None or isinstance(dataset, TrainingQuestions):
        return dataset
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"Expected one set of questions, found a dict with {', '.join(map(str, dataset))}. "
            "Did you mean one of these?"
        )
    require_columns(dataset)
    return TrainingQuestions(dataset, target, seed)
