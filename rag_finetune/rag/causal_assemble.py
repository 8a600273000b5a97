"""Join a question encoder and a decoder-only generator into a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase, RagTokenizer

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.rag.causal_checkpoint import join_causal, load_generator
from rag_finetune.rag.causal_model import CausalRag
from rag_finetune.rag.prompt_template import choose_template
from rag_finetune.rag.prompts import PromptWriter

PASSAGE_TOKENS = 300  # of a prompt, for each passage that it holds
# What draws tokens: answers are searched for unless drawing is asked for.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


@dataclass(frozen=True)
class Prompting:
    """How a decoder-only generator is asked.

    Attributes:
        reading: "ensemble", a prompt for each passage, their predictions mixed by p(z|x), or
            "joined", all passages in one prompt; None for "ensemble".
        prompt_template: the prompt's text, with {question} and {passage} (ensemble) or {passages}
            (joined); None for a default.
        chat: whether it is what the user says in the tokenizer's chat template; None: where the
            tokenizer has one.
        max_target_length: tokens of an answer at most, its end included; None for 64.
    """

    reading: str | None = None
    prompt_template: str | None = None
    chat: bool | None = None
    max_target_length: int | None = None

    def given(self) -> list[str]:
        """Names of what was said."""
        return [name for name, value in vars(self).items() if value is not None]


def join_decoder_only(
    encoder: TextEncoder,
    generator: str,
    prompting: Prompting,
    *,
    n_docs: int,
    max_combined_length: int | None,
    generation: Mapping[str, Any],
) -> tuple[CausalRag, RagTokenizer]:
    """A model with a decoder-only generator, and its tokenizers.

    Args:
        encoder: the question encoder.
        generator: folder or Hub name of the generator, or of an adapter.
        prompting: how it is asked.
        n_docs: passages a question.
        max_combined_length: tokens of a prompt; None for 300 for each of its passages, or what the
            generator can take where that is less.
        generation: generation settings that replace the generator's own.

    Raises:
        ValueError: a number is out of range, or see `load_generator` and `PromptTemplate`.
    """
    network, tokenizer = load_generator(generator)
    if network.get_output_embeddings() is None:
        raise ValueError(f"{generator}: its output layer cannot be found. Choose another model.")
    template = choose_template(
        tokenizer, prompting.prompt_template, prompting.chat, prompting.reading
    )
    PromptWriter(tokenizer, template)  # what the tokenizer lacks shows now
    answer = 64 if prompting.max_target_length is None else prompting.max_target_length
    if answer < 2:
        raise ValueError(
            f"max_target_length counts the answer and its end: at least 2, found {answer}."
        )
    passages = n_docs if template.reading == "joined" else 1
    length = _length(
        generator, network.config, max_combined_length, PASSAGE_TOKENS * passages, answer
    )
    settings = {
        name: value
        for name, value in network.generation_config.to_dict().items()
        if name not in SAMPLING
    }
    settings |= {"do_sample": False, "max_length": None, **generation}
    settings |= _special_ids(tokenizer, settings)
    network.generation_config = GenerationConfig(**settings)
    numbers = {
        "n_docs": n_docs,
        "max_combined_length": length,
        "max_target_length": answer,
    }
    return join_causal(encoder, network, tokenizer, template, numbers)


def check_positions(name: str, config: Any, prompt: int, answer: int) -> None:
    """Raise where prompt and answer are longer than a generator can take.

    Args:
        name: of the generator.
        config: its configuration.
        prompt: tokens of a prompt at most.
        answer: tokens of an answer at most.

    Raises:
        ValueError: they are.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and prompt + answer > positions:
        raise ValueError(
            f"{name}: max_combined_length {prompt} and max_target_length {answer} are together "
            f"more than the {positions} positions of the generator. Lower one of them."
        )


def _length(name: str, config: Any, asked: int | None, usual: int, answer: int) -> int:
    """Tokens of a prompt: what is asked for, or usual, or what there is room for."""
    if asked is None:
        positions = getattr(config, "max_position_embeddings", None)
        asked = usual if positions is None else min(usual, positions - answer)
    check_positions(name, config, max(asked, 1), answer)
    return asked


def _special_ids(tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ends an answer: the tokenizer's end of sequence, which is learnt, or the model's own."""
    own = settings.get("eos_token_id")
    ends = own if isinstance(own, list) else [] if own is None else [own]
    every = [tokenizer.eos_token_id, *(end for end in ends if end != tokenizer.eos_token_id)]
    return {"eos_token_id": every if len(every) > 1 else every[0]}
