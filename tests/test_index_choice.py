"""An index that cannot be used is refused from JSON alone, with the command to use instead."""

import json
import subprocess
import sys

import pytest
from tiny_job import error_of
from tiny_rag import HUB_COMMIT

from rag_finetune.rag.index_choice import (
    require_known_pair,
    require_usable_index,
    right_encoder,
)

BUILD = "rag-finetune index --passages FILES --context_encoder"


def checkpoint(folder, reference=None, **config):
    """A folder with a RAG configuration, and what it writes down about its index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "rag", **config}))
    if reference is not None:
        (folder / "rag_index.json").write_text(json.dumps(reference))
    return str(folder)


def index_by(folder, name, fingerprint="f" * 64):
    folder.mkdir()
    manifest = {"encoder": {"name": name}, "fingerprint": fingerprint}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"index_name": "exact"}, 'the index "exact" of wiki_dpr'),
        ({"index_name": "compressed"}, 'the index "compressed" of wiki_dpr'),
        ({"index_name": "exact", "dataset": "my/copy"}, 'the index "exact" of my/copy'),
        ({}, 'the index "compressed" of wiki_dpr'),
        ({"index_name": "legacy"}, 'the index "legacy", which is read with pickle'),
        ({"index_name": "custom", "passages_path": "psgs.pkl"}, "psgs.pkl, which is a pickle"),
        ({"index_name": "legacy", "index_path": "a/i.pkl"}, "a/i.pkl, which is a pickle"),
    ],
    ids=str,
)
def test_an_index_that_nothing_can_load_is_refused_with_the_command(tmp_path, config, found):
    model = checkpoint(tmp_path / "rag-token-nq", **config)
    with pytest.raises(ValueError) as error:
        require_usable_index(model, None)
    message = str(error.value)
    assert message.startswith(f"{model}: its config.json points at {found}")
    assert f"{BUILD} facebook/dpr-ctx_encoder-multiset-base --output_dir D" in message
    assert message.endswith("then give --index D.")


def test_a_model_that_is_not_published_leaves_its_encoder_open(tmp_path):
    with pytest.raises(ValueError, match=f"{BUILD} M --output_dir D"):
        require_usable_index(checkpoint(tmp_path / "mine", index_name="exact"), None)


def test_with_an_index_or_a_reference_of_its_own_the_configuration_does_not_matter(tmp_path):
    model = checkpoint(tmp_path / "a", index_name="legacy")
    require_usable_index(model, index_by(tmp_path / "index", "my_encoder"))
    require_usable_index(checkpoint(tmp_path / "b", {"index": "i"}, index_name="legacy"), None)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"model_type": "bart"}'])
def test_what_is_no_rag_configuration_is_left_for_loading_to_say(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    require_usable_index(str(tmp_path), None)
    require_usable_index(str(tmp_path / "nowhere"), None)
    require_usable_index("./no/where", None)


def test_a_cached_model_of_the_hub_is_judged_by_its_configuration(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some--rag"
    checkpoint(repository / "snapshots" / HUB_COMMIT, index_name="exact")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(HUB_COMMIT)
    with pytest.raises(ValueError, match=r'some/rag: its config.json points at the index "exact"'):
        require_usable_index("some/rag", None)


@pytest.mark.parametrize("name", ["facebook/rag-sequence-nq", "nobody/has-this"])
def test_a_model_of_the_hub_that_is_not_here_is_refused_before_it_is_fetched(name):
    with pytest.raises(ValueError, match=r"a model of the Hub has no index. Build one"):
        require_usable_index(name, None)


def test_published_encoders_of_two_trainings_are_refused_by_name(tmp_path):
    index = index_by(tmp_path / "index", "facebook/dpr-ctx_encoder-single-nq-base")
    with pytest.raises(ValueError) as error:
        require_usable_index("facebook/rag-sequence-nq", index)
    assert str(error.value).startswith(
        f"{index}: expected vectors of facebook/dpr-ctx_encoder-multiset-base, which "
        "facebook/rag-sequence-nq was trained with, found those of "
        "facebook/dpr-ctx_encoder-single-nq-base."
    )
    require_known_pair("facebook/dpr-question_encoder-single-nq-base", index)
    with pytest.raises(ValueError, match=f"{BUILD} facebook/dpr-ctx_encoder-multiset-base"):
        require_known_pair("facebook/dpr-question_encoder-multiset-base", index)


def test_another_encoders_index_is_refused_and_the_right_encoder_named(tmp_path):
    reference = {"fingerprint": "a" * 64, "context_encoder": {"name": "my/encoder"}}
    model = checkpoint(tmp_path / "model", reference)
    index = index_by(tmp_path / "index", "other", "b" * 64)
    with pytest.raises(ValueError) as error:
        require_usable_index(model, index)
    message = str(error.value)
    assert "fingerprint aaaaaaaaaaaa (my/encoder)" in message
    assert "found those of other (bbbbbbbbbbbb)" in message
    assert message.endswith("that goes with this one: rag-finetune assemble.")
    require_usable_index(model, index_by(tmp_path / "right", "my/encoder", "a" * 64))


def test_the_right_encoder_is_what_the_checkpoint_or_the_table_says(tmp_path):
    reference = {"context_encoder": {"name": "my/encoder"}}
    assert right_encoder(checkpoint(tmp_path / "m", reference)) == "my/encoder"
    assert right_encoder("facebook/rag-token-nq") == "facebook/dpr-ctx_encoder-multiset-base"
    assert "trained with" in right_encoder("unknown")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--train_file", "q.json"],
        ["evaluate", "--eval_file", "q.json", "--output_dir", "x"],
        ["predict", "--questions", "q.json"],
        ["search", "who?"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_it_before_torch_is_imported(tmp_path, words):
    model = checkpoint(tmp_path / "model", index_name="exact")
    words = [*words, "--model_name_or_path", model]
    assert 'points at the index "exact" of wiki_dpr' in error_of(*words)
    code = (
        "import sys; from rag_finetune.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'datasets', 'faiss', 'numpy'} & set(sys.modules);"
        "sys.exit(10 if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 1, (done.returncode, done.stderr)


def test_train_refuses_it_also_when_a_recipe_names_the_model(tmp_path):
    model = checkpoint(tmp_path / "model", index_name="exact")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"learning_rate: 1e-3\nmodel_name_or_path: {model}\ntrain_file: q.json\n")
    assert 'points at the index "exact"' in error_of("train", "--config", recipe)
