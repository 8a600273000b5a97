"""Train a tiny model in a test, and look at what it logged."""

from pathlib import Path

import tiny_rag
import torch
from transformers import TrainerCallback

from rag_finetune.index.build import build_index
from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.rag_trainer import RagTrainer

# A few steps of a tiny model, each logged.
SHORT = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "logging_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "disable_tqdm": True,
}

# Plain gradient descent: a step is the gradient times the rate.
RATE = 0.5
DESCENT = {
    "optim": "sgd",
    "learning_rate": RATE,
    "max_grad_norm": 0.0,
    "lr_scheduler_type": "constant",
}


class NoDropout(TrainerCallback):
    """Runs can be compared: dropout would differ."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0


def sharp_rag(folder, kind="bart", model_type="rag_sequence"):
    """A tiny model whose passages differ, for the retriever and for the generator."""
    parts = tiny_rag.save_parts(folder / "parts", kind, dropout=0.0)
    encoder = tiny_rag.context_encoder()
    tiny_rag.spread(encoder.model, 0.3)
    assemble_rag(
        parts["question_encoder"],
        parts["generator"],
        folder / "assembled",
        model_type=model_type,
        index=build_index(tiny_rag.passages(), encoder, folder / "index"),
        max_combined_length=40,
    )
    rag = load_rag(folder / "assembled")
    tiny_rag.spread(rag.model.rag.generator, 0.3)
    tiny_rag.spread(rag.model.rag.question_encoder, 0.3)
    return rag


def train_tiny(folder: Path, *, rag=None, count=16, eval_questions=None, callbacks=None, **options):
    """Train a tiny model in folder/run; returns the trainer."""
    rag = rag or tiny_rag.tiny_rag(folder, dropout=options.pop("dropout", 0.0))
    resume = options.pop("resume", None)
    defaults = SHORT | {"output_dir": str(folder / "run"), "max_target_length": 8}
    args = RagTrainingArguments(**(defaults | options))
    trainer = RagTrainer(rag, args, tiny_rag.questions(count), eval_questions, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def logged(trainer: RagTrainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, bool]:
    return {name: torch.equal(first[name], second[name]) for name in first}


def require_descent(network: torch.nn.Module, before: dict, after: dict) -> None:
    """From `before` to `after` is one step of `DESCENT` along the gradients of a network."""
    checked = 0
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            continue
        step = (before[name] - after[name]) / RATE
        tolerance = max(1e-3 * float(parameter.grad.abs().max()), 1e-6)
        assert torch.allclose(step, parameter.grad, rtol=1e-2, atol=tolerance), name
        checked += bool(parameter.grad.any())
    assert checked > 5
