"""RagSaver: the saving half of the trainer, and which checkpoint is the best."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import SchedulerType, TrainerState

from rag_finetune.evaluation.plot import can_plot, plot_history
from rag_finetune.files import write_json
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.rag.checkpoint import INDEX, index_mode, place_index, save_rag
from rag_finetune.rag.model_card import (
    CardIndex,
    Origin,
    origin_of_checkpoint,
    origin_of_parts,
    save_model_card,
)
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_evaluator import RagEvaluator
from rag_finetune.training.setup import eval_loss_at, tied_names

ARGUMENTS = "training_arguments.json"
PICTURE = "training.png"
# Of the arguments, what a reader of the model card wants to know.
HYPERPARAMETERS = (
    "trainable learning_rate learning_rate_question_encoder learning_rate_context_encoder "
    "fresh_top index_refresh index_refresh_steps index_refresh_overlap lr_scheduler_type "
    "warmup_steps num_train_epochs max_steps per_device_train_batch_size "
    "gradient_accumulation_steps world_size max_grad_norm weight_decay "
    "label_smoothing_factor passage_loss_weight doubt_weight retriever_loss "
    "likelihood_weight context lora_rank load_in_4bit packing target loss_reduction bf16 "
    "seed"
).split()
# And of the figures of an evaluation.
CARD_METRICS = ("exact_match", "f1", "recall@1", "recall@5", "answer_recall@5")


class RagSaver(RagEvaluator):
    """A RagEvaluator that writes movable folders, midway and at the end."""

    args: RagTrainingArguments
    # Where the questions came from, for the model card: file names by what they are for.
    data_names: Mapping[str, str] = {}
    _placed_index: PassageIndex | None = None

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Tell whether an evaluation is the best so far; of equal figures, the lower loss is."""
        state = self.state
        best, best_loss = state.best_metric, eval_loss_at(state.log_history, state.best_global_step)
        if super()._determine_best_metric(metrics, trial):
            return True
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        is_tied = metrics.get(f"eval_{name}") == best
        if not is_tied or not self._wins_tie(metrics.get("eval_loss", best_loss), best_loss):
            return False
        state.best_global_step = state.global_step
        return True

    def _wins_tie(self, loss: float, best_loss: float) -> bool:
        """Whether the later of two evaluations with the same figure is the better."""
        return loss < best_loss

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn about missing weights, but not about those that are tied to one that is there."""
        tied = tied_names(self.rag.model)
        load_result.missing_keys[:] = [n for n in load_result.missing_keys if n not in tied]
        super()._issue_warnings_after_load(load_result)

    def finish(self, metrics: dict[str, float]) -> None:
        """Write the finished model, the run's history and its picture, and last train_results.json.

        A folder that holds train_results.json is a finished one.
        """
        self.save_model()
        self.save_state()
        if self.args.should_save and can_plot():
            plot_history(self.state.log_history, Path(str(self.args.output_dir)) / PICTURE)
        best = {"best_metric": self.state.best_metric, "best_step": self.state.best_global_step}
        known = {name: value for name, value in best.items() if value is not None}
        self.save_metrics("train", {**metrics, **known}, combined=False)
        if self.args.push_to_hub:
            self._upload()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model. Unlike the Trainer's, it uploads nothing: `push_to_hub` does."""
        super().save_model(output_dir, _internal_call=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: saving has written the card, and the Trainer's draft would replace it."""

    def _upload(self) -> None:
        """Upload the finished folder.

        Raises:
            OSError: it failed; the message says how to do it by hand.
        """
        try:
            self.push_to_hub()
        except Exception as error:  # of the network, of the Hub: what was trained is safe
            raise OSError(
                f"{self.args.output_dir}: the model is finished and stands here, but its upload "
                f"failed: {error} Upload it: hf upload {self.hub_model_id} {self.args.output_dir} "
                '--exclude "checkpoint-*"'
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write one movable folder: model, tokenizers, generation settings, index."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_rag(self.rag.model, self.rag.tokenizer, folder)
        self._place_index(folder)
        write_json(folder / ARGUMENTS, self.args.public_dict())
        self._save_card(folder)

    def _index_mode(self) -> str:
        """How the index goes with a checkpoint."""
        return index_mode(self.retriever.index, self.args.save_index)

    def _place_index(self, folder: Path) -> None:
        """Put the index into a folder that is saved, or its path."""
        whole, way = Path(str(self.args.output_dir)), self.retriever.searcher.retrieval
        if self._index_mode() == "copy" and folder != whole:
            # The run's folder holds the copy; checkpoints within it share its bytes on disk.
            if self._placed_index is None:
                place_index(self.retriever.index, whole, "copy", ours=False, retrieval=way)
                self._placed_index = open_index(whole / INDEX)
            place_index(self._placed_index, folder, "copy", ours=True, retrieval=way)
        else:
            # A checkpoint that the model came from may have been rotated away with its index.
            index = self._placed_index or self.retriever.index
            place_index(index, folder, self.args.save_index, ours=False, retrieval=way)

    def _save_card(self, folder: Path) -> None:
        """Write the model card of a folder that is saved."""
        index, args = self.retriever.index, self.args
        is_inside = self._index_mode() == "copy"
        chosen = {name: getattr(args, name, None) for name in HYPERPARAMETERS}
        del chosen["num_train_epochs" if args.max_steps > 0 else "max_steps"]  # not in force
        if args.retriever_loss is None:
            del chosen["likelihood_weight"]
        chosen["trainable"] = ", ".join(args.trainable)
        chosen["lr_scheduler_type"] = SchedulerType(args.lr_scheduler_type).value
        training = {name: value for name, value in chosen.items() if value is not None}
        config = self.rag.model.config
        training |= {name: getattr(config, name) for name in ("n_docs", "max_combined_length")}
        training["retrieval"] = self.retriever.searcher.retrieval.describe()
        save_model_card(
            folder,
            self.rag.model,
            self._origin,
            CardIndex(index.manifest, is_inside),
            training={**self.data_names, **training},
            metrics=self._card_metrics(is_final=folder == Path(str(args.output_dir))),
            hub_name=self.hub_model_id,
        )

    @cached_property
    def _origin(self) -> Origin:
        """What the model was made from; asked before its checkpoint may be rotated away."""
        model = self.rag.model
        if checkpoint := getattr(model.config, "_name_or_path", ""):
            return origin_of_checkpoint(checkpoint)
        return origin_of_parts(**getattr(model, "parts", {}))

    def _card_metrics(self, is_final: bool) -> dict[str, float]:
        """Validation figures of the weights that are saved; empty where they were not taken."""
        state, step = self.state, self.state.global_step
        if is_final and self.args.load_best_model_at_end:
            step = state.best_global_step or step
        found: dict[str, float] = {}
        for entry in state.log_history:
            if entry["step"] == step:
                found |= {n: entry[f"eval_{n}"] for n in CARD_METRICS if f"eval_{n}" in entry}
        return found

    def _take_over_if_finished(self, checkpoint: Path) -> bool:
        """Load a checkpoint after which nothing is left to train.

        Transformers 5.23 would train one more step.
        """
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        done, wanted = (state.epoch or 0.0), self.args.num_train_epochs
        if self.args.max_steps > 0:
            done, wanted = state.global_step, self.args.max_steps
        if done < wanted:
            return False
        self.state = state
        best = checkpoint.parent / Path(state.best_model_checkpoint or checkpoint).name
        is_best = self.args.load_best_model_at_end and best.is_dir()
        self._load_from_checkpoint(str(best if is_best else checkpoint))
        return True
