"""`rag-finetune index`, run in this process."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tiny_job import error_of, files_under, index_words, ok, run, usage_error_of, write_inputs

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


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """The inputs, and index/; leave them as they are."""
    folder = tmp_path_factory.mktemp("job")
    write_inputs(folder)
    ok(*index_words(folder, folder / "index"))
    return folder


def test_index_leaves_the_folder_that_the_design_describes(job):
    index = job / "index"
    assert files_under(index) == INDEX_FILES
    manifest = json.loads((index / "manifest.json").read_text())
    assert (manifest["n_passages"], manifest["n_documents"], manifest["dimension"]) == (20, 20, 16)
    assert (manifest["passage_words"], manifest["overlap"]) == (100, 0)
    assert (manifest["metric"], manifest["dtype"]) == ("inner_product", "float32")
    assert (manifest["index_type"], manifest["faiss_factory"]) == ("auto", "Flat")
    sizes = {name: (index / name).stat().st_size for name in manifest["file_sizes"]}
    assert manifest["file_sizes"] == sizes
    assert len(sizes) == 4
    assert str(job) not in (index / "manifest.json").read_text()


def test_index_says_how_much_it_read_and_needs_and_wrote(job, tmp_path):
    done = ok(*index_words(job, tmp_path / "index"))
    lines = done.out.splitlines()
    assert lines[0] == "20 documents, 20 passages."
    assert re.fullmatch(r"Needs about [\d.]+ kB of disk and \d+ MB of memory\.", lines[1])
    assert lines[-1].startswith(
        f"{tmp_path / 'index'}: exact index of 20 passages, dimension 16, encoder context_encoder"
    )


def test_the_vectors_are_those_of_the_context_encoder(job):
    index = open_index(job / "index")
    encoder = load_context_encoder(str(job / "parts/context_encoder"))
    rows = index.passages[:3]
    vectors = encoder.encode(rows["text"], rows["title"])
    assert rows["embeddings"] == pytest.approx(vectors, abs=1e-6)


def test_documents_are_cut_at_passage_words(job, tmp_path):
    ok(*index_words(job, tmp_path / "index"), "--passage_words", 6)
    index = open_index(tmp_path / "index")
    assert index.manifest.passage_words == 6
    assert (index.manifest.n_documents, len(index)) == (20, 46)  # of 11, 12 or 13 words
    assert all(len(text.split()) <= 6 for text in index.passages["text"])
    assert {id_.split("#")[0] for id_ in index.passages["id"]} == set(index.passages["document_id"])


def test_max_length_is_what_the_encoder_is_cut_at(job, tmp_path):
    ok(*index_words(job, tmp_path / "index"), "--max_length", 7)
    manifest = open_index(tmp_path / "index").manifest
    assert manifest.encoder["max_length"] == 7
    assert manifest.fingerprint != open_index(job / "index").manifest.fingerprint


def test_several_files_of_passages_are_one_corpus(job, tmp_path):
    (tmp_path / "a.tsv").write_text("id\ttext\ttitle\na\tthe house of ada\tada\n")
    (tmp_path / "b.jsonl").write_text('{"id": "b", "title": "ben", "text": "the house of ben"}\n')
    words = ["--context_encoder", job / "parts/context_encoder"]
    files = [tmp_path / "a.tsv", tmp_path / "b.jsonl"]
    ok("index", "--passages", *files, *words, "--output_dir", tmp_path / "index")
    assert open_index(tmp_path / "index").passages["id"][:] == ["a", "b"]


def test_a_recipe_gives_the_flags(job, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"passages: [{job / 'passages.jsonl'}]\n"
        f"context_encoder: {job / 'parts/context_encoder'}\n"
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
        (["--context_encoder", "PARTS/generator"], '"bart"'),
        (["--context_encoder", "./nowhere"], "./nowhere: no such folder"),
        (["--passages", "nowhere.tsv"], "nowhere.tsv: expected a file, found nothing there"),
        (["--output_dir", "PARTS"], "already exists and is not empty"),
        (["--output_dir", "PARTS/generator/config.json"], "already exists and is no folder"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_work_fails_with_one_line_and_leaves_nothing(job, tmp_path, words, message):
    words = [word.replace("PARTS", str(job / "parts")) for word in words]
    error = error_of(*index_words(job, tmp_path / "index"), *words)
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, 1, 4])
def test_one_of_several_gpus_is_used_and_the_line_for_all_is_printed(
    job, tmp_path, monkeypatch, count
):
    monkeypatch.setattr("torch.accelerator.device_count", lambda: count)
    said = ok(*index_words(job, tmp_path / "index")).out
    line = "4 GPUs are here, one is used. For all of them: accelerate launch --multi_gpu "
    assert (line + "--num_processes 4 -m rag_finetune index" in said) == (count == 4)
    assert ("GPUs are here" in said) == (count == 4)


def test_a_damaged_row_is_named_with_its_line(job, tmp_path):
    path = tmp_path / "damaged.jsonl"
    path.write_text('{"id": "a", "title": "t", "text": "x"}\n{"id": "b", "title": "t"}\n')
    error = error_of(*index_words(job, tmp_path / "index"), "--passages", path)
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
def test_wrong_usage_ends_with_2(job, tmp_path, words, message):
    assert message in usage_error_of(*index_words(job, tmp_path / "index"), *words)


def test_missing_flags_are_named():
    error = usage_error_of("index", "--passages", "x")
    assert "required: --output_dir" in error


QUESTIONS = [
    {"question": "where is ada ?", "context": "the house of ada is red .", "answers": ["red"]},
    {"question": "what is ada's ?", "context": "the house of ada is red .", "answers": ["red"]},
    {"question": "where is ben ?", "context": "the house of ben is in oslo .", "answers": ["oslo"]},
]


def test_the_passages_of_a_question_file_are_indexed_once_each(job, tmp_path):
    (tmp_path / "qa.json").write_text(json.dumps(QUESTIONS))
    encoder = job / "parts/context_encoder"
    words = ["--from_questions", tmp_path / "qa.json", "--context_encoder", encoder]
    ok("index", *words, "--output_dir", tmp_path / "whole", "--passage_words", 0)
    whole = open_index(tmp_path / "whole")
    assert whole.passages["text"][:] == [QUESTIONS[0]["context"], QUESTIONS[2]["context"]]
    ok("index", *words, "--output_dir", tmp_path / "cut", "--passage_words", 4, "--overlap", 1)
    cut = open_index(tmp_path / "cut")
    assert cut.passages["text"][:3] == ["the house of ada", "ada is red .", "the house of ben"]
    assert set(cut.passages["document_id"]) == set(whole.passages["id"])
    assert (cut.manifest.passage_words, cut.manifest.overlap, cut.manifest.n_documents) == (4, 1, 2)


def test_index_type_and_dtype_are_taken_and_remembered(job, tmp_path):
    more = ["--index_type", "SQ8", "--dtype", "bfloat16"]
    done = ok(*index_words(job, tmp_path / "index"), *more)
    manifest = open_index(tmp_path / "index").manifest
    assert (manifest.index_type, manifest.faiss_factory) == ("SQ8", "SQ8")
    assert manifest.dtype == "bfloat16"
    assert re.search(r"SQ8 index of 20 passages.*recall \d\.\d{3} against exact", done.out)


def test_passages_that_are_too_long_are_named_by_file_and_line(job, tmp_path):
    file = job / "passages.jsonl"
    with pytest.warns(UserWarning, match=rf"20 of 20 passages reach 7.*{file}:1, {file}:2, "):
        ok(*index_words(job, tmp_path / "index"), "--max_length", 7)


@pytest.mark.parametrize(
    "more",
    [["--qa_format", "squad"], ["--from_questions", "x.json", "--passages_format", "tsv"]],
)
def test_a_format_of_what_is_not_read_is_refused(job, tmp_path, more):
    words = index_words(job, tmp_path / "index")
    if "--from_questions" in more:
        words = [word for word in words if word not in ("--passages", str(job / "passages.jsonl"))]
    assert "--passages_format goes with --passages" in error_of(*words, *more)


def test_a_stopped_build_says_where_its_work_is_and_goes_on(job, tmp_path, monkeypatch):
    def stop(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rag_finetune.index.job.write_with_vectors", stop)
        done = run(*index_words(job, tmp_path / "index"))
    work = tmp_path / ".index.building"
    assert (done.code, (tmp_path / "index").exists()) == (1, False)
    assert done.err.splitlines() == [
        f"rag-finetune index: The work so far is kept in {work}: the same command goes on from it.",
        f"rag-finetune index: error: {work}: No space left on device",
    ]
    again = ok(*index_words(job, tmp_path / "index"))
    assert "resuming: 1 of 1 blocks are there." in again.out
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


# ---- Search by words ----


def word_words(job, folder, *more):
    inputs = ["--passages", job / "passages.jsonl", "--output_dir", folder]
    return ["index", *inputs, "--lexical", *more]


def test_an_index_of_words_is_made_without_an_encoder(job, tmp_path):
    done = ok(*word_words(job, tmp_path / "index", "bm25", "tfidf"))
    assert "index of words (bm25 and tfidf) of 20 passages." in done.out
    assert sorted(open_index(tmp_path / "index").manifest.lexical) == ["bm25", "tfidf"]


def test_words_come_beside_vectors_in_one_call(job, tmp_path):
    done = ok(*index_words(job, tmp_path / "index"), "--lexical", "bm25")
    assert "exact index of 20 passages" in done.out and "bm25 added." in done.out
    index = open_index(tmp_path / "index")
    assert index.manifest.has_vectors and list(index.manifest.lexical) == ["bm25"]


def test_words_are_added_to_a_finished_index_of_the_same_passages(job, tmp_path):
    folder = shutil.copytree(job / "index", tmp_path / "index")
    assert "bm25 added." in ok(*word_words(job, folder, "bm25")).out
    again = [*index_words(job, folder), "--lexical", "bm25", "tfidf"]
    assert ok(*again).out.endswith("tfidf added.\n")
    assert "Nothing to add: the index has bm25 and tfidf already." in ok(*again).out
    english = ok("index", "--lexical", "bm25", "--language", "english", "--output_dir", folder)
    assert english.out == f"{folder}: bm25 replaced by one of other settings.\n"
    assert sorted(open_index(folder).manifest.lexical) == ["bm25", "tfidf"]


def test_words_are_added_without_naming_the_passages_again(job, tmp_path):
    folder = shutil.copytree(job / "index", tmp_path / "index")
    assert "bm25 added." in ok("index", "--lexical", "bm25", "--output_dir", folder).out
    given = shutil.copytree(job / "index", tmp_path / "given")
    ok(*word_words(job, given, "bm25"))
    for path in (folder / "bm25").iterdir():
        assert path.read_bytes() == (given / "bm25" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lexical", "bm25", "--output_dir", "NEW"], "is a finished index: this is none. See"),
        (
            ["--lexical", "bm25", "--output_dir", "JOB"],
            "finished index: did you mean JOB/index. See",
        ),
        (
            ["--context_encoder", "x", "--output_dir", "INDEX"],
            "--passages --from_questions is required",
        ),
        (["--output_dir", "INDEX"], "--output_dir is a finished index. See"),
        *(
            (["--lexical", "bm25", "--output_dir", "INDEX", flag, value], f"{flag} goes with --pas")
            for flag, value in (
                ("--context_encoder", "x"),
                ("--passages_format", "tsv"),
                ("--passage_words", "7"),
                ("--overlap", "2"),
                ("--max_length", "3"),
                ("--dtype", "auto"),
            )
        ),
    ],
)
def test_passages_may_be_left_out_for_words_in_a_finished_index_only(job, tmp_path, words, message):
    places = {"NEW": str(tmp_path / "new"), "INDEX": str(job / "index"), "JOB": str(job)}
    message = message.replace("JOB", str(job))
    assert message in usage_error_of("index", *(places.get(word, word) for word in words))


def test_words_are_not_added_to_an_index_of_other_passages_or_vectors(job, tmp_path):
    folder = shutil.copytree(job / "index", tmp_path / "index")
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "1", "title": "", "text": "other words"}\n')
    words = ["--passages", other, "--output_dir", folder, "--lexical", "bm25"]
    assert "holds other passages than were given" in error_of("index", *words)
    ok(*word_words(job, tmp_path / "words", "bm25"))
    words = [*index_words(job, tmp_path / "words")[1:], "--lexical", "tfidf"]
    assert "Vectors cannot be added or replaced" in error_of("index", *words)
