"""Recipes: YAML in, words of a command line out."""

import pytest

from rag_finetune.cli.recipe import read_recipe

FLAGS = ("learning_rate", "trainable", "bf16", "optim_args", "n_docs")


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_values_are_handed_on_as_they_are_written(tmp_path):
    words = read_recipe(write(tmp_path, "learning_rate: 3e-5\nbf16: true\nn_docs: null\n"), FLAGS)
    assert words == ["--learning_rate=3e-5", "--bf16=true"]


def test_a_list_becomes_several_words(tmp_path):
    words = read_recipe(write(tmp_path, "trainable: [generator, question_encoder]\n"), FLAGS)
    assert words == ["--trainable", "generator", "question_encoder"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_ratee: 1\n", 'recipe.yaml:1: unknown key "learning_ratee". Did you mean'),
        ("n_docs: 1\nn_docs: 2\n", "recipe.yaml:2"),
        ("- n_docs\n", "recipe.yaml"),
        ("n_docs: [1\n", "recipe.yaml:"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=r"recipe\.yaml") as caught:
        read_recipe(write(tmp_path, text), FLAGS)
    assert message in str(caught.value)
