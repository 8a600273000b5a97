"""`rag-finetune assemble`, run in this process."""

import json
import warnings

import pytest
import tiny_encoders
import tiny_rag
from tiny_job import assemble_words, error_of, files_under, ok, tiny_job, usage_error_of
from tiny_words import words_job
from transformers import RagSequenceForGeneration, RagTokenForGeneration

from rag_finetune.encoders.prefix import prefix_of
from rag_finetune.rag.checkpoint import load_rag

CHECKPOINT_FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "question_encoder_tokenizer/tokenizer.json",
    "question_encoder_tokenizer/tokenizer_config.json",
    "generator_tokenizer/tokenizer.json",
    "generator_tokenizer/tokenizer_config.json",
    "rag_index.json",
}


def test_assemble_leaves_the_checkpoint_that_the_design_describes():
    folder = tiny_job() / "assembled"
    assert files_under(folder) == CHECKPOINT_FILES
    reference = json.loads((folder / "rag_index.json").read_text())
    assert reference["index"] == "../index"
    assert all(str(tiny_job()) not in path.read_text() for path in folder.rglob("*.json"))


def test_what_it_is_made_of_is_said(tmp_path):
    done = ok(*assemble_words(tiny_job(), tmp_path / "rag"))
    assert done.out.startswith(f"{tmp_path / 'rag'}: rag_sequence of ")


def test_without_an_index_there_is_no_reference_to_one(tmp_path):
    ok(*assemble_words(tiny_job(), tmp_path / "rag"))
    assert files_under(tmp_path / "rag") == CHECKPOINT_FILES - {"rag_index.json"}
    with pytest.raises(ValueError, match="--index"):
        load_rag(tmp_path / "rag")
    assert load_rag(tmp_path / "rag", index=tiny_job() / "index").retriever is not None


@pytest.mark.parametrize(
    ("model_type", "model_class"),
    [("rag_sequence", RagSequenceForGeneration), ("rag_token", RagTokenForGeneration)],
)
def test_the_flags_become_the_settings_of_the_checkpoint(tmp_path, model_type, model_class):
    words = ["--model_type", model_type, "--n_docs", 3, "--num_beams", 4]
    words += ["--max_combined_length", 50, "--index", tiny_job() / "index"]
    ok(*assemble_words(tiny_job(), tmp_path / "rag"), *words)
    rag = load_rag(tmp_path / "rag")
    assert type(rag.model) is model_class
    assert (rag.model.config.n_docs, rag.retriever.n_docs) == (3, 3)
    assert rag.model.config.max_combined_length == 50
    assert rag.model.generation_config.num_beams == 4
    assert rag.model.rag.generator.generation_config.num_beams == 4


