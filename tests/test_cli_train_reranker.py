"""`rag-finetune train-reranker`, run in this process."""

import json

import pytest
import tiny_encoders
from tiny_job import error_of, ok, tiny_job, usage_error_of
from tiny_reranker import save_reranker

from rag_finetune.retrieval.rerank import load_reranker


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A cross-encoder, an index of vectors and words, and mined negatives."""
    folder = tmp_path_factory.mktemp("reranker")
    save_reranker(folder / "reranker", std=0.1)
    words = ["--passages", tiny_job() / "passages.jsonl"]
    words += ["--context_encoder", tiny_job() / "parts/context_encoder"]
    ok("index", *words, "--lexical", "bm25", "--output_dir", folder / "index")
    words = ["--index", folder / "index", "--train_file", tiny_job() / "train.json"]
    ok("mine-negatives", *words, "--output_file", folder / "mined.json")
    return folder


def words_of(inputs, output, train_file, *more):
    words = ["--reranker", inputs / "reranker", "--train_file", train_file]
    words += ["--output_dir", output, "--max_steps", 2, "--use_cpu", "--warmup_steps", 0]
    return ["train-reranker", *words, "--learning_rate", "1e-2", "--disable_tqdm", "true", *more]


def test_it_trains_on_mined_negatives_and_leaves_a_cross_encoder(inputs, tmp_path):
    words = words_of(inputs, tmp_path / "run", inputs / "mined.json")
    with pytest.warns(UserWarning, match="and save_strategy epoch differ: the last model is kept"):
        done = ok(*words, "--validation_file", inputs / "mined.json", "--eval_strategy", "steps")
    assert "20 questions to train on, 20 to validate on; 1 process(es)." in done.out
    assert "finished after 2 steps" in done.out
    assert json.loads((tmp_path / "run/train_results.json").read_text())["train_loss"] > 0
    assert load_reranker(str(tmp_path / "run")).score([("a", "b")]).shape == (1,)


def test_negatives_come_from_the_index_where_the_file_has_none(inputs, tmp_path):
    words = words_of(inputs, tmp_path / "run", tiny_job() / "train.json")
    error = error_of(*words)
    assert "has no hard_negative_ctxs. Give --passages or an --index" in error
    done = ok(*words, "--index", inputs / "index")
    assert "20 questions to train on, 0 to validate on" in done.out


def test_files_of_passages_take_the_place_of_an_index(inputs, tmp_path):
    """Negatives are those that an index by words of the same passages gives."""
    weights = []
    for name, source in (
        ("index", ["--index", inputs / "index"]),
        ("files", ["--passages", tiny_job() / "passages.jsonl"]),
    ):
        words = words_of(inputs, tmp_path / name, tiny_job() / "train.json", *source)
        done = ok(*words, "--validation_file", tiny_job() / "train.json")
        assert "20 questions to train on, 20 to validate on" in done.out
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    error = usage_error_of(*words, "--retrieval", "dense", "--question_encoder", "x")
    assert "--retrieval dense needs an --index" in error
    assert "not allowed with argument" in usage_error_of(*words, "--index", inputs / "index")


def test_an_encoder_gets_a_classifier(inputs, tmp_path):
    bare = tiny_encoders.save_bare(tmp_path / "bare")
    words = words_of(inputs, tmp_path / "run", inputs / "mined.json", "--reranker", bare)
    ok(*words)
    assert load_reranker(str(tmp_path / "run")).model.config.num_labels == 1


def test_a_loss_no_lower_than_that_of_chance_is_warned_of(inputs, tmp_path):
    bare = tiny_encoders.save_bare(tmp_path / "bare")
    words = words_of(inputs, tmp_path / "run", inputs / "mined.json", "--reranker", bare)
    with pytest.warns(UserWarning, match=r"any order is 2\.079: the cross-encoder has learnt next"):
        ok(*words, "--learning_rate", 1e-9, "--logging_steps", 1)


def test_a_run_goes_on_and_a_folder_is_not_overwritten(inputs, tmp_path):
    words = words_of(inputs, tmp_path / "run", inputs / "mined.json", "--save_steps", 1)
    words += ["--save_strategy", "steps"]
    ok(*words)
    assert "already exists" in error_of(*words)
    done = ok(*words, "--resume_from_checkpoint", "latest", "--max_steps", 3)
    assert "finished after 3 steps" in done.out


def test_wrong_usage_is_told(inputs, tmp_path):
    words = words_of(inputs, tmp_path / "run", inputs / "mined.json")
    assert "--retrieval dense" in usage_error_of(*words, "--question_encoder", "x")
    assert "nowhere.json: expected a file" in error_of(*words, "--train_file", "nowhere.json")
    assert "--n_negatives" in ok("train-reranker", "--help").out
