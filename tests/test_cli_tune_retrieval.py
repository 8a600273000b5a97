"""`rag-finetune tune-retrieval`, run in this process."""

import json
import shutil

import pytest
from tiny_job import error_of, ok, tiny_job, usage_error_of
from tiny_words import words_job

from rag_finetune.cli import tune_retrieval as command
from rag_finetune.evaluation import tune
from rag_finetune.index.store import open_index
from rag_finetune.rag.checkpoint import load_rag, place_index
from rag_finetune.retrieval.way import Retrieval


def tune_words(*words):
    return ["tune-retrieval", "--questions", tiny_job() / "train.json", *words]


@pytest.fixture
def model(tmp_path):
    """A checkpoint that remembers to search by vectors, its index beside it."""
    shutil.copytree(words_job() / "full", tmp_path / "full")
    folder = shutil.copytree(words_job() / "full_model/assembled", tmp_path / "model/assembled")
    shutil.move(tmp_path / "full", tmp_path / "index")
    index = open_index(tmp_path / "index")
    place_index(index, folder, "link", ours=False, retrieval=Retrieval("dense"))
    return folder


def way_of(folder):
    return load_rag(folder).retriever.searcher.retrieval.way


def test_the_metrics_are_those_of_the_trials():
    assert command.METRICS == tune.METRICS


def test_the_choice_is_shown_and_written_into_the_index(tmp_path):
    folder = shutil.copytree(words_job() / "full", tmp_path / "index")
    encoder = words_job() / "full_model/parts/question_encoder"
    picture = tmp_path / "a.png"
    done = ok(*tune_words("--index", folder, "--question_encoder", encoder, "--plot", picture))
    [best] = [line for line in done.out.splitlines() if line.startswith("*")]
    assert best.startswith("* bm25 ") and " 100.00 " in best
    assert done.out.endswith(f"bm25: written to {folder}/manifest.json.\n")
    assert json.loads((folder / "manifest.json").read_text())["retrieval"]["way"] == "bm25"
    assert picture.stat().st_size > 5000 and f"Picture: {picture}" in done.out
    assert ok("search", "what is the house of ada ?", "--index", folder, "--retrieval", "bm25")


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_a_checkpoint_that_remembers_another_way_is_changed_with_its_index(model, mode):
    index = open_index(model.parent.parent / "index")
    place_index(index, model, mode, ours=False, retrieval=Retrieval("dense"))
    assert way_of(model) == "dense"
    done = ok(*tune_words("--model_name_or_path", model))
    assert done.out.rstrip().endswith(f"{model}/rag_index.json.")
    assert way_of(model) == "bm25"
    assert load_rag(model).retriever.index.manifest.retrieval["way"] == "bm25"


def test_the_prior_that_a_checkpoint_was_trained_with_stays_and_so_do_its_words(model):
    index = open_index(model.parent.parent / "index")
    trained = Retrieval("dense", "tfidf", prior=0.5)
    place_index(index, model, "link", ours=False, retrieval=trained)
    done = ok(*tune_words("--model_name_or_path", model))
    assert "bm25" not in done.out
    found = load_rag(model).retriever.searcher.retrieval
    assert (found.way, found.kind, found.prior) == ("tfidf", "tfidf", 0.5)


def test_a_remembered_way_that_its_index_lacks_can_be_tuned_away(model):
    index = open_index(model.parent.parent / "index")
    place_index(index, model, "link", ours=False, retrieval=Retrieval("bm25"))
    bare = model.parent.parent / "index/manifest.json"
    data = json.loads(bare.read_text())
    sizes = {n: s for n, s in data["file_sizes"].items() if not n.startswith("bm25/")}
    lexical = {"tfidf": data["lexical"]["tfidf"]}
    bare.write_text(json.dumps({**data, "lexical": lexical, "file_sizes": sizes}))
    with pytest.raises(ValueError, match=r"retrieval by bm25 needs bm25"):
        load_rag(model)
    ok(*tune_words("--model_name_or_path", model))
    assert way_of(model) == "tfidf"


def test_a_checkpoint_with_an_index_of_its_own_is_left_as_it_is(model):
    index = open_index(model.parent.parent / "index")
    place_index(index, model, "copy", ours=False, retrieval=Retrieval("dense"))
    before = (model / "rag_index.json").read_text()
    done = ok(*tune_words("--model_name_or_path", model, "--index", index.folder))
    assert f"or takes --index {index.folder} --retrieval bm25." in done.out
    assert done.out.rstrip().endswith(f"written to {index.folder}/manifest.json.")
    assert (model / "rag_index.json").read_text() == before
    assert load_rag(model, index=index.folder, retrieval="bm25")


def test_an_index_of_words_is_tuned_without_an_encoder(tmp_path):
    folder = shutil.copytree(words_job() / "bare", tmp_path / "index")
    assert "bm25: written to" in ok(*tune_words("--index", folder, "--max_samples", 5)).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --index, or --model_name_or_path"),
        (["--index", "x", "--plot", "a.pgn"], "the name of a file, NAME.png, found a.pgn"),
        (["--index", "x", "--plot", "none/a.png"], "there is no folder none"),
        (["--index", "x", "--metric", "f1"], "invalid choice: 'f1'"),
        (["--question_encoder", "x", "--model_name_or_path", "y"], "not allowed with"),
    ],
)
def test_wrong_usage_ends_with_2(words, message):
    assert message in usage_error_of(*tune_words(*words))


def test_what_cannot_work_fails_with_one_line(tmp_path):
    assert "nowhere: no such folder" in error_of(*tune_words("--index", "nowhere"))
    words = ["tune-retrieval", "--questions", "none.json", "--index", words_job() / "full"]
    assert "none.json: expected a file" in error_of(*words)
