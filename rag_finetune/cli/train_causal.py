"""`rag-finetune train-causal`: train a decoder-only generator to answer from what is retrieved."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rag_finetune.cli.flags import CHECKPOINT, add_encoder_flags, encoder_options
from rag_finetune.cli.parsing import make_parser
from rag_finetune.cli.prompt_flags import add_prompt_flags, prompting_of
from rag_finetune.cli.task import Task, load_checkpoint
from rag_finetune.cli.train import add_data_flags, add_training_help, run

if TYPE_CHECKING:
    from rag_finetune.rag.checkpoint import Rag
    from rag_finetune.training.causal_arguments import CausalTrainingArguments

EPILOG = """\
The loss is that of the answer's tokens and its end alone. A prompt that is too long loses of its
passages, never of the question. Transformers' own training flags are taken as well, such as
--learning_rate, --num_train_epochs, --per_device_train_batch_size, --bf16; --help_all lists them.

several processes:
  accelerate launch --multi_gpu --num_processes 2 -m rag_finetune train-causal --config recipe.yaml
"""


def make_causal_parser() -> argparse.ArgumentParser:
    """The flags of `train-causal` that are not training arguments."""
    title = "Train a decoder-only generator to answer from what is retrieved."
    parser = make_parser("train-causal", title, EPILOG)
    parser.add_argument("--model_name_or_path", help=CHECKPOINT)
    parser.add_argument("--index", help="index folder; default: the checkpoint's own")
    parts = parser.add_argument_group("without a checkpoint, with --index: what it is made of")
    parts.add_argument("--question_encoder", help="folder or Hub name")
    parts.add_argument("--generator", help="folder or Hub name of a decoder-only model, or adapter")
    add_encoder_flags(parts)
    parts.add_argument(
        "--scale", type=float, help="factor of the questions' vectors; default: as for `assemble`"
    )
    add_prompt_flags(parts, answer=False)
    add_data_flags(parser)
    parser.set_defaults(model_type=None)  # there is no head to choose
    return parser


def make_help_parser() -> argparse.ArgumentParser:
    """The flags of `train-causal` that --help shows: without Transformers'."""
    from rag_finetune.training.causal_options import NOT_HERE, CausalOptions

    parser = make_causal_parser()
    add_training_help(parser, CausalOptions, NOT_HERE)
    return parser


def main(argv: list[str]) -> int:
    """Run the command."""
    return run(argv, Task(make_causal_parser, make_help_parser, _arguments, _load, _trainer))


def _arguments() -> Any:
    from rag_finetune.training.causal_arguments import CausalTrainingArguments

    return CausalTrainingArguments


def _trainer() -> Any:
    from rag_finetune.training.causal_trainer import CausalRagTrainer

    return CausalRagTrainer


def _load(data: argparse.Namespace, args: "CausalTrainingArguments") -> "Rag":
    """The checkpoint, or the parts joined.

    Raises:
        ValueError: neither is given, or both.
    """
    parts = ("question_encoder", "generator")
    of_parts = [*parts, "pooling", "normalize", "question_prefix", "scale", "reading"]
    of_parts += ["prompt_template", "chat"]
    given = [name for name in of_parts if getattr(data, name) is not None]
    if data.model_name_or_path is not None:
        if given:
            raise ValueError(
                f"--{given[0]} does not go with --model_name_or_path: the checkpoint has its own. "
                "Assemble another one, or leave it out."
            )
        return load_checkpoint(data, args)
    missing = [name for name in (*parts, "index") if getattr(data, name) is None]
    if missing:
        raise ValueError(
            f"--{missing[0]} is missing: give --model_name_or_path, or --question_encoder, "
            "--generator and --index."
        )
    return _join(data, args)


def _join(data: argparse.Namespace, args: "CausalTrainingArguments") -> "Rag":
    """A model of the parts that the flags name, of the lengths that the arguments say.

    Raises:
        ValueError: the generator has an encoder.
    """
    from rag_finetune.index.store import open_index
    from rag_finetune.rag.assemble import join_parts
    from rag_finetune.rag.causal_checkpoint import generator_config, is_decoder_only
    from rag_finetune.rag.checkpoint import Rag, give_retriever
    from rag_finetune.retrieval.way import choose_retrieval

    config = generator_config(data.generator)
    if not is_decoder_only(config):
        raise ValueError(
            f"{data.generator}: expected a decoder-only language model, found "
            f'"{config.model_type}". A generator with an encoder is joined by rag-finetune '
            "assemble, and trained by rag-finetune train."
        )
    of_encoder = encoder_options(data)
    index = open_index(data.index)
    n_docs: dict[str, Any] = {} if args.n_docs is None else {"n_docs": args.n_docs}
    joined = join_parts(
        data.question_encoder,
        data.generator,
        **n_docs,
        max_combined_length=args.max_combined_length,
        prompting=replace(prompting_of(data), max_target_length=args.max_target_length),
        pooling=of_encoder["pooling"],
        normalize=of_encoder["normalize"],
        question_prefix=of_encoder["prefix"],
        scale=data.scale,
    )
    index.check_encoder(joined.encoder.dimension, joined.encoder.settings())
    way = choose_retrieval(index, data.retrieval, data.lexical_prior)
    retriever = give_retriever(joined.model, joined.tokenizer, index, way)
    data.model_name_or_path = data.question_encoder  # whose vectors the index must hold
    return Rag(joined.model.eval(), joined.tokenizer, retriever)
