"""What README.md of a checkpoint says, and that its code runs."""

import re
import subprocess
import sys

import pytest
import tiny_encoders
import tiny_rag
from huggingface_hub import ModelCard
from transformers import GenerationConfig

from rag_finetune.rag.assemble import assemble_rag
from rag_finetune.rag.checkpoint import load_rag, place_index
from rag_finetune.rag.model_card import (
    CARD,
    CardIndex,
    Origin,
    origin_of_checkpoint,
    origin_of_parts,
    public_name,
    save_model_card,
)

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


@pytest.fixture
def rag(tmp_path):
    return tiny_rag.tiny_rag(tmp_path)


def card_of(folder):
    return (folder / CARD).read_text(encoding="utf-8")


def test_assembling_leaves_a_card_that_names_the_parts_and_the_index(tmp_path, rag):
    card = card_of(tmp_path / "assembled")
    data = ModelCard(card).data.to_dict()
    assert data["library_name"] == "transformers"
    assert {"rag", "rag-sequence"} <= set(data["tags"])
    assert "base_model" not in data  # both are folders
    assert data["rag_finetune"] == {
        "question_encoder": "question_encoder",
        "generator": "generator",
    }
    assert "# RAG-Sequence: question_encoder and generator\n" in card
    manifest = rag.retriever.index.manifest
    assert f"| fingerprint of the context encoder | {manifest.fingerprint} |" in card
    assert "| passages | 20 |" in card and "| context encoder | tiny |" in card
    assert "| stands in | a folder of its own, not here |" in card
    assert "## Training" not in card and "validation" not in card
    assert str(tmp_path) not in card


def test_a_name_of_the_hub_is_a_base_model(tmp_path):
    (tmp_path / "local").mkdir()
    origin = origin_of_parts(question_encoder="org/encoder", generator=str(tmp_path / "local"))
    assert origin.parts == {"question_encoder": "org/encoder", "generator": "local"}
    assert origin.base_models == ["org/encoder"]
    assert public_name(str(tmp_path / "local" / ".." / "local")) == "local"


def test_the_origin_is_read_from_the_card_of_the_checkpoint(tmp_path, rag):
    origin = Origin({"question_encoder": "org/encoder", "generator": "g"}, ["org/encoder"])
    save_model_card(tmp_path / "assembled", rag.model, origin)
    assert origin_of_checkpoint(str(tmp_path / "assembled")) == origin
    assert origin_of_checkpoint("facebook/rag-sequence-nq") == Origin(
        {}, ["facebook/rag-sequence-nq"]
    )


@pytest.mark.parametrize(
    ("text", "base_models"),
    [
        (None, []),
        ("# Mine\n", []),
        ("---\nbase_model: org/one\nrag_finetune: 3\n---\n# Mine\n", ["org/one"]),
        ("---\n[\n---\n", []),
    ],
)
def test_a_card_of_somebody_else_tells_little_and_breaks_nothing(tmp_path, text, base_models):
    if text is not None:
        (tmp_path / CARD).write_text(text)
    assert origin_of_checkpoint(str(tmp_path)) == Origin({}, base_models)


def test_data_hyperparameters_and_figures_stand_in_tables(tmp_path, rag):
    save_model_card(
        tmp_path,
        rag.model,
        Origin(),
        training={"trained on": "train.json, 20 questions", "learning_rate": 3e-5},
        metrics={"exact_match": 0.9217, "recall@5": 1.0},
        hub_name="org/mine",
    )
    card = card_of(tmp_path)
    assert "| trained on | train.json, 20 questions |\n| learning_rate | 3e-05 |" in card
    assert "| exact_match | 92.2 % |\n| recall@5 | 100.0 % |" in card
    assert ModelCard(card).data.to_dict()["metrics"] == ["exact_match"]
    assert 'snapshot_download("org/mine")' in card
    assert "# RAG-Sequence: a question encoder and a generator" in card
    assert "## Index" not in card


@pytest.mark.parametrize("kind", ["dpr", "pooled"])
def test_the_code_of_a_card_runs_in_a_new_process(tmp_path, kind):
    parts = tiny_rag.save_parts(tmp_path / "parts")
    if kind == "pooled":
        parts["question_encoder"] = tiny_encoders.save_sentence_folder(tmp_path / "sentences")
    else:
        # As a published generator has them, not taken from its config: Transformers 5.23 then puts
        # a `retriever` that RagToken's from_pretrained is given into them, and cannot print them.
        settings = GenerationConfig.from_pretrained(parts["generator"]).to_dict()
        settings.pop("_from_model_config", None)
        GenerationConfig(**settings).save_pretrained(parts["generator"])
    index = tiny_rag.tiny_index(tmp_path / "index")
    folder = assemble_rag(
        parts["question_encoder"],
        parts["generator"],
        tmp_path / "assembled",
        model_type="rag_token" if kind == "pooled" else "rag_sequence",
        max_combined_length=40,
    )
    rag = load_rag(folder, index=index)
    place_index(index, folder, "copy", ours=False)
    save_model_card(folder, rag.model, Origin(), CardIndex(index.manifest, is_inside=True))
    card = card_of(folder)
    assert ("rag_finetune.register()" in card) == (kind == "pooled")
    assert ("no mask of the padding" in card) == (kind != "pooled")  # RAG-Token has one
    first, second = BLOCK.findall(card.replace("path/to/this/folder", str(folder)))
    question = 'the house of ada ?"'
    # Plain Transformers first: the classes that ours registers would help it.
    codes = [f"folder = {str(folder)!r}\n" + second, first]
    codes = [code.replace('Which question do you have?"', question) for code in codes]
    assert all(printed.strip() for printed in exec_in_new_process(codes))


def exec_in_new_process(codes):
    """What each prints; none sees the names of another."""
    program = "".join(f"exec({code!r}, {{}})\nprint('----')\n" for code in codes)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *printed, _ = done.stdout.split("----\n")
    return printed
