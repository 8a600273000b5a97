"""Train the context encoder of a tiny checkpoint; run in two processes, or killed by a test."""

import json
import sys
from pathlib import Path
from typing import Any

import tiny_rag
from tiny_training import SHORT, NoDropout
from transformers import TrainerCallback

from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_trainer import RagTrainer


class WaitForIndex(TrainerCallback):
    """Let each step take until the index that is being made is there: a refresh is then seen."""

    def __init__(self, refresh: Any) -> None:
        self.refresh = refresh

    def on_step_begin(self, args, state, control, **kwargs):
        if self.refresh._build is not None:
            self.refresh._build._process.wait(timeout=120)


def run(checkpoint: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Train on 16 questions; what each step gave, and what the index is at the end."""
    rag = load_rag(checkpoint)
    wait, resume = options.pop("wait", False), options.pop("resume", None)
    defaults = SHORT | {
        "output_dir": str(output),
        "trainable": ["question_encoder", "context_encoder", "generator"],
        "max_steps": 4,
        "max_target_length": 8,
        "use_cpu": True,
    }
    args = RagTrainingArguments(**(defaults | options))
    trainer = RagTrainer(rag, args, tiny_rag.questions(16), callbacks=[NoDropout()])
    if wait:
        trainer.add_callback(WaitForIndex(trainer.refresh))
    trainer.train(resume_from_checkpoint=resume)
    trainer.finish({})
    steps = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    rates = ("loss", "grad_norm", "grad_norm_context_encoder", "index_staleness")
    history = trainer.state.log_history
    result = {name: [entry[name] for entry in steps] for name in rates}
    result["world_size"] = args.world_size
    result["refreshes"] = sum("index_refresh_seconds" in entry for entry in history)
    result["encoder"] = trainer.context_encoder.fingerprint()
    (output / f"result-{args.process_index}.json").write_text(json.dumps(result))
    trainer.end()
    return result


if __name__ == "__main__":
    folder, destination, settings = sys.argv[1:]
    run(Path(folder), Path(destination), **json.loads(settings))
