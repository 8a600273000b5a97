"""Byte-level tokenizers: one for both encoders, others for the generator as it learns.

A capital letter is written as a mark and the small letter, so that "Iron" and "iron" are the same
token but for the mark. A word in brackets or quotes is the same token as one after a space, and a
number is cut into pairs of digits. Decoding gives back the text as it was.
"""

import string
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MARK = "\x0e"  # ASCII "shift out" and "shift in": no text has them
JOIN = "\x0f"
PIECES = rf"{MARK}| ?\d{{1,2}}|'s| ?\p{{L}}+| ?[^\s\p{{L}}\d{MARK}]+|\s+(?!\S)|\s+"
PAD, END = 1, 2
MAX_LENGTH = 512


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn the merges of a byte-level BPE from texts."""
    tokenizer = Tokenizer(models.BPE())
    pairs = [(opening, f"{opening}{JOIN} ") for opening in '("']
    pairs += [(f" {upper}", f"{MARK} {upper.lower()}") for upper in string.ascii_uppercase]
    pairs += [(upper, f"{MARK}{upper.lower()}") for upper in string.ascii_uppercase]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(" "), *(normalizers.Replace(*pair) for pair in pairs)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            *(decoders.Replace(lower, upper) for upper, lower in reversed(pairs)),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def wrap(tokenizer: Tokenizer, *, pairs: bool) -> PreTrainedTokenizerFast:
    """The tokenizer as Transformers has it; with token types where pairs are read."""
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH // 2 if pairs else MAX_LENGTH,
        model_input_names=names if pairs else [names[0], names[2]],
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        clean_up_tokenization_spaces=False,
    )