def test_an_index_of_another_dimension_is_refused(tmp_path):
    tiny_rag.tiny_index(tmp_path / "wide", width=32)
    error = error_of(*assemble_words(tiny_job(), tmp_path / "rag"), "--index", tmp_path / "wide")
    assert "expected vectors of dimension 16" in error
    assert "found 32" in error
    assert not (tmp_path / "rag").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n_docs", "0"], "--n_docs must be at least 1, found 0."),
        (["--num_beams", "-1"], "--num_beams must be at least 1, found -1."),
        (["--max_combined_length", "0"], "--max_combined_length must be at least 1"),
        (["--max_combined_length", "300"], "Lower --max_combined_length."),
        (
            ["--question_encoder", "PARTS/context_encoder"],
            "Was the other encoder of the pair meant?",
        ),
        (["--question_encoder", "PARTS/generator"], 'found model type "bart"'),
        (["--generator", "PARTS/question_encoder"], 'found model type "dpr"'),
        (["--question_encoder", "PARTS"], "config.json is missing"),
        (["--pooling", "mean"], "is a DPR model"),
        (["--scale", "0"], "scale must be a number above 0, found 0.0."),
        (["--index", "INDEX", "--questions", "nowhere.json"], "nowhere.json: expected a file"),
        (["--question_encoder", "./nowhere"], "./nowhere: no such folder"),
        (["--generator", "./nowhere"], "./nowhere: no such folder"),
        (["--index", "nowhere"], "nowhere: no such folder. Build it with `rag-finetune index`."),
        (["--index", "PARTS"], "not an index folder, manifest.json is missing"),
        (["--output_dir", "PARTS"], "already exists and is not empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_fails_with_one_line_and_leaves_nothing(tmp_path, words, message):
    words = [word.replace("PARTS", str(tiny_job() / "parts")) for word in words]
    words = [word.replace("INDEX", str(tiny_job() / "index")) for word in words]
    assert message in error_of(*assemble_words(tiny_job(), tmp_path / "rag"), *words)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_head_is_wrong_usage(tmp_path):
    error = usage_error_of(*assemble_words(tiny_job(), tmp_path / "x"), "--model_type", "rag")
    assert "argument --model_type: invalid choice: 'rag'" in error


# ---- Encoders that are not DPR's, and their scale ----


def sentence_words(folder, *words) -> list:
    """`index` and `assemble` of a sentence-transformers encoder; the words of `assemble`."""
    encoder = tiny_encoders.save_sentence_folder(folder / "encoder")
    inputs = ["--passages", tiny_job() / "passages.jsonl", "--context_encoder", encoder]
    ok("index", *inputs, "--output_dir", folder / "index")
    generator = tiny_job() / "parts" / "generator"
    parts = ["--question_encoder", encoder, "--generator", generator, "--index", folder / "index"]
    return ["assemble", *parts, "--output_dir", folder / "rag", *words]


def test_how_flat_the_passages_weigh_is_printed_and_warned_about(tmp_path):
    words = [*sentence_words(tmp_path), "--max_combined_length", "40"]
    with pytest.warns(UserWarning, match=r"nearly flat .* Raise --scale\."):
        done = ok(*words, "--scale", "1")
    assert "p(z|x) over 5 passages has entropy 0.99" in done.out or "entropy 1.0" in done.out
    assert "20 first sentences of passages (none of --questions)" in done.out
    words[words.index(tmp_path / "rag")] = tmp_path / "sharp"
    with warnings.catch_warnings(action="error"):
        done = ok(*words, "--scale", "5000", "--questions", tiny_job() / "train.json")
    assert f"mean over 20 questions of {tiny_job() / 'train.json'}." in done.out
    assert load_rag(tmp_path / "sharp").model.config.question_encoder.scale == 5000


def test_the_flags_of_the_question_encoder_reach_it(tmp_path):
    bare = tiny_encoders.save_bare(tmp_path / "bare")
    words = assemble_words(tiny_job(), tmp_path / "rag")
    words[words.index("--question_encoder") + 1] = bare
    flags = ["--pooling", "cls", "--normalize", "--question_prefix", "who is ", "--scale", "7"]
    done = ok(*words, *flags)
    assert "p(z|x)" not in done.out  # no index, nothing to find
    rag = load_rag(tmp_path / "rag", with_index=False)
    config = rag.model.config.question_encoder
    assert (config.pooling, config.normalize, config.scale) == ("cls", True, 7.0)
    assert prefix_of(rag.tokenizer.question_encoder) == "who is "


def test_one_passage_a_question_has_no_entropy(tmp_path):
    words = ["--n_docs", 1, "--index", tiny_job() / "index"]
    assert "p(z|x)" not in ok(*assemble_words(tiny_job(), tmp_path / "rag"), *words).out


def test_questions_without_an_index_are_wrong_usage(tmp_path):
    words = ["--questions", tiny_job() / "train.json"]
    error = usage_error_of(*assemble_words(tiny_job(), tmp_path / "rag"), *words)
    assert "--questions goes with --index" in error


def test_a_model_goes_with_an_index_of_words_only(tmp_path):
    words = assemble_words(tiny_job(), tmp_path / "rag")
    done = ok(*words, "--index", words_job() / "bare")
    assert "The index holds no vectors: p(z|x) is by words" in done.out
    reference = json.loads((tmp_path / "rag/rag_index.json").read_text())
    assert "fingerprint" not in reference
    assert load_rag(tmp_path / "rag").retriever.searcher.retrieval.way == "bm25"
    card = (tmp_path / "rag/README.md").read_text()
    assert "| searched by words | bm25, tfidf |" in card
    assert "plain Transformers" not in card and "dense.faiss" not in card
