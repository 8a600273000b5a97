"""Train the starter model from nothing on fact sheets about things that do not exist.

    python data/starter/train_starter.py OUTPUT

Writes question_encoder/, context_encoder/, generator/ and scores.json into OUTPUT.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from finding import train_encoders
from networks import say
from reading import context, train_generator
from sheets import Author
from tokenizer import train_tokenizer, wrap
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging
from values import WORDS

SEED = 20
VOCABULARY = 2600
PARTS = ("encoders", "generator", "scores")


def training_texts(seed: int, worlds: int) -> Iterator[str]:
    """What the tokenizer learns from: fact sheets, and every word of ours a few times."""
    author = Author(seed)
    for _ in range(worlds):
        world = author.world(3, 12)
        for passage in world.passages(world.subjects[0], 2, 50, 100):
            questions = [world.question(fact) for fact in sorted(passage.facts)[:4]]
            yield context(passage, questions[0])
            yield from (question.text for question in questions[1:])
    for words in WORDS.values():
        yield from words * 3
    for number in range(100):
        yield from [f" {number} x{number}", f" {number:02} x{number:02}"] * 40


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="the folder for the three model folders")
    parser.add_argument("--threads", type=int, default=2, help="threads to train with")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="what to do; the parts do not depend on one another, the scores on both networks",
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    raw = train_tokenizer(training_texts(SEED, 3000), VOCABULARY)
    pairs, single = wrap(raw, pairs=True), wrap(raw, pairs=False)
    say(f"tokenizer: {len(single):,} tokens")

    def save(model: Any, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.backend_tokenizer.no_padding()  # the last batch left both in it
        tokenizer.backend_tokenizer.no_truncation()
        halves: dict[int, torch.Tensor] = {}  # shared weights stay shared
        state = {
            key: halves.setdefault(weight.data_ptr(), weight.half())
            for key, weight in model.state_dict().items()
        }
        model.save_pretrained(args.output / name, state_dict=state)  # loaded as float32 again
        tokenizer.save_pretrained(args.output / name)

    if "encoders" in args.parts:
        question_encoder, context_encoder = train_encoders(pairs, SEED)
        save(question_encoder, "question_encoder", pairs)
        save(context_encoder, "context_encoder", pairs)
    if "generator" in args.parts:
        train_generator(single, lambda model: save(model, "generator", single), SEED)
    if "scores" in args.parts:
        from scores import measure  # needs rag_finetune

        found = json.dumps(measure(args.output), indent=2)
        (args.output / "scores.json").write_text(f"{found}\n", encoding="utf-8")
        say(found)


if __name__ == "__main__":
    main()
