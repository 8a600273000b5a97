"""Flags that commands share, --help, and that no flag is there for nothing."""

import argparse
import dataclasses

import pytest
import tiny_job
from light_imports import assert_imports_none_of
from tiny_job import ok, run

from rag_finetune.__main__ import COMMANDS
from rag_finetune.cli import (
    assemble,
    compact,
    compare,
    doctor,
    evaluate,
    export_beir,
    index,
    make_questions,
    mine_negatives,
    predict,
    search,
    train,
    train_causal,
    train_generator,
    train_reranker,
    train_retriever,
    tune_retrieval,
    update,
)
from rag_finetune.cli.flags import (
    add_decoding_flags,
    best_device,
    decoding_options,
    peek,
    require_positive,
    training_flags,
)
from rag_finetune.cli.parsing import make_parser
from rag_finetune.training import arguments
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.options import RagOptions

STEERING = {"help", "config", "debug", "help_all"}


def test_help_of_every_command_imports_nothing_heavy():
    code = (
        "import contextlib, io\n"
        "from rag_finetune.__main__ import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        try: left = main([command, '--help'])\n"
        "        except SystemExit as error: left = error.code\n"
        "    assert left == 0 and '--config' in out.getvalue(), command\n"
    )
    heavy = {"torch", "transformers", "datasets", "faiss", "numpy", "accelerate"}
    assert_imports_none_of(heavy, code)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_says_what_it_is_for(command):
    make = {
        "index": index.make_index_parser,
        "update": update.make_update_parser,
        "compact": compact.make_compact_parser,
        "assemble": assemble.make_assemble_parser,
        "train": train.make_help_parser,
        "train-retriever": train_retriever.make_help_parser,
        "evaluate": evaluate.make_evaluate_parser,
        "compare": compare.make_compare_parser,
        "predict": predict.make_predict_parser,
        "search": search.make_search_parser,
        "make-questions": make_questions.make_make_questions_parser,
        "mine-negatives": mine_negatives.make_mine_negatives_parser,
        "train-reranker": train_reranker.make_help_parser,
        "tune-retrieval": tune_retrieval.make_tune_retrieval_parser,
        "train-causal": train_causal.make_help_parser,
        "train-generator": train_generator.make_help_parser,
        "export-beir": export_beir.make_export_beir_parser,
        "doctor": doctor.make_doctor_parser,
    }[command]
    assert [action.dest for action in make()._actions if not action.help] == []


def test_help_of_train_shows_our_flags_and_help_all_those_of_transformers_too():
    plain, whole = ok("train", "--help").out, ok("train", "--help_all").out
    ours = {f"--{field.name}" for field in dataclasses.fields(RagOptions)}
    theirs = {f"--{field.name}" for field in dataclasses.fields(RagTrainingArguments)} - ours
    for flag in (*ours, "--output_dir", "--resume_from_checkpoint", "--train_file"):
        assert flag in plain
    assert "--lr_scheduler_type" not in plain
    for flag in theirs - {"--debug"}:
        assert flag in whole, flag
    assert ok("train", "--help", "--train_file", "x").out == plain
    assert ok("train", "-h").out == plain


@pytest.fixture
def parser():
    parser = make_parser("predict", "Answer.")
    add_decoding_flags(parser)
    return parser


def test_decoding_options_hold_what_was_given(parser):
    assert decoding_options(parser.parse_args([])) == {
        "n_docs": None,
        "batch_size": 8,
        "max_question_length": 128,
        "thorough": True,
    }
    words = "--n_docs 3 --num_beams 4 --max_new_tokens 9 --decoding fast --batch_size 2"
    assert decoding_options(parser.parse_args(words.split())) == {
        "n_docs": 3,
        "batch_size": 2,
        "max_question_length": 128,
        "thorough": False,
        "num_beams": 4,
        "max_new_tokens": 9,
    }


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    "flag", "n_docs num_beams max_new_tokens batch_size max_question_length".split()
)
def test_a_number_below_one_is_refused_by_the_name_of_its_flag(parser, flag, value):
    with pytest.raises(ValueError, match=f"--{flag} must be at least 1, found {value}"):
        decoding_options(parser.parse_args([f"--{flag}={value}"]))


