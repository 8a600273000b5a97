"""Train and evaluate a tiny checkpoint; run in two processes, or by a test in its own."""

import json
import sys
from pathlib import Path
from typing import Any

import tiny_rag

from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_trainer import RagTrainer


def run(checkpoint: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Three steps on 16 questions, then evaluation and prediction of 21; what each gave."""
    rag = load_rag(checkpoint)
    args = RagTrainingArguments(
        output_dir=str(output),
        max_steps=3,
        learning_rate=1e-3,
        warmup_steps=0,
        logging_steps=1,
        max_target_length=8,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    trainer = RagTrainer(rag, args, tiny_rag.questions(16), tiny_rag.questions(21))
    before = trainer.evaluate()
    trainer.train()
    predicted = trainer.predict(tiny_rag.questions(21))
    trainer.finish({})
    steps = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    result = {
        "world_size": args.world_size,
        "loss": [entry["loss"] for entry in steps],
        "grad_norm": [entry["grad_norm"] for entry in steps],
        "terms": [[entry[key] for key in sorted(entry) if "loss_" in key] for entry in steps],
        "before": before,
        "metrics": predicted.metrics,
        "predictions": predicted.predictions.tolist(),
    }
    if trainer.is_world_process_zero():
        (output / "result.json").write_text(json.dumps(result))
    trainer.end()
    return result


if __name__ == "__main__":
    folder, destination, settings = sys.argv[1:]
    run(Path(folder), Path(destination), **json.loads(settings))
