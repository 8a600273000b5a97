"""Gradients of one global batch of retriever training; run in two processes, or in a test's own."""

import json
from pathlib import Path
from typing import Any

import tiny_retriever
import torch

BATCH = list(range(11))  # of two processes one has six questions, the other five


def run(folder: Path, **options: Any) -> None:
    """Write the gradients that every process has after the exchange, and the figures of a run."""
    still = {"max_steps": 1, "learning_rate": 1e-9, "max_grad_norm": 1e9}
    trainer = tiny_retriever.make_trainer(folder, **({"n_negatives": 1} | still | options))
    rank, world = trainer.args.process_index, trainer.args.world_size
    model = trainer.accelerator.prepare_model(trainer.biencoder) if world > 1 else trainer.biencoder
    model.train()
    batch = trainer.data_collator([trainer.examples[row] for row in BATCH[rank::world]])
    trainer.compute_loss(model, batch, num_items_in_batch=len(BATCH)).backward()
    found = {name: p.grad.clone() for name, p in trainer.biencoder.named_parameters()}
    torch.save(found, folder / f"gradients{rank}of{world}.pt")
    trainer.accelerator.free_memory()
    del model  # a wrapper that outlives the group of processes may wait in it: `RagTrainer.end`
    trained = tiny_retriever.make_trainer(
        folder / f"of{world}", max_steps=2, per_device_train_batch_size=8 // world, **options
    )
    trained.train()
    figures = trained.evaluate()
    trained.finish({})
    if rank == 0:
        steps = [entry for entry in trained.state.log_history if "grad_norm" in entry]
        found = {name: [entry[name] for entry in steps] for name in ("loss", "grad_norm")}
        found |= {name: value for name, value in figures.items() if "@" in name}
        (folder / f"figures{world}.json").write_text(json.dumps({"world_size": world} | found))
    trained.end()
