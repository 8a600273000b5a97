"""Every shipped recipe can be read, and says what to expect of it."""

from pathlib import Path

import pytest
from transformers import HfArgumentParser

from rag_finetune.cli.recipe import read_recipe
from rag_finetune.training.arguments import RagTrainingArguments

RECIPES = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_states_its_score(recipe, tmp_path):
    parser = HfArgumentParser(RagTrainingArguments)
    words = read_recipe(str(recipe), list(parser._option_string_actions))
    (args,) = parser.parse_args_into_dataclasses([*words, "--output_dir", str(tmp_path)])
    assert args.num_train_epochs > 0
    assert "Expected:" in recipe.read_text().split("\n\n")[0]


def test_there_are_recipes():
    assert RECIPES
