"""Train the starter model from nothing on fact sheets about things that do not exist.

    python data/starter/train_starter.py OUTPUT

Writes question_encoder/, context_encoder/, generator/ and scores.json into OUTPUT. What the
generator has learnt so far stands in generator.unfinished/ until its training ends.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from finding import train_encoders
from networks import say
from reading import learn_tokenizer, train_generator
from tokenizer import wrap
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from rag_finetune.files import staged_folder

SEED = 20
VOCABULARY = 4000  # of the encoders
PARTS = ("encoders", "generator", "scores")


def save(model: Any, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a network in half precision with its tokenizer: a whole folder, or none."""
    tokenizer.backend_tokenizer.no_padding()  # the last batch left both in it
    tokenizer.backend_tokenizer.no_truncation()
    halves: dict[int, torch.Tensor] = {}  # shared weights stay shared
    state = {
        key: halves.setdefault(weight.data_ptr(), weight.half())
        for key, weight in model.state_dict().items()
    }
    with staged_folder(folder) as staged:
        model.save_pretrained(staged, state_dict=state)  # loaded as float32 again
        tokenizer.save_pretrained(staged)


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

    if "encoders" in args.parts:
        pairs = wrap(learn_tokenizer(VOCABULARY, SEED, wide=True), pairs=True)
        question_encoder, context_encoder = train_encoders(pairs, SEED)
        save(question_encoder, args.output / "question_encoder", pairs)
        save(context_encoder, args.output / "context_encoder", pairs)
    if "generator" in args.parts:
        unfinished = args.output / "generator.unfinished"
        generator, tokenizer = train_generator(
            lambda model, tokenizer: save(model, unfinished, tokenizer), SEED
        )
        save(generator, args.output / "generator", tokenizer)
        shutil.rmtree(unfinished)
    if "scores" in args.parts:
        from scores import measure

        found = json.dumps(measure(args.output), indent=2)
        (args.output / "scores.json").write_text(f"{found}\n", encoding="utf-8")
        say(found)


if __name__ == "__main__":
    main()
