"""Every shipped recipe can be read, and says what to expect of it."""

from pathlib import Path

import pytest
from transformers import HfArgumentParser

from rag_finetune.cli.parsing import parse_known
from rag_finetune.cli.train import make_train_parser
from rag_finetune.cli.train_causal import make_causal_parser
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.causal_arguments import CausalTrainingArguments

RECIPES = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_states_its_score(recipe, tmp_path):
    causal = recipe.stem == "elements_causal"
    arguments = HfArgumentParser(CausalTrainingArguments if causal else RagTrainingArguments)
    parser = make_causal_parser() if causal else make_train_parser()
    words = ["--config", str(recipe), "--train_file", "train.json", "--output_dir", str(tmp_path)]
    words += [] if causal else ["--model_name_or_path", "model"]
    _, rest = parse_known(parser, words, list(arguments._option_string_actions))
    (args,) = arguments.parse_args_into_dataclasses(rest)
    assert args.num_train_epochs > 0
    assert "Expected:" in recipe.read_text().split("\n\n")[0]


def test_there_are_recipes():
    assert RECIPES
