"""The checkpoint of a model with a decoder-only generator: ordinary folders and a JSON file."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    RagConfig,
    RagTokenizer,
)

from rag_finetune.encoders.load import load_question_encoder
from rag_finetune.encoders.network import load_config, load_tokenizer, whole_weights
from rag_finetune.encoders.saving import save_network
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.files import describe, read_text, write_json
from rag_finetune.rag.adapters import ADAPTER, base_of, load_adapted, merged
from rag_finetune.rag.causal_model import CausalRag
from rag_finetune.rag.prompt_retriever import pad_id
from rag_finetune.rag.prompt_template import PromptTemplate, template_of

DESCRIPTION = "rag_finetune.json"
FORMAT_VERSION = 1
KIND = "causal"
NUMBERS = ("n_docs", "max_combined_length", "max_target_length")
KEYS = ("format_version", "kind", "reading", "prompt", *NUMBERS)
PARTS = ("question_encoder", "generator")


def is_causal(folder: str | Path) -> bool:
    """Whether a folder is a checkpoint of this kind; it need not be a whole one."""
    return (Path(folder) / DESCRIPTION).is_file()


def is_decoder_only(config: Any) -> bool:
    """Whether a configuration is that of a generator without an encoder, such as GPT-2 or Llama.

    BART and its kin can be loaded as one, and BERT too; they are not meant.
    """
    if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        return False
    reads_both_ways = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not reads_both_ways


def join_causal(
    encoder: TextEncoder,
    generator: Any,
    generator_tokenizer: PreTrainedTokenizerBase,
    template: PromptTemplate,
    numbers: Mapping[str, int],
) -> tuple[CausalRag, RagTokenizer]:
    """A model of its parts, and their tokenizers.

    Args:
        encoder: the question encoder.
        generator: the network, of AutoModelForCausalLM.
        generator_tokenizer: its tokenizer.
        template: how prompts are written.
        numbers: n_docs, max_combined_length (tokens of a prompt) and max_target_length.
    """
    config: Any = RagConfig.from_question_encoder_generator_configs(
        encoder.model.config,
        generator.config,
        n_docs=numbers["n_docs"],
        max_combined_length=numbers["max_combined_length"],
        retrieval_vector_size=encoder.dimension,
        index_name="custom",
        vocab_size=generator.config.vocab_size,
        bos_token_id=generator_tokenizer.bos_token_id,
        eos_token_id=generator_tokenizer.eos_token_id,
        pad_token_id=pad_id(generator_tokenizer),
    )
    model = CausalRag(config, encoder.model, generator, template, numbers["max_target_length"])
    return model, RagTokenizer(encoder.tokenizer, generator_tokenizer)


def save_causal(model: CausalRag, tokenizer: RagTokenizer, folder: Path) -> None:
    """Write networks, tokenizers and description; the index is not part of this.

    Each part is whole or absent: it is written under another name first. Adapters are merged into a
    copy of the weights that they are beside.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    staged = folder / f".partial-{os.getpid()}"
    try:
        for name in PARTS:
            network = merged(getattr(model, name))
            network.config._name_or_path = ""  # a path of this machine, else saved with the model
            save_network(network, staged / name)
            getattr(tokenizer, name).save_pretrained(staged / name)
        write_json(staged / DESCRIPTION, _description(model))
        for name in (*PARTS, DESCRIPTION):
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            os.replace(staged / name, folder / name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def load_causal(folder: Path) -> tuple[CausalRag, RagTokenizer]:
    """Load model and tokenizers of a checkpoint; see `load_rag`.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: the description is damaged, or of another format, or a part does not fit.
    """
    description = load_description(folder)
    for name in PARTS:
        if not (folder / name).is_dir():
            raise FileNotFoundError(
                f"{folder}: not a whole checkpoint, {name}/ is missing. Assemble it again."
            )
    template = template_of(description["prompt"], description["reading"], str(folder / DESCRIPTION))
    encoder = load_question_encoder(str(folder / "question_encoder"))
    generator, tokenizer = load_generator(str(folder / "generator"))
    numbers = {name: description[name] for name in NUMBERS}
    model, tokenizers = join_causal(encoder, generator, tokenizer, template, numbers)
    model.config._name_or_path = str(folder)
    return model, tokenizers


def load_description(folder: Path) -> dict[str, Any]:
    """What a checkpoint says about itself, checked.

    Raises:
        ValueError: the file is damaged or of another format; the message names file and key.
    """
    path = folder / DESCRIPTION
    try:
        found: Any = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}).") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected an object, found {describe(found)}.")
    for key, expected in (("format_version", FORMAT_VERSION), ("kind", KIND)):
        if found.get(key) != expected:
            raise ValueError(
                f'{path}: expected "{key}" {expected}, found {found.get(key)}. Load the checkpoint '
                "with the release of rag-finetune that wrote it, or assemble it again."
            )
    missing = [key for key in KEYS if key not in found]
    if missing:
        raise ValueError(f'{path}: "{missing[0]}" is missing. Assemble the checkpoint again.')
    for key in NUMBERS:
        value = found[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f'{path}: "{key}" must be a number from 1, found {describe(value)}.')
    return found


def load_generator(name_or_path: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a decoder-only generator in float32, and its tokenizer.

    Args:
        name_or_path: folder or Hub name of a whole model, or of an adapter of peft: it becomes part
            of the weights of the model that its adapter_config.json names.

    Raises:
        ValueError: weights are missing or damaged, tokens do not belong to it, or peft is missing.
    """
    tokenizer = load_tokenizer(name_or_path)
    if (Path(name_or_path) / ADAPTER).is_file():
        model = load_adapted(name_or_path)
    else:
        network: Any = AutoModelForCausalLM
        with whole_weights(name_or_path):
            model, info = network.from_pretrained(
                name_or_path, output_loading_info=True, dtype=torch.float32
            )
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"{name_or_path}: not the weights of a decoder-only generator: {len(missing)} "
                f'tensors are missing, the first is "{missing[0]}".'
            )
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{name_or_path}: the tokenizer does not belong to the model: {len(tokenizer)} tokens "
            f"against {model.config.vocab_size}."
        )
    return model, tokenizer


def generator_config(name_or_path: str) -> Any:
    """The configuration of a generator, also of one that is an adapter of another."""
    if (Path(name_or_path) / ADAPTER).is_file():
        return load_config(base_of(name_or_path))
    return load_config(name_or_path)


def _description(model: CausalRag) -> dict[str, Any]:
    """What DESCRIPTION holds."""
    numbers = {name: getattr(model.config, name) for name in NUMBERS[:2]}
    return {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "reading": model.template.reading,
        "prompt": model.template.data(),
        **numbers,
        "max_target_length": model.max_target_length,
    }
