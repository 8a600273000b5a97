"""Gradients and steps of reranker training; run in two processes, or by a test in its own."""

import json
from pathlib import Path

import torch
from test_reranker_data import examples

from rag_finetune.retrieval.rerank import load_reranker
from rag_finetune.training.reranker_arguments import RerankerTrainingArguments
from rag_finetune.training.reranker_trainer import RerankerTrainer

COUNTS = [4, 1, 2, 3] * 4  # negatives of each question: the lists of a batch differ in length
BATCH = list(range(11))  # of two processes one has six questions, the other five


def run(folder: Path) -> None:
    """Write the gradients that every process has of one batch, and the figures of four steps.

    Args:
        folder: holds the cross-encoder `start`; gets what is written.
    """
    trainer = make_trainer(folder, "gradients", max_steps=1)
    rank, world = trainer.args.process_index, trainer.args.world_size
    model = trainer.accelerator.prepare_model(trainer.model) if world > 1 else trainer.model
    model.train()
    batch = trainer.data_collator([trainer.examples[row] for row in BATCH[rank::world]])
    trainer.compute_loss(model, batch, num_items_in_batch=len(BATCH)).backward()
    found = {name: p.grad.clone() for name, p in trainer.reranker.model.named_parameters()}
    torch.save(found, folder / f"gradients{rank}of{world}.pt")
    trainer.accelerator.free_memory()
    del model  # a wrapper that outlives the group of processes may wait in it: `RagTrainer.end`
    trained = make_trainer(
        folder, f"of{world}", max_steps=4, per_device_train_batch_size=8 // world, optim="sgd"
    )
    trained.train()
    torch.save(trained.reranker.model.state_dict(), folder / f"weights{rank}of{world}.pt")
    figures = trained.evaluate()
    trained.finish({})
    if rank == 0:
        steps = [entry for entry in trained.state.log_history if "grad_norm" in entry]
        logged = {name: [entry[name] for entry in steps] for name in ("loss", "grad_norm")}
        kept = {name: figures[f"eval_{name}"] for name in ("loss", "recall@1", "mrr@10")}
        written = {"world_size": world, "logged": logged, "figures": kept}
        (folder / f"figures{world}.json").write_text(json.dumps(written))
    trained.end()


def make_trainer(folder: Path, name: str, **options) -> RerankerTrainer:
    """A trainer without dropout, which falls differently on each process."""
    args = RerankerTrainingArguments(
        output_dir=str(folder / name), n_negatives=3, learning_rate=1e-2, warmup_steps=0,
        logging_steps=1, save_strategy="no", disable_tqdm=True, use_cpu=True, **options
    )  # fmt: skip
    reranker = load_reranker(str(folder / "start"))
    for module in reranker.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    data = [examples(COUNTS, n) for n in (3, 0)]
    return RerankerTrainer(reranker, args, *data)
