import argparse
import dataclasses
import json
import subprocess
import sys

import pytest

from rag_finetune.cli.parsing import (
    add_bool,
    add_dataclass_options,
    expand_config,
    make_parser,
    parse,
    parse_bool,
    parse_known,
)


@pytest.fixture
def parser():
    parser = make_parser("train", "Fine-tune.")
    parser.add_argument("--learning_rate", type=float, default=1e-5, help="step size")
    parser.add_argument("--passages", nargs="+", help="files")
    parser.add_argument("--model-type", choices=["rag_sequence", "rag_token"], default="rag_token")
    add_bool(parser, "do_sample", False, "sample")
    return parser


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return ["--config", "recipe.yaml"]

    return write


@pytest.mark.parametrize("text", ["true", "True", "yes", "on", "1"])
def test_words_for_true_are_true(text):
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["false", "False", "no", "off", "0"])
def test_words_for_false_are_false(text):
    assert parse_bool(text) is False


def test_another_word_is_no_boolean():
    with pytest.raises(argparse.ArgumentTypeError, match='expected true or false, found "maybe"'):
        parse_bool("maybe")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["--do_sample"], True),
        (["--do_sample", "true"], True),
        (["--do_sample", "false"], False),
    ],
)
def test_a_boolean_flag_may_have_a_value(parser, words, expected):
    assert parse(parser, words).do_sample is expected


def test_help_shows_defaults_worth_showing(parser):
    text = parser.format_help()
    assert "step size (default: 1e-05)" in text
    assert "files (default" not in text
    assert "sample (default" not in text


def test_flags_cannot_be_abbreviated(parser, capsys):
    with pytest.raises(SystemExit) as left:
        parse(parser, ["--learning", "1"])
    assert left.value.code == 2
    assert "unrecognised flag --learning. Did you mean --learning_rate?" in capsys.readouterr().err


def test_a_misspelt_flag_is_answered_with_the_nearest(parser, capsys):
    with pytest.raises(SystemExit) as left:
        parse(parser, ["--learning_ratee", "1e-4"])
    assert left.value.code == 2
    assert (
        "unrecognised flag --learning_ratee. Did you mean --learning_rate?"
        in capsys.readouterr().err
    )


def test_a_misspelt_flag_is_named_rather_than_the_one_that_is_then_missing(capsys):
    parser = make_parser("train", "Train.")
    parser.add_argument("--train_file", required=True)
    with pytest.raises(SystemExit):
        parse(parser, ["--train_fil", "a.json"])
    assert "unrecognised flag --train_fil. Did you mean --train_file?" in capsys.readouterr().err


def test_a_flag_like_no_other_is_refused_too(parser, capsys):
    with pytest.raises(SystemExit):
        parse(parser, ["--zzz=1"])
    assert "unrecognised flag --zzz. --help lists the flags." in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--question", "--question=x"])
def test_an_argument_without_a_flag_is_said_to_stand_alone(flag, capsys):
    parser = make_parser("search", "Search.")
    parser.add_argument("question")
    parser.add_argument("--question_encoder")
    with pytest.raises(SystemExit):
        parse(parser, [flag, "Who?"])
    assert "flag --question. The question stands alone: leave --question out" in (
        capsys.readouterr().err
    )


def test_a_stray_word_is_named(parser, capsys):
    with pytest.raises(SystemExit):
        parse(parser, ["stray"])
    assert 'unexpected argument "stray"' in capsys.readouterr().err


def test_a_recipe_sets_defaults_that_argparse_converts(parser, recipe):
    words = recipe("learning_rate: 3e-5\npassages: [a.tsv, b c.tsv]\ndo_sample: yes\n")
    values = parse(parser, words)
    assert values.learning_rate == 3e-5
    assert values.passages == ["a.tsv", "b c.tsv"]
    assert values.do_sample is True
    assert values.config == "recipe.yaml"


def test_flags_win_over_the_recipe_wherever_they_stand(parser, recipe):
    words = recipe("learning_rate: 3e-5\ndo_sample: true\n")
    values = parse(parser, ["--learning_rate", "1", *words, "--do_sample", "false"])
    assert (values.learning_rate, values.do_sample) == (1.0, False)


def test_a_list_on_the_command_line_replaces_the_recipes(parser, recipe):
    values = parse(parser, [*recipe("passages: [a, b]"), "--passages", "c"])
    assert values.passages == ["c"]