def test_a_flag_that_was_not_given_is_not_checked():
    require_positive(argparse.Namespace(k=None, n=1), "k", "n")


def test_the_best_device_of_a_machine_without_accelerator_is_its_processor(monkeypatch):
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: None)
    assert str(best_device()) == "cpu"


def test_a_few_flags_can_be_looked_at_before_all_others(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("k: 3\nindex: a\nother: [1, 2]\n")
    words = ["--model", "m", "--config", str(recipe), "--unknown", "x", "word"]
    assert peek(words, "model", "index", "k") == {"model": "m", "index": "a", "k": "3"}
    assert peek([*words, "--index=b"], "index") == {"index": "b"}
    assert peek(["--model"], "model") == {"model": None}
    assert peek([], "model") == {"model": None}


def test_flags_of_a_bare_encoder_are_refused_beside_a_checkpoint(tmp_path):
    job = tiny_job.tiny_job()
    model = ["--model_name_or_path", job / "run"]
    for flag in ("--pooling", "cls"), ("--normalize", "false"), ("--question_prefix", ""):
        error = tiny_job.error_of("search", "who ?", *model, *flag)
        assert "are for a bare --question_encoder: a checkpoint has its own." in error
        words = ["--eval_file", job / "train.json", "--output_dir", tmp_path / "e", *flag]
        assert "are for a bare --question_encoder" in tiny_job.error_of("evaluate", *model, *words)


# ---- The flags of Transformers ----


@pytest.fixture(scope="module")
def training_parser():
    return training_flags(RagTrainingArguments, make_parser("train", "Train."))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--bf16", "bf16", True),
        ("--bf16 false", "bf16", False),
        ("--load_best_model_at_end", "load_best_model_at_end", True),
        ("--greater_is_better", "greater_is_better", True),
        ("--activation_checkpointing", "activation_checkpointing", True),
        ("--gradient_checkpointing", "activation_checkpointing", True),
        ("--use_cpu", "use_cpu", True),
        ("--no_dataloader_pin_memory", "dataloader_pin_memory", False),
        ("--predict_with_generate false", "predict_with_generate", False),
        ("--report_to tensorboard wandb", "report_to", ["tensorboard", "wandb"]),
        ("--report_to none", "report_to", []),
        ("--include_num_input_tokens_seen", "include_num_input_tokens_seen", "all"),
        ("--include_num_input_tokens_seen true", "include_num_input_tokens_seen", "all"),
        ("--include_num_input_tokens_seen false", "include_num_input_tokens_seen", "no"),
        ("--include_num_input_tokens_seen non_padding", "include_num_input_tokens_seen", None),
        ("--learning_rate 3e-4", "learning_rate", 3e-4),
        ("--learning-rate 3e-4", "learning_rate", 3e-4),
        ("--save_total_limit 5", "save_total_limit", 5),
        ("--trainable generator", "trainable", ["generator"]),
        ("--lr_scheduler_type cosine", "lr_scheduler_type", "cosine"),
        ('--lr_scheduler_kwargs {"num_cycles":2}', "lr_scheduler_kwargs", {"num_cycles": 2}),
    ],
)
def test_training_flags_are_read_as_they_are_documented(
    training_parser, tmp_path, words, name, value
):
    words = [*words.split(), "--output_dir", str(tmp_path)]
    (args,) = training_parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    assert getattr(args, name) == ("non_padding" if value is None else value)


def test_every_training_argument_has_a_flag(training_parser):
    names = {field.name for field in dataclasses.fields(RagTrainingArguments)}
    assert {f"--{name}" for name in names} <= set(training_parser._option_string_actions)


