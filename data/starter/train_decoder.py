"""Train a small decoder-only generator on fact sheets about things that do not exist.

    python data/starter/train_decoder.py OUTPUT

Writes OUTPUT/decoder, which `rag-finetune train-causal --generator` takes. It begins with the
weights of the starter's generator and has that one's tokens. What it has learnt so far stands in
OUTPUT/decoder.unfinished; a run that was stopped goes on from OUTPUT/decoder.state.
"""

import argparse
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from decoder import TEMPLATE, Batch, DecoderGuide, batches, decoder_from, decoder_tokenizer
from networks import parameters_of, say
from reading import FINDING, POINTING, reading_examples
from rounds import Stage
from sheets import Author
from torch import Tensor
from torch.nn.functional import cross_entropy
from train_starter import save
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    get_cosine_schedule_with_warmup,
)
from transformers.utils import logging

from rag_finetune.losses.likelihood import vocabulary_log_probs
from rag_finetune.rag.prompt_template import PromptTemplate
from rag_finetune.rag.prompts import PromptWriter

SEED = 40
STARTER = Path(__file__).resolve().parent / "generator"
LEARNING_RATE = 1e-3
SAVED_EVERY = 250  # steps
STAGES = (
    Stage(600, 24, 10, 60, irrelevant=0.05, labels=0.15, wide=True),
    Stage(
        3400, 16, 30, 140, 0.35, labels=0.15, crowded=True, wide=True, contrasts=0.35, silence=0.5
    ),
)


def losses_of(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean loss of the answers that are told, and how far guesses at the others are from uniform.

    `logits` has a row for each place of `batch.targets`.
    """
    rows, places = batch.targets.nonzero(as_tuple=True)
    labels, told = batch.ids[rows, places + 1], batch.told[rows]
    likelihood = cross_entropy(logits[told], labels[told], reduction="sum")
    doubt = (-vocabulary_log_probs(logits[~told]) - math.log(logits.shape[-1])).sum()
    return likelihood / told.sum().clamp(min=1), doubt / (~told).sum().clamp(min=1)


def train(output: Path, stages: Sequence[Stage] = STAGES, seed: int = SEED) -> None:
    """Train one from the starter's weights, or go on; leaves OUTPUT/decoder."""
    torch.manual_seed(seed)
    starter: Any = AutoModelForSeq2SeqLM.from_pretrained(STARTER, dtype=torch.float32)
    tokenizer = decoder_tokenizer(AutoTokenizer.from_pretrained(STARTER))
    writer = PromptWriter(tokenizer, PromptTemplate(TEMPLATE))
    model = decoder_from(starter)
    guide = DecoderGuide(model)
    say(f"decoder: {parameters_of(model):,} parameters")
    weights = [*model.parameters(), *guide.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.01)
    total = sum(stage.steps for stage in stages)
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, int(total * 1.03))
    kept = {"model": model, "guide": guide, "optimizer": optimizer, "schedule": schedule}
    state, done = output / "decoder.state", 0
    if state.exists():
        found = torch.load(state, weights_only=True)
        done = found.pop("done")
        for name, part in found.items():
            kept[name].load_state_dict(part)
    means: dict[str, float] = {}
    for step, batch in schedule_of(tokenizer, writer, stages, done, seed):
        values = train_step(model, guide, batch, stages_at(stages, step).silence)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        for name, value in values.items():
            means[name] = means.get(name, 0.0) + value / 50
        if (step + 1) % 50 == 0:
            say(f"step {step + 1}: " + ", ".join(f"{n} {v:.3f}" for n, v in means.items()))
            means = {}
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == total:
            save(model, output / "decoder.unfinished", tokenizer)
            whole: dict[str, Any] = {name: part.state_dict() for name, part in kept.items()}
            torch.save({"done": step + 1, **whole}, output / "decoder.partial")
            (output / "decoder.partial").replace(state)
    save(model, output / "decoder", tokenizer)
    shutil.rmtree(output / "decoder.unfinished", ignore_errors=True)
    state.unlink(missing_ok=True)


def stages_at(stages: Sequence[Stage], step: int) -> Stage:
    """The stage that a step belongs to."""
    for stage in stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return stages[-1]


def schedule_of(
    tokenizer: Any, writer: PromptWriter, stages: Sequence[Stage], done: int, seed: int
) -> Any:
    """Steps from `done` on, each with its batch; a run that goes on draws other sheets."""
    author, first = Author(seed + done), 0
    for stage in stages:
        drawn = batches(tokenizer, writer, reading_examples(author, stage), stage.size)
        for step in range(max(first, done), first + stage.steps):
            yield step, next(drawn)
        first += stage.steps


def train_step(model: Any, guide: DecoderGuide, batch: Batch, silence: float) -> dict[str, float]:
    """Gradients of one batch; its losses."""
    read = model.model(
        input_ids=batch.ids, attention_mask=batch.real.long(), use_cache=False
    ).last_hidden_state
    loss, doubt = losses_of(model.lm_head(read[batch.targets]), batch)
    pointing, finding = guide(batch)
    (loss + silence * doubt + POINTING * pointing + FINDING * finding).backward()
    return {"loss": loss.item(), "pointing": pointing.item(), "finding": finding.item()}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="the folder for decoder/")
    parser.add_argument("--threads", type=int, default=2, help="threads to train with")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    args.output.mkdir(parents=True, exist_ok=True)
    train(args.output)


if __name__ == "__main__":
    main()