def test_a_list_of_the_recipe_does_not_swallow_an_argument_without_flag(parser, recipe):
    parser.add_argument("question")
    values = parse(parser, ["who?", *recipe("passages: [a, b]")])
    assert (values.question, values.passages) == ("who?", ["a", "b"])


def test_config_may_be_joined_by_an_equals_sign(parser, recipe):
    recipe("learning_rate: 2")
    assert parse(parser, ["--config=recipe.yaml"]).learning_rate == 2.0


def test_words_after_two_dashes_are_no_recipe():
    assert expand_config(["--", "--config", "x"], []) == ["--", "--config", "x"]


def test_a_recipe_satisfies_a_required_flag(parser, recipe):
    parser.add_argument("--index", required=True)
    assert parse(parser, recipe("index: runs/index")).index == "runs/index"


def test_dashes_and_underscores_are_equal_in_a_key(parser, recipe):
    values = parse(parser, recipe("learning-rate: 2\nmodel_type: rag_sequence\n"))
    assert (values.learning_rate, values.model_type) == (2.0, "rag_sequence")


def test_values_are_passed_on_as_they_are_written(recipe):
    words = recipe("a: no\nb: 010\nc: 1.10\nd: -1\ne: '- x'\nf: on\ng: ''\nh: é\n")
    assert expand_config(words, list("abcdefgh")) == [
        "--a=no",
        "--b=010",
        "--c=1.10",
        "--d=-1",
        "--e=- x",
        "--f=true",
        "--g=",
        "--h=é",
        *words,
    ]


def test_null_leaves_a_flag_out(recipe):
    words = recipe("a: null\nb:\nc: ~\n")
    assert expand_config(words, ["a", "b", "c"]) == words


def test_a_mapping_becomes_json_with_numbers(recipe):
    words = expand_config(recipe("kwargs: {min_lr: 1e-6, cycles: 2, name: x}"), ["kwargs"])
    name, _, value = words[0].partition("=")
    assert name == "--kwargs"
    assert json.loads(value) == {"min_lr": 1e-6, "cycles": 2, "name": "x"}


def test_an_empty_recipe_changes_nothing(parser, recipe):
    assert parse(parser, recipe("# nothing yet\n")).learning_rate == 1e-5


def test_an_unknown_key_is_answered_with_the_nearest(parser, recipe):
    words = recipe("do_sample: true\nlearning_ratee: 1\n")
    expected = 'recipe.yaml:2: unknown key "learning_ratee". Did you mean "learning_rate"?'
    with pytest.raises(ValueError) as error:
        parse(parser, words)
    assert str(error.value) == expected


@pytest.mark.parametrize("key", ["config", "debug", "help"])
def test_a_recipe_cannot_set_what_steers_the_command_line(parser, recipe, key):
    with pytest.raises(ValueError, match=f'unknown key "{key}"'):
        parse(parser, recipe(f"{key}: x"))


def test_a_key_given_twice_is_an_error(parser, recipe):
    words = recipe("learning_rate: 1\ndo_sample: true\nlearning-rate: 2\n")
    with pytest.raises(ValueError, match=r'recipe\.yaml:3: the key "learning-rate" .* line 1'):
        parse(parser, words)


def test_a_missing_recipe_is_named(parser):
    with pytest.raises(ValueError, match=r"nowhere.yaml: no such file"):
        parse(parser, ["--config", "nowhere.yaml"])


def test_a_folder_is_no_recipe(parser, tmp_path):
    with pytest.raises(OSError, match=str(tmp_path)):
        parse(parser, ["--config", str(tmp_path)])


@pytest.mark.parametrize(("text", "found"), [("- a\n- b\n", "a list"), ("hello", "a single value")])
def test_a_recipe_must_be_a_mapping(parser, recipe, text, found):
    with pytest.raises(ValueError, match=f'expected lines of "flag: value", found {found}'):
        parse(parser, recipe(text))


def test_broken_yaml_is_named_with_its_line(parser, recipe):
    with pytest.raises(ValueError, match=r"recipe\.yaml:2: not YAML: "):
        parse(parser, recipe("learning_rate: 1\npassages: [a, b: c: d\n"))


def test_a_tab_is_named_with_its_line(parser, recipe):
    with pytest.raises(ValueError, match=r"recipe\.yaml:2: not YAML: "):
        parse(parser, recipe("learning_rate: 1\n\tdo_sample: true\n"))


def test_a_recipe_cannot_make_python_objects(recipe):
    words = recipe("kwargs: {x: !!python/object/apply:os.getcwd []}")
    with pytest.raises(ValueError, match="not YAML: could not determine a constructor"):
        expand_config(words, ["kwargs"])