def test_the_defaults_on_the_command_line_are_those_in_python(training_parser, tmp_path):
    words = ["--output_dir", str(tmp_path)]
    (args,) = training_parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    assert args.to_dict() == RagTrainingArguments(output_dir=str(tmp_path)).to_dict()


# ---- No flag is read by nobody ----


class Recording(argparse.Namespace):
    """Notes which of its values are asked for."""

    def __init__(self, values, seen):
        vars(self).update(vars(values))
        vars(self)["_seen"] = seen

    def __getattribute__(self, name):
        if not name.startswith("_"):
            vars(self)["_seen"].add(name)
        return super().__getattribute__(name)


def flags_read(monkeypatch, module, *lines):
    """The flags that a command asks for, over several runs of it."""
    seen, known = set(), set()
    original = module.parse

    def parse(parser, argv):
        values = original(parser, argv)
        known.update(vars(values))
        return Recording(values, seen)

    monkeypatch.setattr(module, "parse", parse)
    for words in lines:
        ok(*words)
    return known - STEERING, (seen & known) - STEERING


def test_every_flag_of_index_is_read(monkeypatch, tmp_path):
    words = tiny_job.index_words(tiny_job.tiny_job(), tmp_path / "x")
    known, seen = flags_read(monkeypatch, index, words)
    assert seen == known


def test_every_flag_of_assemble_is_read(monkeypatch, tmp_path):
    words = tiny_job.assemble_words(tiny_job.tiny_job(), tmp_path / "x")
    known, seen = flags_read(monkeypatch, assemble, words)
    assert seen == known


def test_every_flag_of_evaluate_is_read(monkeypatch, tmp_path):
    job = tiny_job.tiny_job()
    words = ["evaluate", "--eval_file", job / "train.json", "--output_dir", tmp_path]
    encoder = ["--question_encoder", job / "parts/question_encoder", "--index", job / "index"]
    checkpoint = ["--model_name_or_path", job / "run", "--overwrite"]
    lines = [*words, "--retrieval_only", *encoder], [*words, *checkpoint]
    known, seen = flags_read(monkeypatch, evaluate, *lines)
    assert seen == known


def test_every_flag_of_predict_is_read(monkeypatch):
    job = tiny_job.tiny_job()
    words = ["predict", "--model_name_or_path", job / "run", "--questions", job / "train.json"]
    known, seen = flags_read(monkeypatch, predict, words)
    assert seen == known


def test_every_flag_of_search_is_read(monkeypatch):
    words = ["search", "who ?", "--model_name_or_path", tiny_job.tiny_job() / "run"]
    known, seen = flags_read(monkeypatch, search, words)
    assert seen == known


def test_every_flag_of_train_is_read(monkeypatch, tmp_path):
    seen, data_seen, known = set(), set(), set()

    class RecordingArguments(RagTrainingArguments):
        def __getattribute__(self, name):
            seen.add(name)
            return super().__getattribute__(name)

        def __post_init__(self):
            super().__post_init__()
            seen.clear()  # a check alone makes nothing of a flag

        def public_dict(self):
            return {}

    original = train.parse_known

    def parse_known(*args):
        values, rest = original(*args)
        known.update(vars(values))
        return Recording(values, data_seen), rest

    monkeypatch.setattr(arguments, "RagTrainingArguments", RecordingArguments)
    monkeypatch.setattr(train, "parse_known", parse_known)
    job = tiny_job.tiny_job()
    words = "--learning_rate_question_encoder 1e-4 --retriever_loss lsr"
    ok(*tiny_job.train_words(job, tmp_path / "run"), *words.split())
    assert data_seen & known == known - STEERING
    ours = {field.name for field in dataclasses.fields(RagOptions)}
    assert ours - seen == set()


def test_the_debug_flag_shows_where_an_error_came_from(tmp_path):
    words = tiny_job.index_words(tiny_job.tiny_job(), tmp_path / "x")
    done = run(*words, "--passages", "nowhere.tsv", "--debug")
    assert done.code == 1
    assert "Traceback" in done.err
