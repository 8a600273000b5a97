"""RagTrainer: a Seq2SeqTrainer that trains question encoder and generator end to end."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput, get_last_checkpoint

from rag_finetune.data.qa import TrainingQuestions
from rag_finetune.evaluation.evaluate import collator_for
from rag_finetune.rag.causal_targets import CausalTargetLosses
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.heads import require_heads, set_generation_config
from rag_finetune.rag.targets import TargetLosses
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.callbacks import (
    EpochTeller,
    LearningCheck,
    SaveOnSigterm,
    grad_norm_of,
    trainable_table,
)
from rag_finetune.training.context_training import ContextTraining
from rag_finetune.training.options import PARTS, TRAINABLE
from rag_finetune.training.progress import ProgressLines
from rag_finetune.training.rag_evaluator import as_items, eval_sets
from rag_finetune.training.rag_losses import RetrieverLosses
from rag_finetune.training.setup import (
    check_questions,
    checkpointable,
    configure_model,
    split_groups,
)


class RagTrainer(ContextTraining):
    """Trains a RAG model through its marginal likelihood.

    The Transformers Trainer owns the loop. Overridden are the loss (the mean over the examples of
    the global batch, whatever the layout), the counting of items (questions, not label tokens),
    the optimiser's groups (one learning rate a part), evaluation (one search a question, answers
    and losses keyed by row number), and saving (one movable folder).
    """

    args: RagTrainingArguments
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        rag: Rag,
        args: RagTrainingArguments,
        train_dataset: Dataset | TrainingQuestions | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        **kwargs: Any,
    ) -> None:
        """Join a model with its data.

        Args:
            rag: what `load_rag` gave, with its retriever.
            args: `RagTrainingArguments`.
            train_dataset: columns id, question, answers, positive_ids, as from `load_questions`.
            eval_dataset: the same, or a dict of several.
            **kwargs: anything else that `Seq2SeqTrainer` takes: callbacks, optimizers, …

        Raises:
            ValueError: the model was loaded without a retriever, or a length is out of range.
        """
        if rag.retriever is None:
            raise ValueError("Training needs passages: load the model with its index.")
        for name in ("compute_loss_func", "preprocess_logits_for_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{name} cannot be used: the loss is RAG's, and no logits are kept."
                )
        self.rag = rag
        self.target_losses = self._target_losses_of(rag.model)
        configure_model(rag, args)
        if eval_dataset is None and args.eval_strategy != "no":
            warnings.warn(
                "No eval_dataset: nothing is evaluated, the last model is kept.", stacklevel=2
            )
            args.without_evaluation()
        train_dataset = as_items(train_dataset, args.target, args.seed)
        evaluated = eval_sets(eval_dataset, rag.retriever.index)
        check_questions(rag, train_dataset, evaluated, args)
        needed = (rag, args, self.target_losses, train_dataset)
        self.retriever_losses = RetrieverLosses(*needed) if args.retriever_loss else None
        self.sigterm = SaveOnSigterm()
        self._grad_norms: dict[str, float] = {}
        settings = rag.model.rag.generator.generation_config
        collator = collator_for(rag, args.max_question_length, args.max_target_length)
        super().__init__(
            model=rag.model,
            args=args,
            data_collator=kwargs.pop("data_collator", collator),
            train_dataset=train_dataset,
            eval_dataset=evaluated.get("", evaluated or None),
            processing_class=rag.tokenizer,
            **kwargs,
        )
        if self.retriever_losses and self.context_encoder is not None:
            self.retriever_losses.encode = self._fresh_vectors
        # RAG heads take **kwargs, which the Trainer reads as "normalises by num_items_in_batch".
        self.model_accepts_loss_kwargs = False
        rag.model.config.use_cache = True  # the Trainer switched it off, for saved models too
        if args.generation_config is not None:
            given = rag.model.generation_config
            given.update(**settings.to_dict(), defaults_only=True)
            set_generation_config(rag.model, given)
        for shown in (ProgressCallback, PrinterCallback):
            self.remove_callback(shown)
        self.add_callback(ProgressLines())
        watched = {name: self.parts[name] for name in args.trainable}
        self.add_callback(LearningCheck(watched, self.retriever.n_docs))
        if train_dataset is not None:
            self.add_callback(EpochTeller(train_dataset))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def _target_losses_of(self, model: Any) -> TargetLosses | CausalTargetLosses:
        """What takes the losses of answers."""
        require_heads(model)
        return TargetLosses(model)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks by name."""
        parts = {name: getattr(self.rag.model.rag, name) for name in PARTS}
        if self.context_encoder is not None:
            parts["context_encoder"] = self.context_encoder.model
        return {name: parts[name] for name in TRAINABLE if name in parts}

    def describe(self) -> str:
        """A table of what trains, with parameter counts and learning rates."""
        names = TRAINABLE if self.retriever.index.manifest.has_vectors else PARTS
        rates = dict.fromkeys(names, self.args.learning_rate) | self.args.rates()
        return trainable_table(self.parts, self.args.trainable, rates)

    # ---- The loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Negative marginal log-likelihood of a batch, as its share of the global batch's mean.

        Args:
            model: the model, possibly wrapped for several processes.
            inputs: what the collator gave.
            return_outputs: also return the model's outputs, with empty logits.
            num_items_in_batch: examples in the global batch; None for those in this batch.

        Returns:
            The loss, a scalar; summed over accumulation steps and averaged over processes it is
            the mean (or, with loss_reduction "sum", the sum) over the global batch.
        """
        for name, module in self.parts.items():
            if name not in self.args.trainable:
                module.eval()  # no dropout in what does not learn
        labels = inputs["labels"].masked_fill(inputs["labels"] == -100, self._pad_token_id)
        outputs, doc_scores = self._forward(model, inputs, labels)
        losses = self._example_losses(outputs.logits, labels, doc_scores)
        if self.retriever_losses is not None:
            rows = inputs["rows"]
            losses = self.retriever_losses.joined(losses, outputs, doc_scores, labels, rows)
        loss = losses.sum()
        if self.args.loss_reduction == "mean":
            loss = loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)
        if model.training:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """A training step that stops the run when it cannot be right.

        Raises:
            ValueError: the loss is not finite.
        """
        # Gradients are exchanged by the wrapper: without it processes would drift apart.
        assert self.args.world_size == 1 or model is not self.rag.model
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise ValueError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1}. Lower "
                "--learning_rate, or train in float32."
            )
        return loss

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """Batches of one optimiser step, and the examples they hold over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(len(batch["rows"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(count.unsqueeze(0)).sum()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser, its groups split by part, each with its learning rate."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(model)
        for name, rate in self.args.rates().items():
            ours = {id(p) for p in self.parts[name].parameters()}
            optimizer.param_groups[:] = split_groups(optimizer.param_groups, ours, rate)
        return optimizer

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; takes what `Trainer.train` takes."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(str(self.args.output_dir))
        checkpoint = str(resume_from_checkpoint) if resume_from_checkpoint else None
        if checkpoint is not None and self._take_over_if_finished(Path(checkpoint)):
            return TrainOutput(self.state.global_step, 0.0, {})
        self._forget_evaluation()
        try:
            return self._train(checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.stop_background()
            self.sigterm.release()

    def end(self) -> None:
        """Finish trackers and processes; nothing can be trained or evaluated afterwards.

        The wrapper that exchanges gradients goes first: where it is the last to hold the process
        group, torch 2.13 (gloo) now and then waits forever in the group's destructor.
        """
        self.model_wrapped = self.rag.model
        self.accelerator.free_memory()
        gc.collect()
        super().end()

    def _train(self, *args: Any) -> TrainOutput:
        """Train, each sub-model recomputing its activations where that is asked for."""
        if not self.args.activation_checkpointing:
            return super().train(*args)
        options: dict[str, Any] = dict(self.args.activation_checkpointing_kwargs or {})  # type: ignore[arg-type]
        every, offload = options.pop("every_n_layers", 1), options.pop("offload", False)
        for module in checkpointable(self.parts, self.args.trainable):
            module.activation_checkpointing_enable(
                activation_checkpointing_kwargs=options or None,
                every_n_layers=every,
                offload=offload,
            )
        # Transformers 5.23 raises when it is switched on for the RAG model as a whole.
        self.args.activation_checkpointing = False
        try:
            return super().train(*args)
        finally:
            self.args.activation_checkpointing = True

    def _forget_evaluation(self) -> None:
        """Undo what an evaluation before training did to the model.

        It marks the model as prepared, and accelerate 1.15 does not wrap a prepared model for
        several processes again: each would then train a model of its own, without a word.
        """
        if self.model_wrapped is not self.rag.model:
            return  # it was trained before, and is wrapped
        self.accelerator.unwrap_model(self.rag.model, keep_fp32_wrapper=False)
        vars(self.rag.model).pop("_is_accelerate_prepared", None)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the gradient norm of each part, and the learning rates of their own."""
        if "grad_norm" in logs:
            if self.retriever_losses is not None:
                logs |= self.retriever_losses.take_means(self.accelerator.reduce)
            logs |= {f"grad_norm_{name}": norm for name, norm in self._grad_norms.items()}
            for name, rate in self.args.rates().items():
                # The rate that this step had, as learning_rate is; the scheduler has moved on.
                share = logs["learning_rate"] / self.args.learning_rate
                logs[f"learning_rate_{name}"] = share * rate
        super().log(logs, start_time)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm before clipping; notes each part's, scaled back by what clipping took."""
        total = super()._get_grad_norm(model, grad_norm)
        norms = {name: grad_norm_of(self.parts[name]) for name in self.args.trainable}
        clipped = sum(norm**2 for norm in norms.values()) ** 0.5
        scale = float(total) / clipped if clipped > 0 else 1.0
        self._grad_norms = {name: norm * scale for name, norm in norms.items()}
        return total
