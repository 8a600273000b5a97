"""`rag-finetune train-generator`, run in this process."""

import json

from tiny_job import QUICK, assemble_words, error_of, index_words, ok, usage_error_of, write_inputs

from rag_finetune.cli.train import make_help_parser as make_train_help
from rag_finetune.cli.train_generator import make_generator_parser, make_help_parser
from rag_finetune.rag.checkpoint import load_rag
from rag_finetune.training.generator_options import NOT_HERE


def job(folder):
    write_inputs(folder)
    ok(*index_words(folder, folder / "index"))
    ok(*assemble_words(folder, folder / "assembled"))


def train_words(folder, *words):
    return (
        "train-generator",
        "--model_name_or_path",
        folder / "assembled",
        "--index",
        folder / "index",
        "--train_file",
        folder / "train.json",
        "--output_dir",
        folder / "trained",
        *QUICK,
        *words,
    )


def test_the_whole_command_leaves_a_rag_checkpoint_whose_generator_moved(tmp_path):
    job(tmp_path)
    words = ("--context", "mixed", "--validation_split", "0.2", "--probe", "false")
    out = ok(*train_words(tmp_path, *words)).out
    assert "question_encoder" in out and "frozen" in out
    assert "Passages read in training: mixed" in out
    start, trained = (
        load_rag(tmp_path / "assembled", index=tmp_path / "index"),
        load_rag(tmp_path / "trained"),
    )
    before, after = start.model.state_dict(), trained.model.state_dict()
    equal = {name: bool((before[name] == after[name]).all()) for name in before}
    assert all(equal[name] for name in equal if "question_encoder" in name)
    assert not all(equal[name] for name in equal if "generator" in name)
    kept = json.loads((tmp_path / "trained" / "training_arguments.json").read_text())
    assert (kept["context"], kept["trainable"]) == ("mixed", ["generator"])


def test_what_has_no_meaning_here_is_refused_by_name(tmp_path):
    job(tmp_path)
    message = error_of(*train_words(tmp_path, "--doubt_weight", "1", "--probe", "false"))
    assert "--doubt_weight 1.0 cannot be used: a question is trained on with one passage" in message


def test_a_flag_that_does_not_exist_gets_the_nearest_right_one(tmp_path):
    write_inputs(tmp_path)
    assert "--context" in usage_error_of(*train_words(tmp_path, "--contexts", "gold"))


def test_help_shows_what_it_takes_and_not_what_it_refuses():
    shown, of_train = (
        {action.dest for action in parser._actions}
        for parser in (make_help_parser(), make_train_help())
    )
    assert set(NOT_HERE) <= of_train
    assert shown == of_train - set(NOT_HERE) | {"context", "gold_probability"}
    assert "rag_finetune train-generator --config" in make_generator_parser().format_help()
