"""Make a tiny question encoder, context encoder and generator from configs.

    python data/tiny/make_models.py OUTPUT

Their weights are random, their tokenizers know the words of the passages and questions beside this
file. Nothing is downloaded, and the same libraries make the same files each time.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartTokenizerFast,
    DPRConfig,
    DPRContextEncoder,
    DPRContextEncoderTokenizerFast,
    DPRQuestionEncoder,
    DPRQuestionEncoderTokenizerFast,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

HERE = Path(__file__).parent
SEED = 1
MAX_LENGTH = 512


def read_texts() -> list[str]:
    """Every title, text, question and answer of the files beside this one."""
    with open(HERE / "passages.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    questions = json.loads((HERE / "train.json").read_text(encoding="utf-8"))
    texts = [text for row in rows for text in (row["title"], row["text"])]
    return texts + [text for row in questions for text in (row["question"], *row["answers"])]


def build_encoder_vocabulary(texts: Sequence[str]) -> dict[str, int]:
    """The words of the texts in lower case, and their letters for the words of others.

    No WordPiece trainer: its choice among equally frequent pieces differs from run to run.
    """
    normalizer, splitter = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = {
        word
        for text in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    }
    letters = {letter for word in words for letter in word}
    pieces = words | letters | {f"##{letter}" for letter in letters}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return {piece: id for id, piece in enumerate([*special, *sorted(pieces)])}


def build_generator_tokenizer(texts: Sequence[str]) -> BartTokenizerFast:
    """A byte-level BPE tokenizer with BART's special tokens and ids: it can write any text."""
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(texts, vocab_size=1000, special_tokens=special, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return BartTokenizerFast(vocab=model["vocab"], merges=merges, model_max_length=MAX_LENGTH)


def save_models(output: Path) -> None:
    """Make the three networks and save each with its tokenizer.

    The question encoder starts as a copy of the context encoder, and both start without regard to
    the order of the words: so questions and passages that share words lie closer, and retrieval
    starts better than at random (about half of the questions find their passage among five).
    """
    texts = read_texts()
    vocabulary = build_encoder_vocabulary(texts)
    torch.manual_seed(SEED)
    context_encoder = DPRContextEncoder(encoder_config(len(vocabulary)))
    embeddings = context_encoder.ctx_encoder.bert_model.embeddings
    torch.nn.init.zeros_(embeddings.position_embeddings.weight)
    torch.nn.init.zeros_(embeddings.token_type_embeddings.weight)
    question_encoder = DPRQuestionEncoder(encoder_config(len(vocabulary)))
    question_encoder.question_encoder.load_state_dict(context_encoder.ctx_encoder.state_dict())
    generator_tokenizer = build_generator_tokenizer(texts)
    generator = BartForConditionalGeneration(generator_config(len(generator_tokenizer)))

    question_tokenizer = DPRQuestionEncoderTokenizerFast(
        vocab=vocabulary, model_max_length=MAX_LENGTH
    )
    context_tokenizer = DPRContextEncoderTokenizerFast(
        vocab=vocabulary, model_max_length=MAX_LENGTH
    )
    parts: dict[str, tuple[torch.nn.Module, PreTrainedTokenizerBase]] = {
        "question_encoder": (question_encoder, question_tokenizer),
        "context_encoder": (context_encoder, context_tokenizer),
        "generator": (generator, generator_tokenizer),
    }
    for name, (model, tokenizer) in parts.items():
        model.save_pretrained(output / name)
        tokenizer.save_pretrained(output / name)


def encoder_config(vocabulary_size: int) -> DPRConfig:
    """A BERT of width 32 with one layer."""
    return DPRConfig(
        vocab_size=vocabulary_size,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=0,
        # Wider than BERT's 0.02: the untrained vectors then differ enough to rank passages.
        initializer_range=0.2,
    )


def generator_config(vocabulary_size: int) -> BartConfig:
    """A BART of width 64 with one encoder and one decoder layer."""
    return BartConfig(
        vocab_size=vocabulary_size,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
        # Wider than BART's 0.02, and without dropout: it then memorises in two hundred steps.
        init_std=0.1,
        dropout=0.0,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and save the models."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="the folder for the three model folders")
    output = parser.parse_args(argv).output
    logging.disable_progress_bar()
    save_models(output)
    print(f"tiny models, untrained: {output}/{{question_encoder,context_encoder,generator}}")


if __name__ == "__main__":
    main()
