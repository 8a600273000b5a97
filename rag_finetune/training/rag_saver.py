"""RagSaver: the saving half of the trainer, and which checkpoint is the best."""

from pathlib import Path
from typing import Any

from transformers import TrainerState

from rag_finetune.evaluation.plot import can_plot, plot_history
from rag_finetune.files import write_json
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.rag.checkpoint import INDEX, index_mode, place_index, save_rag
from rag_finetune.training.rag_evaluator import RagEvaluator
from rag_finetune.training.setup import eval_loss_at, tied_names

ARGUMENTS = "training_arguments.json"
PICTURE = "training.png"


class RagSaver(RagEvaluator):
    """A RagEvaluator that writes movable folders, midway and at the end."""

    _placed_index: PassageIndex | None = None

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Tell whether an evaluation is the best so far; of equal figures, the lower loss is."""
        state = self.state
        best, best_loss = state.best_metric, eval_loss_at(state.log_history, state.best_global_step)
        if super()._determine_best_metric(metrics, trial):
            return True
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        is_tied = metrics.get(f"eval_{name}") == best
        if not is_tied or not metrics.get("eval_loss", best_loss) < best_loss:
            return False
        state.best_global_step = state.global_step
        return True

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

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write one movable folder: model, tokenizers, generation settings, index."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_rag(self.rag.model, self.rag.tokenizer, folder)
        whole = Path(str(self.args.output_dir))
        if index_mode(self.retriever.index, self.args.save_index) == "copy" and folder != whole:
            # The run's folder holds the copy; checkpoints within it share its bytes on disk.
            if self._placed_index is None:
                place_index(self.retriever.index, whole, "copy", ours=False)
                self._placed_index = open_index(whole / INDEX)
            place_index(self._placed_index, folder, "copy", ours=True)
        else:
            # A checkpoint that the model came from may have been rotated away with its index.
            index = self._placed_index or self.retriever.index
            place_index(index, folder, self.args.save_index, ours=False)
        write_json(folder / ARGUMENTS, self.args.public_dict())

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
