"""Join a question encoder and a generator into a RAG checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RagConfig,
    RagTokenizer,
)

from rag_finetune.encoders.dpr import scale_vectors
from rag_finetune.encoders.load import load_question_encoder, require_source
from rag_finetune.encoders.network import load_config, load_tokenizer, whole_weights
from rag_finetune.encoders.pooled import PooledEncoder, require_scale
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.files import nearest, staged_folder
from rag_finetune.index.store import PassageIndex
from rag_finetune.index.work import require_vacant
from rag_finetune.rag.causal_assemble import PASSAGE_TOKENS, Prompting, join_decoder_only
from rag_finetune.rag.causal_checkpoint import generator_config, is_decoder_only
from rag_finetune.rag.checkpoint import make_retriever, save_rag
from rag_finetune.rag.heads import (
    MODEL_TYPES,
    require_model_type,
    require_weights,
    set_generation_config,
)
from rag_finetune.rag.model_card import CardIndex, origin_of_parts, save_model_card
from rag_finetune.rag.reference import relative_path, write_index_reference

NOT_GIVEN = Prompting()


class Joined(NamedTuple):
    """A model of its parts, without a retriever: a RAG head or a CausalRag."""

    model: Any
    tokenizer: RagTokenizer
    encoder: TextEncoder


NORMALISED_SCALE = 20.0  # inner products from −1 to 1 leave p(z|x) flat; from −20 to 20 they do not


def assemble_rag(
    question_encoder: str,
    generator: str,
    output_dir: str | Path,
    *,
    model_type: str = "rag_sequence",
    index: PassageIndex | None = None,
    n_docs: int = 5,
    max_combined_length: int | None = None,
    prompting: Prompting = NOT_GIVEN,
    generation: Mapping[str, Any] | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    question_prefix: str | None = None,
    scale: float | None = None,
) -> Path:
    """Join a question encoder and a generator into a RAG checkpoint.

    Args:
        question_encoder: folder or Hub name of a DPR question encoder, or of any BERT-like one.
        generator: folder or Hub name of a sequence-to-sequence model (BART, T5 and their kin), or
            of a decoder-only one (GPT-2, Llama and their kin).
        output_dir: the folder to make; must not exist or be empty.
        model_type: "rag_sequence" or "rag_token"; a decoder-only generator has no head.
        index: where it will retrieve; written down as a relative path, not copied. None: later.
        n_docs: passages a question.
        max_combined_length: tokens of passage and question together that the generator reads; None
            for 300, in a joined prompt for each of its passages.
        prompting: how a decoder-only generator is asked.
        generation: generation settings that replace the generator's own, such as num_beams.
        pooling: of the question encoder; see `load_question_encoder`.
        normalize: of the question encoder; see `load_question_encoder`.
        question_prefix: what stands in front of every question; the generator reads it too.
        scale: what vectors of questions are multiplied by, above 0; it sharpens p(z|x) and leaves
            the ranking as it is. None: 20 for a normalised encoder that has no scale yet.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder exists and holds something.
        FileNotFoundError: the folder of a part does not exist.
        ValueError: a number is out of range, or the parts do not fit together; the message says
            which.
    """
    output_dir = Path(output_dir)
    require_vacant(output_dir)
    model, tokenizer, encoder = join_parts(
        question_encoder,
        generator,
        model_type=model_type,
        n_docs=n_docs,
        max_combined_length=max_combined_length,
        prompting=prompting,
        generation=generation,
        pooling=pooling,
        normalize=normalize,
        question_prefix=question_prefix,
        scale=scale,
    )
    if index is not None:
        make_retriever(model, tokenizer, index)  # checks the fit
        index.check_encoder(encoder.dimension, encoder.settings())
    with staged_folder(output_dir) as folder:
        save_rag(model, tokenizer, folder)
        origin = origin_of_parts(question_encoder=question_encoder, generator=generator)
        card_index = None if index is None else CardIndex(index.manifest, is_inside=False)
        save_model_card(folder, model, origin, card_index)
        if index is not None:
            write_index_reference(folder, index, relative_path(index.folder, output_dir))
    return output_dir


def join_parts(
    question_encoder: str,
    generator: str,
    *,
    model_type: str = "rag_sequence",
    n_docs: int = 5,
    max_combined_length: int | None = None,
    prompting: Prompting = NOT_GIVEN,
    generation: Mapping[str, Any] | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    question_prefix: str | None = None,
    scale: float | None = None,
) -> Joined:
    """Join a question encoder and a generator into a model, in memory.

    The arguments and the errors are those of `assemble_rag`.
    """
    require_model_type(model_type)
    require_source(generator)
    for name, value in (("n_docs", n_docs), ("max_combined_length", max_combined_length)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}.")
    if scale is not None:
        require_scale(scale)
    _require_known(generation or {})
    encoder = load_question_encoder(
        question_encoder, pooling=pooling, normalize=normalize, prefix=question_prefix
    )
    _scale(encoder.model, scale)
    model: Any
    if is_decoder_only(generator_config(generator)):
        numbers: dict[str, Any] = {"n_docs": n_docs, "max_combined_length": max_combined_length}
        model, tokenizer = join_decoder_only(
            encoder, generator, prompting, generation=generation or {}, **numbers
        )
        model.parts = {"question_encoder": question_encoder, "generator": generator}
    else:
        require_no_prompting(generator, prompting)
        length = PASSAGE_TOKENS if max_combined_length is None else max_combined_length
        model, tokenizer = _join_head(encoder, generator, model_type, n_docs, length)
        own = model.rag.generator.generation_config.to_dict()
        set_generation_config(model, GenerationConfig(**{**own, **(generation or {})}))
    return Joined(model, tokenizer, encoder)


def require_no_prompting(generator: str, prompting: Prompting) -> None:
    """Raise where an encoder-decoder generator is given what only a decoder-only one reads.

    Raises:
        ValueError: it is.
    """
    if prompting.given():
        raise ValueError(
            f"{generator}: --{prompting.given()[0]} is for decoder-only generators, which this is "
            "not. Leave it out."
        )


def _join_head(
    encoder: TextEncoder, generator: str, model_type: str, n_docs: int, max_combined_length: int
) -> tuple[Any, RagTokenizer]:
    """A model with an encoder-decoder generator, and its tokenizers."""
    network = _load_generator(generator)
    tokenizer = load_tokenizer(generator)
    _require_generator(generator, network, tokenizer, max_combined_length)
    config = _rag_config(encoder, network, n_docs, max_combined_length)
    model = MODEL_TYPES[model_type](
        config=config, question_encoder=encoder.model, generator=network
    )
    return model, RagTokenizer(encoder.tokenizer, tokenizer)


def _scale(model: PreTrainedModel, scale: float | None) -> None:
    """Scale the vectors of questions: as asked, or as p(z|x) of a normalised encoder needs it."""
    if scale is not None:
        scale_vectors(model, scale)
    elif isinstance(model, PooledEncoder) and model.config.normalize and model.config.scale == 1:
        scale_vectors(model, NORMALISED_SCALE)


def _require_known(generation: Mapping[str, Any]) -> None:
    """Raise for a generation setting that Transformers would take and never read."""
    known = GenerationConfig().to_dict()
    for name in generation:
        if name not in known:
            guess = nearest(name, known)
            hint = f'Did you mean "{guess}"?' if guess else "See transformers.GenerationConfig."
            raise ValueError(f'generation: there is no setting "{name}". {hint}')


def _rag_config(
    encoder: TextEncoder, generator: PreTrainedModel, n_docs: int, max_combined_length: int
) -> Any:
    """The configuration of a RAG model; ids of special tokens are the generator's."""
    ids = {
        name: getattr(generator.config, name, None)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    }
    config: Any = RagConfig.from_question_encoder_generator_configs(
        encoder.model.config,
        generator.config,
        n_docs=n_docs,
        max_combined_length=max_combined_length,
        retrieval_vector_size=encoder.dimension,
        index_name="custom",
        vocab_size=generator.config.vocab_size,
        **ids,
    )
    # RagSequence reads it and T5 has none (AttributeError, transformers 5.23).
    config.generator.bos_token_id = ids["bos_token_id"]
    return config


