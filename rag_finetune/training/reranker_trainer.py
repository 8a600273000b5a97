"""RerankerTrainer: a Trainer for a cross-encoder, over lists of one gold passage and others."""

import gc
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import speed_metrics

from rag_finetune.losses.contrastive import contrastive_losses
from rag_finetune.metrics.ranking import mean_reciprocal_rank, recall_at_k
from rag_finetune.retrieval.rerank import Reranker, fit_logits
from rag_finetune.training.callbacks import (
    EpochTeller,
    LearningCheck,
    SaveOnSigterm,
    trainable_table,
)
from rag_finetune.training.progress import ProgressLines
from rag_finetune.training.reranker_arguments import RerankerTrainingArguments
from rag_finetune.training.reranker_data import RerankerCollator, pair_of
from rag_finetune.training.retriever_data import RetrieverExamples


class RerankerTrainer(Trainer):
    """Trains a cross-encoder to put the gold passage first in a list.

    The loss of a question is the cross-entropy of its gold passage in the softmax over the logits
    of its list. Overridden are the loss, the counting of items (questions), evaluation (each
    question's candidates, ranked), and saving, which leaves no pickle.

    Source:
        Nogueira and Cho 2019, arXiv:1901.04085, for the cross-encoder; Gao et al. 2021,
        arXiv:2101.08751, for the loss over one gold passage and hard negatives.
    """

    args: RerankerTrainingArguments
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        reranker: Reranker,
        args: RerankerTrainingArguments,
        examples: RetrieverExamples,
        eval_examples: RetrieverExamples | None = None,
        **kwargs: Any,
    ) -> None:
        """Join a cross-encoder with data.

        Args:
            reranker: what learns.
            args: `RerankerTrainingArguments`.
            examples: questions with gold passages and negatives.
            eval_examples: the same, to validate on; None for none.
            **kwargs: anything else that `Trainer` takes: callbacks, optimizers, …
        """
        if eval_examples is None:
            args.eval_strategy, args.load_best_model_at_end = "no", False
        self.reranker, self.examples, self.eval_examples = reranker, examples, eval_examples
        self.sigterm = SaveOnSigterm()
        reranker.model.config._name_or_path = ""  # a path of this machine, else saved with it
        super().__init__(
            model=reranker.model,
            args=args,
            data_collator=RerankerCollator(examples, reranker),
            train_dataset=examples,
            eval_dataset=eval_examples,
            processing_class=reranker.tokenizer,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False  # the counting below is passed on by name
        for shown in (ProgressCallback, PrinterCallback):
            self.remove_callback(shown)
        self.add_callback(ProgressLines())
        self.add_callback(LearningCheck({"reranker": reranker.model}))
        self.add_callback(EpochTeller(examples))
        self.add_callback(self.sigterm)
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def describe(self) -> str:
        """A table of what trains, with parameter counts and learning rate."""
        parts = {"reranker": self.reranker.model}
        return trainable_table(parts, list(parts), {"reranker": self.args.learning_rate})

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean loss of the questions, as this batch's share of the global batch's.

        Args:
            model: the cross-encoder, possibly wrapped for several processes.
            inputs: what the collator gave.
            return_outputs: also return the logits.
            num_items_in_batch: questions in the global batch; None for those in this batch.

        Returns:
            The loss, a scalar; summed over accumulation steps and averaged over processes it is
            the mean over the global batch.
        """
        logits = fit_logits(model(**inputs["pairs"]).logits).float()
        places = inputs["places"]
        golds = torch.zeros(len(places), dtype=torch.int64, device=places.device)
        losses = contrastive_losses(logits[places], golds, places < 0)  # (Q,)
        loss = losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        loss = loss * self.accelerator.num_processes  # DDP averages gradients
        return (loss, {"logits": logits}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *more: Any) -> Tensor:
        """A training step that stops the run when it cannot be right.

        Raises:
            ValueError: the loss is not finite.
        """
        # Gradients are exchanged by the wrapper: without it processes would drift apart.
        assert self.args.world_size == 1 or model is not self.reranker.model
        loss: Tensor = super().training_step(model, inputs, *more)
        if not torch.isfinite(loss):
            raise ValueError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1}. Lower "
                "--learning_rate, or train in float32."
            )
        return loss

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """Batches of one optimiser step, and the questions they hold over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(len(batch["rows"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(count.unsqueeze(0)).sum()

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Figures of each question's candidates, gold passages and all negatives, as ranked."""
        examples = eval_dataset or self.eval_examples
        if examples is None:
            raise ValueError("Evaluation needs eval_examples.")
        start = time.time()
        figures = ranking_figures(self.reranker, examples)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        metrics |= speed_metrics(metric_key_prefix, start, len(examples))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Write the cross-encoder, the run's history, and last train_results.json."""
        self.save_model(str(self.args.output_dir))
        self.save_state()
        best = {"best_metric": self.state.best_metric, "best_step": self.state.best_global_step}
        known = {name: value for name, value in best.items() if value is not None}
        self.save_metrics("train", {**metrics, **known}, combined=False)

    def end(self) -> None:
        """Finish trackers and processes; nothing can be trained or evaluated afterwards.

        The wrapper that exchanges gradients goes first: see `RagTrainer.end`.
        """
        self.model_wrapped = self.reranker.model
        self.accelerator.free_memory()
        gc.collect()
        super().end()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write an ordinary folder, without the pickle of paths that the Trainer adds."""
        super()._save(output_dir, state_dict)
        (Path(output_dir or str(self.args.output_dir)) / TRAINING_ARGS_NAME).unlink(missing_ok=True)


def ranking_figures(reranker: Reranker, examples: RetrieverExamples) -> dict[str, float]:
    """How a cross-encoder ranks the candidates of questions: all gold passages and negatives.

    Returns:
        loss, the mean cross-entropy of the first gold passage among its negatives in nats; and
        recall@1 and mrr@10 as fractions, where of equal scores gold passages count as the last.
    """
    lists = [
        [*gold, *negatives]
        for gold, negatives in zip(examples.positives, examples.negatives, strict=True)
    ]
    pairs = [
        pair_of(examples, row, passage) for row, found in enumerate(lists) for passage in found
    ]
    scores = torch.from_numpy(reranker.score(pairs)).split([len(found) for found in lists])
    hits, losses = [], []
    for gold, logits in zip(examples.positives, scores, strict=True):
        is_gold = torch.arange(len(logits)) < len(gold)
        order = sorted(zip((-logits).tolist(), is_gold.tolist(), strict=True))
        hits.append([flag for _, flag in order])
        listed = torch.cat([logits[:1], logits[len(gold) :]])
        losses.append(float(listed.logsumexp(0) - listed[0]))
    return {
        "loss": sum(losses) / len(losses),
        "recall@1": recall_at_k(hits, 1),
        "mrr@10": mean_reciprocal_rank(hits, 10),
    }
