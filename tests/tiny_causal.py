"""Tiny decoder-only generators from configs, and RAG models with them, over the twenty facts."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import tiny_rag
import torch
from tiny_training import SHORT, weights
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.causal_assemble import Prompting
from rag_finetune.rag.checkpoint import Rag, load_rag
from rag_finetune.training.causal_arguments import CausalTrainingArguments
from rag_finetune.training.causal_trainer import CausalRagTrainer

TEMPLATE = "{passage} // {question} /"
JOINED = "{passages} // {question} /"
CHAT = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
PROMPT_WORDS = "Question: Answer: Answer in a few words: [1] [2] [3] <user> <assistant>".split()


def tokenizer(*, padding: bool = True) -> PreTrainedTokenizerFast:
    """A word-level tokenizer; without padding of its own, as GPT-2's, its end is what pads."""
    words = ["<pad>", "</s>", "<unk>", *dict.fromkeys([*tiny_rag.WORDS, *PROMPT_WORDS])]
    vocabulary = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>"} if padding else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", unk_token="<unk>", **names
    )


def network(kind: str = "llama", width: int = 16, positions: int = 128) -> torch.nn.Module:
    """A 1-layer GPT-2, OPT or Llama without dropout."""
    common = {"vocab_size": len(tokenizer()), "bos_token_id": None, "eos_token_id": 1}
    if kind == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                **common,
                n_embd=width,
                n_layer=1,
                n_head=2,
                n_positions=positions,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        )
    common |= {
        "pad_token_id": 0,
        "hidden_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": positions,
    }
    if kind == "opt":
        sizes = {"word_embed_proj_dim": width, "ffn_dim": 2 * width}
        return OPTForCausalLM(OPTConfig(**common, **sizes, dropout=0.0))
    return LlamaForCausalLM(LlamaConfig(**common, intermediate_size=2 * width))


def save_generator(folder: Path, kind: str = "llama", *, padding: bool = True, chat=None) -> str:
    """Save one as an ordinary folder, its weights drawn wide so that its guesses differ."""
    torch.manual_seed(0)
    made = network(kind)
    tiny_rag.spread(made, 0.3)
    made.save_pretrained(folder)
    words = tokenizer(padding=padding)
    words.chat_template = chat
    words.save_pretrained(folder)
    return str(folder)


def tiny_causal(folder: Path, kind: str = "llama", reading: str = "ensemble", **options) -> Rag:
    """A checkpoint in folder/assembled over folder/index, loaded; folder/parts made it."""
    made = made_causal(kind, reading, tuple(sorted(options.items())))
    shutil.copytree(made, folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    return load_rag(folder / "assembled")


@functools.cache
def made_causal(kind: str, reading: str, given: tuple[tuple[str, object], ...]) -> Path:
    """A folder to copy, made once a process."""
    folder, options = Path(tempfile.mkdtemp()), dict(given)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    chat, padding = options.pop("chat_template", None), options.pop("padding", True)
    parts = tiny_rag.save_parts(folder / "parts", dropout=0.0)
    template = None if chat else {"ensemble": TEMPLATE, "joined": JOINED}[reading]
    prompting = Prompting(reading, template, max_target_length=options.pop("answer", 8))
    settings = {"n_docs": 3, "max_combined_length": 100 if reading == "joined" else 40} | options
    assemble_rag(
        parts["question_encoder"],
        save_generator(folder / "parts" / "decoder", kind, padding=padding, chat=chat),
        folder / "assembled",
        index=tiny_rag.tiny_index(folder / "index"),
        prompting=prompting,
        **settings,
    )
    return folder


def train_causal(folder: Path, rag: Rag | None = None, *, eval_questions=None, count=16, **options):
    """Train one in folder/run; returns the trainer."""
    rag = rag or tiny_causal(folder)
    resume = options.pop("resume", None)
    defaults = SHORT | {"output_dir": str(folder / "run")}
    args = CausalTrainingArguments(**(defaults | options))
    trainer = CausalRagTrainer(rag, args, tiny_rag.questions(count), eval_questions)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def finished_adapters(trainer: CausalRagTrainer, start: dict) -> dict:
    """Finish a run in which adapters alone may learn; the generator's weights as they are saved.

    They have the names of those that it began with.
    """
    for name, parameter in trainer.rag.model.generator.named_parameters():
        assert ("lora_" in name) is parameter.requires_grad, name
    trainer.finish({})
    saved = weights(load_rag(trainer.args.output_dir).model.generator)
    assert saved.keys() == start.keys()
    return saved
