"""`rag-finetune index`, run in this process."""

import json

import pytest
from tiny_job import error_of, files_under, index_words, ok, tiny_job, usage_error_of

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.index.store import open_index

INDEX_FILES = {
    "manifest.json",
    "dense.faiss",
    "passages/data-00000-of-00001.arrow",
    "passages/dataset_info.json",
    "passages/state.json",
    "context_encoder/config.json",
    "context_encoder/model.safetensors",
    "context_encoder/tokenizer.json",
    "context_encoder/tokenizer_config.json",
}


def test_index_leaves_the_folder_that_the_design_describes():
    index = tiny_job() / "index"
    assert files_under(index) == INDEX_FILES
    manifest = json.loads((index / "manifest.json").read_text())
    assert (manifest["n_passages"], manifest["n_documents"], manifest["dimension"]) == (20, 20, 16)
    assert (manifest["passage_words"], manifest["metric"]) == (100, "inner_product")
    assert str(tiny_job()) not in (index / "manifest.json").read_text()


def test_index_says_how_much_it_read_and_wrote(tmp_path):
    done = ok(*index_words(tiny_job(), tmp_path / "index"))
    assert done.out.startswith("20 documents, 20 passages.\n")
    assert "exact index of 20 passages, dimension 16, encoder context_encoder" in done.out


def test_the_vectors_are_those_of_the_context_encoder():
    index = open_index(tiny_job() / "index")
    encoder = load_context_encoder(str(tiny_job() / "parts/context_encoder"))
    rows = index.passages[:3]
    vectors = encoder.encode(rows["text"], rows["title"])
    assert rows["embeddings"] == pytest.approx(vectors, abs=1e-6)


def test_documents_are_cut_at_passage_words(tmp_path):
    ok(*index_words(tiny_job(), tmp_path / "index"), "--passage_words", 6)
    index = open_index(tmp_path / "index")
    assert index.manifest.passage_words == 6
    assert (index.manifest.n_documents, len(index)) == (20, 46)  # of 11, 12 or 13 words
    assert all(len(text.split()) <= 6 for text in index.passages["text"])
    assert {id_.split("#")[0] for id_ in index.passages["id"]} == set(index.passages["document_id"])


def test_max_length_is_what_the_encoder_is_cut_at(tmp_path):
    ok(*index_words(tiny_job(), tmp_path / "index"), "--max_length", 7)
    manifest = open_index(tmp_path / "index").manifest
    assert manifest.encoder["max_length"] == 7
    assert manifest.fingerprint != open_index(tiny_job() / "index").manifest.fingerprint


def test_several_files_of_passages_are_one_corpus(tmp_path):
    (tmp_path / "a.tsv").write_text("id\ttext\ttitle\na\tthe house of ada\tada\n")
    (tmp_path / "b.jsonl").write_text('{"id": "b", "title": "ben", "text": "the house of ben"}\n')
    words = ["--context_encoder", tiny_job() / "parts/context_encoder"]
    files = [tmp_path / "a.tsv", tmp_path / "b.jsonl"]
    ok("index", "--passages", *files, *words, "--output_dir", tmp_path / "index")
    assert open_index(tmp_path / "index").passages["id"][:] == ["a", "b"]


def test_a_recipe_gives_the_flags(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"passages: [{tiny_job() / 'passages.jsonl'}]\n"
        f"context_encoder: {tiny_job() / 'parts/context_encoder'}\n"
        "passage_words: 6\nmax_length: 9\n"
    )
    words = ["--config", recipe, "--output_dir", tmp_path / "index", "--passage_words", 0]
    ok("index", *words)
    manifest = open_index(tmp_path / "index").manifest
    assert (manifest.passage_words, manifest.n_passages) == (0, 20)  # the flag wins
    assert manifest.encoder["max_length"] == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_length", "0"], "--max_length must be at least 1, found 0."),
        (["--passage_words", "-1"], "passage_words must be"),
        (
            ["--context_encoder", "PARTS/question_encoder"],
            "Was the other encoder of the pair meant?",
        ),
        (["--context_encoder", "PARTS/generator"], 'found model type "bart"'),
        (["--context_encoder", "./nowhere"], "./nowhere: no such folder"),
        (["--passages", "nowhere.tsv"], "nowhere.tsv: expected a file, found nothing there"),
        (["--output_dir", "PARTS"], "already exists and is not empty"),
        (["--output_dir", "PARTS/generator/config.json"], "already exists and is not empty"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_work_fails_with_one_line_and_leaves_nothing(tmp_path, words, message):
    words = [word.replace("PARTS", str(tiny_job() / "parts")) for word in words]
    error = error_of(*index_words(tiny_job(), tmp_path / "index"), *words)
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_row_is_named_with_its_line(tmp_path):
    path = tmp_path / "damaged.jsonl"
    path.write_text('{"id": "a", "title": "t", "text": "x"}\n{"id": "b", "title": "t"}\n')
    error = error_of(*index_words(tiny_job(), tmp_path / "index"), "--passages", path)
    assert f"{path}:2" in error
    assert '"text"' in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--passage_wordz", "3"],
            "unrecognised flag --passage_wordz. Did you mean --passage_words?",
        ),
        (["--passage_words", "many"], "argument --passage_words: invalid int value: 'many'"),
        (["stray", "--max_length", "3", "stray"], "unexpected argument"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_usage_ends_with_2(tmp_path, words, message):
    assert message in usage_error_of(*index_words(tiny_job(), tmp_path / "index"), *words)


def test_missing_flags_are_named():
    error = usage_error_of("index", "--passages", "x")
    assert "required: --context_encoder, --output_dir" in error
