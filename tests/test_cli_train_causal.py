"""`rag-finetune train-causal`, and the commands that use what it leaves."""

import json

import pytest
import tiny_causal
import tiny_rag
import torch
from light_imports import assert_imports_none_of
from tiny_job import error_of, index_words, ok, write_inputs
from worlds import launch

from rag_finetune.rag import causal_assemble
from rag_finetune.rag.checkpoint import load_rag

QUICK = "--max_steps 2 --warmup_steps 0 --learning_rate 1e-3 --disable_tqdm true".split()


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Inputs, index/, decoder/ and assembled/; leave them as they are."""
    folder = tmp_path_factory.mktemp("causal")
    write_inputs(folder)
    tiny_rag.save_parts(folder / "parts", dropout=0.0)  # processes draw dropout apart
    tiny_causal.save_generator(folder / "decoder", "gpt2", padding=False)
    ok(*index_words(folder, folder / "index"))
    ok(
        *("assemble", *parts_of(folder), "--output_dir", folder / "assembled"),
        *("--max_combined_length", 60, "--n_docs", 3, "--max_target_length", 8),
    )
    return folder


def parts_of(folder, reading="ensemble"):
    template = {"ensemble": tiny_causal.TEMPLATE, "joined": tiny_causal.JOINED}[reading]
    return [
        *("--question_encoder", folder / "parts/question_encoder"),
        *("--generator", folder / "decoder", "--index", folder / "index"),
        *("--reading", reading, "--prompt_template", template),
    ]


def train_words(job, output, *more):
    return [
        "train-causal",
        "--train_file",
        job / "train.json",
        "--output_dir",
        output,
        *QUICK,
        *more,
    ]


def read(path):
    return json.loads(path.read_text())


def test_the_whole_job(job, tmp_path):
    done = ok(*train_words(job, tmp_path / "run", "--model_name_or_path", job / "assembled"))
    assert "question_encoder 4,304 frozen" in " ".join(done.out.split())
    (tmp_path / "run").rename(tmp_path / "moved")
    model = ["--model_name_or_path", tmp_path / "moved"]
    ok(*("evaluate", *model, "--eval_file", job / "train.json", "--output_dir", tmp_path / "e"))
    metrics = read(tmp_path / "e/metrics.json")
    assert metrics["n_examples"] == 20 and {"exact_match", "recall@5", "doc_entropy"} <= {*metrics}
    [first, *_] = (tmp_path / "e/predictions.jsonl").read_text().splitlines()
    row = json.loads(first)
    assert {*row} == {"id", "question", "answers", "prediction", "score", "passages"}
    assert {*row["passages"][0]} == {"id", "title", "text", "score", "posterior"}
    assert sum(passage["posterior"] for passage in row["passages"]) == pytest.approx(1)
    lines = ok("predict", *model, "--questions", job / "train.json").out.splitlines()
    answers = [json.loads(line)["prediction"] for line in lines]
    predicted = (tmp_path / "e/predictions.jsonl").read_text().splitlines()
    assert answers == [json.loads(line)["prediction"] for line in predicted]
    assert "ada" in ok("search", "what is the house of ada ?", *model).out


def test_parts_are_joined_without_a_checkpoint_before(job, tmp_path):
    words = [*parts_of(job, "joined"), "--n_docs", 2, "--max_target_length", 9]
    ok(*train_words(job, tmp_path / "run", *words, "--max_combined_length", 70))
    model = load_rag(tmp_path / "run").model
    assert model.template.reading == "joined" and model.template.text == tiny_causal.JOINED
    assert (model.config.n_docs, model.config.max_combined_length) == (2, 70)
    assert model.max_target_length == 9
    card = (tmp_path / "run/README.md").read_text()
    assert "question_encoder: question_encoder\n" in card and "generator: decoder\n" in card


def test_a_card_that_lies_where_the_command_is_given_is_not_that_of_the_parts(
    job, tmp_path, monkeypatch
):
    (tmp_path / "README.md").write_text("---\nbase_model: somebody/else\n---\n")
    monkeypatch.chdir(tmp_path)
    ok(*train_words(job, "run", *parts_of(job)))
    assert "somebody/else" not in (tmp_path / "run/README.md").read_text()


def test_a_generator_with_an_encoder_is_refused_and_its_command_named(job, tmp_path):
    words = [*parts_of(job), "--generator", job / "parts/generator"]
    error = error_of(*train_words(job, tmp_path / "run", *words))
    assert "parts/generator: expected a decoder-only language model, found " in error
    assert "joined by rag-finetune assemble, and trained by rag-finetune train." in error


def test_the_usual_length_of_a_prompt_is_that_of_what_is_asked_for(job, tmp_path, monkeypatch):
    monkeypatch.setattr(causal_assemble, "PASSAGE_TOKENS", 20)
    for reading, n_docs, length in (("joined", 4, 80), ("joined", 6, 119), ("ensemble", 4, 20)):
        words = [*parts_of(job, reading), "--n_docs", n_docs, "--max_target_length", 9]
        output = tmp_path / f"{reading}{n_docs}"
        ok(*train_words(job, output, *words, "--max_steps", 1))
        assert load_rag(output, with_index=False).model.config.max_combined_length == length


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--question_encoder is missing: give --model_name_or_path, or"),
        (["--generator", "x", "--question_encoder", "y"], "--index is missing"),
        (["--model_name_or_path", "CKPT", "--reading", "joined"], "--reading does not go with"),
    ],
)
def test_what_to_train_is_asked_for(job, tmp_path, words, message):
    words = [job / "assembled" if word == "CKPT" else word for word in words]
    assert message in error_of(*train_words(job, tmp_path / "run", *words))


def test_train_says_which_command_this_model_is_for(job, tmp_path):
    words = ["--model_name_or_path", job / "assembled", "--train_file", job / "train.json"]
    error = error_of("train", *words, "--output_dir", tmp_path / "run", *QUICK)
    assert "decoder-only generator" in error and "train-causal" in error


def test_help_is_instant():
    heavy = {"torch", "transformers", "datasets", "faiss", "numpy", "yaml"}
    assert_imports_none_of(
        heavy, "from rag_finetune.__main__ import main; main(['train-causal', '--help'])"
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_take_the_steps_of_one(job, tmp_path):
    common = ["--model_name_or_path", job / "assembled", "--validation_split", 0, "--use_cpu"]
    common += ["--optim", "sgd", "--learning_rate", 0.1, "--lr_scheduler_type", "constant"]
    common += ["--trainable", "generator", "question_encoder"]
    ok(*train_words(job, tmp_path / "one", *common, "--per_device_train_batch_size", 8))
    words = train_words(job, tmp_path / "two", *common, "--per_device_train_batch_size", 4)
    printed = launch("-m", "rag_finetune", *map(str, words))
    assert "2 process(es)" in printed
    vectors = [
        torch.nn.utils.parameters_to_vector(load_rag(folder).model.parameters()).detach()
        for folder in (tmp_path / "one", tmp_path / "two", job / "assembled")
    ]
    one, two, start = vectors
    assert (one - start).norm() > 1e-3
    assert (one - two).norm() <= 1e-3 * (one - start).norm()
