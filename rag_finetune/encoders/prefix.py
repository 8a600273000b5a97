"""A prefix such as "query: " in the normaliser of a tokenizer, where every caller gets it."""

import json
import re
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Tokenizers of the Llama kind put it in front of a text themselves: it is no prefix of ours.
SENTENCEPIECE_SPACE = "▁"


def prefix_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The prefix that a tokenizer puts in front of every text; empty for none."""
    return _split(tokenizer_state(tokenizer)["normalizer"])[0]


def with_prefix(tokenizer: PreTrainedTokenizerBase, prefix: str) -> PreTrainedTokenizerBase:
    """A tokenizer that puts a prefix in front of every text, in place of one it has already.

    The prefix comes before all normalisation: it is lower-cased, cut and spaced exactly as if it
    stood in the text. It is saved in tokenizer.json, so that plain Transformers keeps it. Each of a
    pair of texts gets it; and in a text that spells out a special token, such as [SEP], what
    follows the token gets it again.

    Args:
        tokenizer: a fast tokenizer; left as it is.
        prefix: what to put in front, its space included; empty for nothing.

    Returns:
        The tokenizer itself where nothing changes. Else a PreTrainedTokenizerFast: BertTokenizer
        and its like build their normaliser anew on loading and would lose the prefix
        (Transformers 5.23).

    Raises:
        ValueError: the tokenizer has no fast implementation.
    """
    state = tokenizer_state(tokenizer)
    found, own = _split(state["normalizer"])
    if found == prefix:
        return tokenizer
    parts = [*_prepend(prefix, state["added_tokens"]), *([] if own is None else [own])]
    state["normalizer"] = {"type": "Sequence", "normalizers": parts} if prefix else own
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(
            json.dumps({**state, "truncation": None, "padding": None})
        ),
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_tokenization_spaces=tokenizer.clean_up_tokenization_spaces,
        **tokenizer.special_tokens_map,
    )


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A fast tokenizer as data, less the truncation and padding that its last call left in it.

    Raises:
        ValueError: the tokenizer has no fast implementation.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} has no fast implementation. Save the tokenizer with a "
            "tokenizer.json and load it again."
        )
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in state.items() if key not in ("truncation", "padding")}


def _prepend(prefix: str, added_tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Normalisers that put a prefix in front of a text.

    Added tokens are sought as the normaliser leaves them. A second step takes the prefix from what
    is such a token and nothing else; else none would be found in a text any more.
    """
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": prefix}]
    sought = [re.escape(token["content"]) for token in added_tokens if token["normalized"]]
    if sought:
        pattern = f"{_guard(prefix)}(?:{'|'.join(sought)})\\z)"
        steps.append({"type": "Replace", "pattern": {"Regex": pattern}, "content": ""})
    return steps


def _guard(prefix: str) -> str:
    """How the pattern of the second step begins."""
    return f"\\A{re.escape(prefix)}(?="


def _split(normalizer: dict[str, Any] | None) -> tuple[str, dict[str, Any] | None]:
    """A normaliser as the prefix that it adds and the rest."""
    if normalizer is None or normalizer["type"] != "Sequence" or not normalizer["normalizers"]:
        return "", normalizer
    first, *rest = normalizer["normalizers"]
    if first["type"] != "Prepend" or first["prepend"] == SENTENCEPIECE_SPACE:
        return "", normalizer
    prefix: str = first["prepend"]
    if rest and rest[0]["type"] == "Replace":
        regex = rest[0]["pattern"].get("Regex", "")
        rest = rest[1:] if regex.startswith(_guard(prefix)) else rest
    return (prefix, rest[0] if rest else None) if len(rest) < 2 else ("", normalizer)
