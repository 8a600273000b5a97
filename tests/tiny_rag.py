"""Tiny RAG parts from configs: word-level tokenizers, 1-layer networks, twenty facts."""

import atexit
import functools
import random
import shutil
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.build import build_index
from rag_finetune.index.store import PassageIndex
from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import Rag, load_rag, save_rag

COLOURS = "red blue green black white grey brown pink".split()
NAMES = (
    "ada ben cora dan eve finn gus hana ivo jill kurt lena milo nora otto pia quin rosa sam tess"
).split()
PLACES = "oslo rome kiev lima bonn cairo delhi paris quito tunis".split()
WORDS = (
    *COLOURS,
    *NAMES,
    *PLACES,
    *"/ // ? . the house of is in who lives where what colour has a dog named and old".split(),
)


def facts() -> list[dict[str, str]]:
    """Twenty facts, one a name: a passage, a question and an answer of one to three words."""
    draw = random.Random(0)
    rows = []
    for number, name in enumerate(NAMES):
        colour, place = draw.choice(COLOURS), draw.choice(PLACES)
        answer = (colour, f"{colour} {place}", f"old {colour} {place}")[number % 3]
        rows.append(
            {
                "id": str(number + 1),
                "title": f"house of {name}",
                "text": f"the house of {name} is {answer} . {name} has a dog",
                "question": f"what is the house of {name} ?",
                "answer": answer,
            }
        )
    return rows


def passages() -> Dataset:
    """The passages of the facts."""
    return Dataset.from_list(
        [
            {"id": f["id"], "document_id": f["id"], "title": f["title"], "text": f["text"]}
            for f in facts()
        ]
    )


def questions(count: int = 20) -> Dataset:
    """Questions with answers and gold passages; the facts repeat past twenty."""
    rows = facts()
    return Dataset.from_list(
        [
            {
                "id": f"q{i}",
                "question": rows[i % 20]["question"],
                "answers": [rows[i % 20]["answer"]],
                "positive_ids": [rows[i % 20]["id"]],
            }
            for i in range(count)
        ]
    )


def word_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer laid out as BERT's, BART's or T5's."""
    special = {
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        "bart": ["<s>", "<pad>", "</s>", "<unk>"],
        "t5": ["<pad>", "</s>", "<unk>"],
    }[kind]
    vocabulary = {word: i for i, word in enumerate([*special, *dict.fromkeys(WORDS)])}
    roles = {
        "bert": ("[PAD]", "[UNK]", "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"),
        "bart": ("<pad>", "<unk>", "<s> $A </s>", "<s> $A </s> $B </s>"),
        "t5": ("<pad>", "<unk>", "$A </s>", "$A </s> $B </s>"),
    }[kind]
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=roles[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=roles[2], pair=roles[3], special_tokens=[(s, vocabulary[s]) for s in special]
    )
    names = {"pad_token": roles[0], "unk_token": roles[1]}
    if kind == "bert":
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    else:
        names |= {"eos_token": "</s>"} | ({"bos_token": "<s>"} if kind == "bart" else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def dpr_config(width: int = 16, dropout: float = 0.1) -> DPRConfig:
    """A 1-layer DPR encoder."""
    return DPRConfig(
        vocab_size=len(word_tokenizer("bert")),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def generator(kind: str, width: int = 16, dropout: float = 0.1) -> torch.nn.Module:
    """A 1-layer BART or T5."""
    vocab_size = len(word_tokenizer(kind))
    if kind == "bart":
        return BartForConditionalGeneration(
            BartConfig(
                vocab_size=vocab_size,
                d_model=width,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=2 * width,
                decoder_ffn_dim=2 * width,
                max_position_embeddings=128,
                bos_token_id=0,
                pad_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=2,
                forced_eos_token_id=2,
                dropout=dropout,
            )
        )
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocab_size,
            d_model=width,
            d_kv=width // 2,
            d_ff=2 * width,
            num_layers=1,
            num_heads=2,
            dropout_rate=dropout,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    )


def spread(network: torch.nn.Module, std: float) -> None:
    """Draw all matrices anew, wider than BART's 0.02, which is near nothing at this width."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)


def save_parts(
    folder: Path, kind: str = "bart", width: int = 16, seed: int = 0, dropout: float = 0.1
) -> dict[str, str]:
    """Save the three networks as ordinary folders; their paths by role."""
    torch.manual_seed(seed)
    parts = {
        "question_encoder": (
            DPRQuestionEncoder(dpr_config(width, dropout)),
            word_tokenizer("bert"),
        ),
        "context_encoder": (DPRContextEncoder(dpr_config(width)), word_tokenizer("bert")),
        "generator": (generator(kind, width, dropout), word_tokenizer(kind)),
    }
    for role, (model, tokenizer) in parts.items():
        model.save_pretrained(folder / role)
        tokenizer.save_pretrained(folder / role)
    return {role: str(folder / role) for role in parts}


def context_encoder(width: int = 16, seed: int = 1) -> TextEncoder:
    """A context encoder that is not saved anywhere."""
    torch.manual_seed(seed)
    model = DPRContextEncoder(dpr_config(width)).eval()
    return TextEncoder(model=model, tokenizer=word_tokenizer("bert"), max_length=64, name="tiny")


def tiny_index(folder: Path, width: int = 16) -> PassageIndex:
    """An index of the twenty passages."""
    return build_index(passages(), context_encoder(width), folder)


def tiny_rag(
    folder: Path,
    kind: str = "bart",
    model_type: str = "rag_sequence",
    width: int = 16,
    dropout: float = 0.1,
    **options,
) -> Rag:
    """A RAG checkpoint in folder/assembled over folder/index, loaded; folder/parts made it."""
    if options:
        make_rag(folder, kind, model_type, width, dropout, **options)
    else:
        made, random_state = made_rag(kind, model_type, width, dropout)
        shutil.copytree(made, folder, dirs_exist_ok=True)
        torch.set_rng_state(random_state)  # as if it had been made here
    return load_rag(folder / "assembled")


@functools.cache
def made_rag(kind: str, model_type: str, width: int, dropout: float) -> tuple[Path, torch.Tensor]:
    """A folder to copy, made once a process, and torch's random state afterwards."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    make_rag(folder, kind, model_type, width, dropout)
    return folder, torch.get_rng_state()


def make_rag(
    folder: Path, kind: str, model_type: str, width: int, dropout: float, **options
) -> None:
    """Write parts, index and checkpoint."""
    parts = save_parts(folder / "parts", kind, width, dropout=dropout)
    assemble_rag(
        parts["question_encoder"],
        parts["generator"],
        folder / "assembled",
        model_type=model_type,
        index=tiny_index(folder / "index", width),
        max_combined_length=40,
        **options,
    )


HUB_COMMIT = "ab" * 20


def publish(folder: str | Path, name: str, cache: Path) -> None:
    """Lay a folder down in a cache of the Hub as if `name` had been downloaded to it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / HUB_COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(HUB_COMMIT, encoding="utf-8")


def bare_rag(folder: Path) -> Path:
    """A checkpoint without an index in folder/bare, of what `tiny_rag` makes; the folder."""
    rag = tiny_rag(folder)
    save_rag(rag.model, rag.tokenizer, folder / "bare")
    return folder
