"""RetrieverTrainer: a Trainer for question and context encoder, by contrast."""

import gc
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import speed_metrics

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.build import build_index
from rag_finetune.index.reencode import reencode_index
from rag_finetune.index.store import PassageIndex
from rag_finetune.losses.contrastive import (
    contrastive_losses,
    distillation_losses,
    reverse_losses,
)
from rag_finetune.training.biencoder import BiEncoder
from rag_finetune.training.callbacks import (
    EpochTeller,
    LearningCheck,
    SaveOnSigterm,
    trainable_table,
)
from rag_finetune.training.gathering import gather_rows, rank
from rag_finetune.training.lora import add_adapters
from rag_finetune.training.progress import ProgressLines
from rag_finetune.training.retriever_arguments import RetrieverTrainingArguments
from rag_finetune.training.retriever_collator import RetrieverCollator
from rag_finetune.training.retriever_data import RetrieverExamples
from rag_finetune.training.retriever_evaluation import retrieval_figures
from rag_finetune.training.retriever_saving import save_encoders, without_scale
from rag_finetune.training.teacher import make_teacher
from rag_finetune.training.topics import make_topics

NORMALISED_TEMPERATURE = 0.05  # inner products of vectors of length 1 are within −1 to 1


class RetrieverTrainer(Trainer):
    """Trains question and context encoder by contrast of each positive with all other passages.

    The Transformers Trainer owns the loop. Overridden are the loss, order and counting of items
    (questions), evaluation (an exact search over all passages), and saving (two ordinary folders).
    """

    args: RetrieverTrainingArguments
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        question_encoder: TextEncoder,
        context_encoder: TextEncoder,
        args: RetrieverTrainingArguments,
        examples: RetrieverExamples,
        *,
        passages: Dataset | None = None,
        eval_questions: Dataset | None = None,
        tied: bool = False,
        **kwargs: Any,
    ) -> None:
        """Join encoders with data.

        Args:
            question_encoder: reads the questions.
            context_encoder: reads the passages; where the two are tied, what `tie` left.
            args: `RetrieverTrainingArguments`.
            examples: what is trained on.
            passages: what validation searches, all of it.
            eval_questions: as from `resolve_positives`, with ids of `passages`; None for none.
            tied: the two encoders share one network.
            **kwargs: anything else that `Trainer` takes: callbacks, optimizers, …

        Raises:
            OSError, ValueError: teacher or topics cannot be had; see `make_teacher`, `make_topics`.
        """
        if eval_questions is None and args.eval_strategy != "no":
            args.without_evaluation()
        self.encoders = {"question_encoder": question_encoder, "context_encoder": context_encoder}
        self.examples, self.passages, self.tied = examples, passages, tied
        self.scale = without_scale(question_encoder.model)
        self.temperature = args.temperature or _default_temperature(question_encoder)
        self.teacher = make_teacher(examples, args, self.encoders, self.temperature)
        self.topics = make_topics(examples, args, context_encoder)
        networks: list[Any] = [question_encoder.model, None if tied else context_encoder.model]
        for network in networks:
            if network is not None and args.lora_rank is not None:
                add_adapters(network, args.lora_rank)
        biencoder = BiEncoder(networks[0], networks[1], args.grad_cache_chunk is not None)
        self.sigterm = SaveOnSigterm()
        super().__init__(
            model=biencoder,
            args=args,
            data_collator=RetrieverCollator(
                examples, question_encoder, context_encoder, args.grad_cache_chunk
            ),
            train_dataset=examples,
            eval_dataset=eval_questions,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = False  # the counting below is passed on by name
        self.biencoder = biencoder
        for shown in (ProgressCallback, PrinterCallback):
            self.remove_callback(shown)
        self.add_callback(ProgressLines())
        self.add_callback(LearningCheck(biencoder.parts))
        self.add_callback(EpochTeller(examples))
        self.add_callback(self.sigterm)
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def train(self, resume_from_checkpoint: Any = None, *more: Any, **options: Any) -> Any:
        """Train; what was there before it stands in the log of a run that goes on."""
        self.args.eval_on_start &= not resume_from_checkpoint
        return super().train(resume_from_checkpoint, *more, **options)

    def describe(self) -> str:
        """A table of what trains, with parameter counts and learning rate; then teacher, topics."""
        parts = self.biencoder.parts
        rates = dict.fromkeys(parts, self.args.learning_rate)
        more = (self.teacher, self.topics.describe() if self.topics else "")
        return "\n".join(filter(None, (trainable_table(parts, list(parts), rates), *more)))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.topics or super()._get_train_sampler(train_dataset)

    # ---- The loss ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean loss of the questions, as this batch's share of the global batch's.

        Args:
            model: the two encoders, possibly wrapped for several processes.
            inputs: what the collator gave.
            return_outputs: also return the vectors.
            num_items_in_batch: questions in the global batch; None for those in this batch.

        Returns:
            The loss, a scalar; summed over accumulation steps and averaged over processes it is
            the mean over the global batch.
        """
        # Before the network runs: on a GPU, asking for row numbers waits for all that was begun.
        rows = gather_rows(inputs["rows"]).tolist()
        positives = gather_rows(inputs["positives"]).tolist()
        passages = gather_rows(inputs["passage_rows"]).tolist()
        vectors = model(inputs["questions"], inputs["passages"])
        with torch.autocast(vectors[0].device.type, enabled=False):
            asked, candidates = (part.float() for part in vectors)
            losses = self._losses(asked, candidates, rows, positives, passages)
        loss = losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        loss = loss * self.accelerator.num_processes  # DDP averages gradients
        return (loss, {"vectors": vectors}) if return_outputs else loss

    def _losses(
        self,
        questions: Tensor,
        passages: Tensor,
        rows: list[int],
        positives: list[int],
        passage_rows: list[int],
    ) -> Tensor:
        """The loss of each question of this process, shape (Q,).

        Args:
            questions: vectors of this process, shape (Q, dim).
            passages: vectors of this process, shape (P, dim).
            rows: the questions of all processes.
            positives: the rows of their positives.
            passage_rows: the passages of all processes.
        """
        device, args = questions.device, self.args
        start = sum(gather_rows(torch.tensor([len(questions)], device=device))[: rank()].tolist())
        own = slice(start, start + len(questions))
        candidates = gather_rows(passages)  # (all P, dim)
        if args.symmetric:
            questions = gather_rows(questions)
            asked = slice(None)
        else:
            asked = own
        scores = questions @ candidates.T / self.temperature
        targets = torch.tensor([passage_rows.index(row) for row in positives[asked]], device=device)
        excluded = self.examples.excluded(rows[asked], passage_rows).to(device)
        if args.symmetric:
            back = reverse_losses(
                scores, targets, excluded, torch.arange(len(rows))[own].to(device)
            )
            scores, targets, excluded = scores[own], targets[own], excluded[own]
            losses = (contrastive_losses(scores, targets, excluded) + back) / 2
        else:
            losses = contrastive_losses(scores, targets, excluded)
        if args.distillation_weight:
            teacher = self.examples.teacher_of(rows[own], passage_rows).to(device)
            distilled = distillation_losses(scores, teacher.nan_to_num(), ~teacher.isnan())
            losses = torch.lerp(losses, distilled, args.distillation_weight)
        return losses

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *more: Any) -> Tensor:
        """A training step that stops the run when it cannot be right.

        Raises:
            ValueError: the loss is not finite.
        """
        # Gradients are exchanged by the wrapper: without it processes would drift apart.
        assert self.args.world_size == 1 or model is not self.biencoder
        loss: Tensor = super().training_step(model, inputs, *more)
        if not torch.isfinite(loss):
            raise ValueError(
                f"The loss is {loss.item()} at step {self.state.global_step + 1}. Lower "
                "--learning_rate, raise --temperature, or train in float32."
            )
        return loss

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """Batches of one optimiser step, and the questions they hold over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(sum(len(batch["rows"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(count.unsqueeze(0)).sum()

    # ---- Evaluation and saving ----

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Figures of retrieval over all passages."""
        questions: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if questions is None or self.passages is None:
            raise ValueError("Evaluation needs eval_questions and passages.")
        start = time.time()
        question_encoder, context_encoder = self.encoders.values()
        figures = retrieval_figures(question_encoder, context_encoder, questions, self.passages)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        metrics |= speed_metrics(metric_key_prefix, start, len(questions))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def save_index(self, source: PassageIndex | None = None, passage_words: int = 0) -> None:
        """Leave the passages in output_dir/index, encoded by the context encoder as it is now.

        Args:
            source: an index of them, whose type, words and way of retrieval it is to have.
            passage_words: how the passages were cut otherwise, for the manifest.
        """
        folder = Path(str(self.args.output_dir))
        save_encoders(self.encoders, folder, self.scale)
        length = self.encoders["context_encoder"].max_length
        encoder = load_context_encoder(str(folder / "context_encoder"), length)
        network: Any = encoder.model
        network.to(self.args.device)
        if source is None:
            build_index(self.passages, encoder, folder / "index", passage_words=passage_words)
            return
        reencode_index(source, encoder, folder / "index")

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Write both encoders, the run's history, and last train_results.json."""
        folder = Path(str(self.args.output_dir))
        if self.args.should_save:
            save_encoders(self.encoders, folder, self.scale)
        self.save_state()
        best = {"best_metric": self.state.best_metric, "best_step": self.state.best_global_step}
        known = {name: value for name, value in best.items() if value is not None}
        self.save_metrics("train", {**metrics, **known}, combined=False)

    def end(self) -> None:
        """Finish trackers and processes, then nothing can be trained; see `RagTrainer.end`."""
        self.model_wrapped = self.biencoder
        self.accelerator.free_memory()
        gc.collect()
        super().end()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write a checkpoint to go on from, without the pickle of paths that the Trainer adds."""
        super()._save(output_dir, state_dict)
        (Path(output_dir or str(self.args.output_dir)) / TRAINING_ARGS_NAME).unlink(missing_ok=True)


def _default_temperature(encoder: TextEncoder) -> float:
    """What inner products are divided by where nothing is said."""
    return NORMALISED_TEMPERATURE if encoder.settings()["normalisation"] else 1.0