def _load_generator(name_or_path: str) -> Any:
    """Load a sequence-to-sequence model in float32, refusing weights that do not fit.

    Raises:
        ValueError: it is no sequence-to-sequence model, or weights are missing.
    """
    config = load_config(name_or_path)
    if type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"{name_or_path}: expected a generator, sequence-to-sequence such as BART or T5 or "
            f'decoder-only such as Llama, found model type "{config.model_type}".'
        )
    with whole_weights(name_or_path):
        model, info = AutoModelForSeq2SeqLM.from_pretrained(
            name_or_path, output_loading_info=True, dtype=torch.float32
        )
    require_weights(name_or_path, info, "a generator")
    return model


def _require_generator(
    name: str,
    generator: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_combined_length: int,
) -> None:
    """Raise where a generator cannot be trained with RAG labels."""
    config = generator.config
    if config.decoder_start_token_id is None or config.pad_token_id is None:
        raise ValueError(
            f"{name}: config.json must set decoder_start_token_id and pad_token_id, found "
            f"{config.decoder_start_token_id} and {config.pad_token_id}."
        )
    if config.pad_token_id == config.eos_token_id:
        raise ValueError(
            f"{name}: pad_token_id and eos_token_id are both {config.pad_token_id}: the end of an "
            "answer would be masked as padding and never learnt. Give padding an id of its own."
        )
    if tokenizer.pad_token_id != config.pad_token_id or len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"{name}: the tokenizer does not belong to the model: padding id "
            f"{tokenizer.pad_token_id} against {config.pad_token_id}, {len(tokenizer)} tokens "
            f"against {config.vocab_size}."
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and max_combined_length > positions:
        raise ValueError(
            f"{name}: max_combined_length {max_combined_length} is more than the {positions} "
            "positions of the generator. Lower --max_combined_length."
        )