def test_an_empty_list_is_an_error(parser, recipe):
    with pytest.raises(ValueError, match=r'recipe\.yaml:1: "passages" is an empty list'):
        parse(parser, recipe("passages: []"))


def test_two_recipes_are_an_error(parser, recipe):
    words = recipe("learning_rate: 1")
    with pytest.raises(ValueError, match="--config is given twice"):
        parse(parser, [*words, *words])


def test_config_without_a_file_is_wrong_usage(parser):
    with pytest.raises(SystemExit) as left:
        parse(parser, ["--config"])
    assert left.value.code == 2


def test_flags_of_a_second_parser_are_handed_back(parser, recipe):
    words = [*recipe("warmup_steps: 7\nlearning_rate: 2\n"), "--bf16", "--report_to", "a", "b"]
    extra = ["--warmup_steps", "bf16", "report_to"]
    values, rest = parse_known(parser, words, extra)
    assert values.learning_rate == 2.0
    assert rest == ["--warmup_steps=7", "--bf16", "--report_to", "a", "b"]


def test_a_flag_that_neither_parser_knows_is_refused(parser, capsys):
    with pytest.raises(SystemExit) as left:
        parse_known(parser, ["--warmup_stepz", "7"], ["warmup_steps"])
    assert left.value.code == 2
    assert (
        "unrecognised flag --warmup_stepz. Did you mean --warmup_steps?" in capsys.readouterr().err
    )


def test_a_stray_word_is_not_handed_to_the_second_parser(parser, capsys):
    with pytest.raises(SystemExit):
        parse_known(parser, ["stray", "--bf16"], ["bf16"])
    assert 'unexpected argument "stray"' in capsys.readouterr().err


@dataclasses.dataclass
class Options:
    index: str = dataclasses.field(metadata={"help": "the index folder"})
    n_docs: int = dataclasses.field(default=5, metadata={"help": "passages"})
    rate: float | None = None
    normalise: bool = True
    trainable: list[str] = dataclasses.field(
        default_factory=lambda: ["generator"],
        metadata={"choices": ["generator", "question_encoder"]},
    )
    lengths: list[int] | None = None


@pytest.fixture
def options_parser():
    parser = argparse.ArgumentParser()
    add_dataclass_options(parser, Options)
    return parser


def test_the_fields_of_a_dataclass_become_flags(options_parser):
    words = "--index i --n_docs 7 --rate 0.5 --normalise false --trainable question_encoder "
    values = options_parser.parse_args([*words.split(), "--lengths", "1", "2"])
    assert Options(**vars(values)) == Options("i", 7, 0.5, False, ["question_encoder"], [1, 2])


def test_the_defaults_of_a_dataclass_stay(options_parser):
    assert Options(**vars(options_parser.parse_args(["--index", "i"]))) == Options("i")


def test_a_field_without_default_is_required(options_parser, capsys):
    with pytest.raises(SystemExit):
        options_parser.parse_args([])
    assert "required: --index" in capsys.readouterr().err


def test_choices_of_a_field_are_held_to(options_parser, capsys):
    with pytest.raises(SystemExit):
        options_parser.parse_args(["--index", "i", "--trainable", "reader"])
    assert "invalid choice: 'reader'" in capsys.readouterr().err


def test_a_flag_that_is_on_by_default_says_how_to_switch_it_off(options_parser):
    assert "--normalise false switches it off" in " ".join(options_parser.format_help().split())


def test_parsing_imports_nothing_heavy():
    code = (
        "import sys, rag_finetune.cli.parsing;"
        "print([name for name in ('torch', 'yaml') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_wrong_usage_is_one_line_that_says_where_the_flags_are_listed(capsys):
    parser = make_parser("search", "Search.")
    parser.add_argument("--k", type=int, required=True)
    for words, message in (
        (["--k", "x"], "argument --k: invalid int value: 'x'. See rag-finetune search --help."),
        ([], "the following arguments are required: --k. See rag-finetune search --help."),
        (["--k", "1", "--kk", "2"], "unrecognised flag --kk. Did you mean --k? See rag-finetune"),
        (["--k", "1", "--zzz"], "unrecognised flag --zzz. --help lists the flags."),
    ):
        with pytest.raises(SystemExit) as left:
            parse(parser, words)
        error = capsys.readouterr().err
        assert left.value.code == 2
        assert error.count("\n") == 1
        assert error.startswith(f"rag-finetune search: error: {message}")
