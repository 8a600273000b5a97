"""The whole job on real text: small networks from configs, tokenizers trained on the passages."""

import csv
import json
from pathlib import Path

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    PreTrainedTokenizerFast,
)

from rag_finetune.__main__ import main

VOCABULARY = 8000


def word_piece(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    roles = dict(zip(("pad", "unk", "cls", "sep"), special, strict=True))
    names = {f"{role}_token": token for role, token in roles.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def byte_pairs(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def save_parts(squad: Path, folder: Path) -> None:
    with (squad / "passages.tsv").open(newline="") as file:
        texts = [f"{r['title']} {r['text']}" for r in csv.DictReader(file, delimiter="\t")]
    texts += [row["question"] for row in json.loads((squad / "train.json").read_text())]
    words, pairs = word_piece(texts), byte_pairs(texts)
    torch.manual_seed(0)
    encoder = DPRConfig(
        vocab_size=len(words),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=256,
    )
    generator = BartConfig(
        vocab_size=len(pairs),
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        max_position_embeddings=512,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    for name, model, tokenizer in (
        ("question_encoder", DPRQuestionEncoder(encoder), words),
        ("context_encoder", DPRContextEncoder(encoder), words),
        ("generator", BartForConditionalGeneration(generator), pairs),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def command(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_dev_loss_falls_by_a_fifth_and_a_renamed_folder_gives_the_same_figures(
    squad, tmp_path, monkeypatch
):
    save_parts(squad, tmp_path / "parts")
    parts, run = tmp_path / "parts", tmp_path / "run"
    command(
        *("index", "--passages", squad / "passages.tsv", "--output_dir", run / "index"),
        *("--context_encoder", parts / "context_encoder"),
    )
    command(
        *("assemble", "--question_encoder", parts / "question_encoder"),
        *("--generator", parts / "generator", "--output_dir", run / "assembled"),
    )
    command(
        *("train", "--model_name_or_path", run / "assembled", "--index", run / "index"),
        *("--train_file", squad / "train.json", "--validation_file", squad / "dev.json"),
        *("--output_dir", run / "model", "--max_steps", 200, "--learning_rate", "1e-3"),
        *("--learning_rate_question_encoder", "1e-5", "--per_device_train_batch_size", 8),
        *("--eval_strategy", "steps", "--eval_steps", 200, "--eval_on_start", "true"),
        *("--save_strategy", "steps", "--save_steps", 200, "--metric_for_best_model", "loss"),
        # The probe would tell that nothing here is pre-trained.
        *("--disable_tqdm", "true", "--probe", "false"),
    )
    history = json.loads((run / "model/trainer_state.json").read_text())["log_history"]
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert losses[-1] <= 0.8 * losses[0], losses
    evaluate = ("evaluate", "--eval_file", squad / "dev.json", "--probe", "false")
    command(*evaluate, "--model_name_or_path", run / "model", "--output_dir", tmp_path / "first")
    moved = tmp_path / "elsewhere" / "model"
    moved.parent.mkdir()
    (run / "model").rename(moved)
    run.rename(tmp_path / "gone")
    monkeypatch.chdir(tmp_path / "elsewhere")
    command(*evaluate, "--model_name_or_path", moved, "--output_dir", tmp_path / "second")
    for name in ("metrics.json", "predictions.jsonl"):
        first, second = ((tmp_path / f / name).read_text() for f in ("first", "second"))
        assert first == second
    metrics = json.loads((tmp_path / "first/metrics.json").read_text())
    assert metrics["n_examples"] == 334
    assert metrics["answer_in_corpus"] > 0.99
