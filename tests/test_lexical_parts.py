"""Index folders that are searched by words, with and without vectors."""

import json
import shutil

import numpy as np
import pytest
import tiny_rag
from datasets import load_from_disk

from rag_finetune.index import lexical_parts
from rag_finetune.index.lexical_parts import add_lexical, build_word_index, require_same_passages
from rag_finetune.index.store import open_index

BM25 = {"bm25": {}}
BOTH = {"bm25": {"language": "english", "k1": 1.2}, "tfidf": {}}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """An index of words only; leave it as it is."""
    return build_word_index(tiny_rag.passages(), tmp_path_factory.mktemp("w") / "index", BOTH)


@pytest.fixture(scope="module")
def dense_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("d") / "index"
    tiny_rag.tiny_index(folder)
    return folder


@pytest.fixture
def dense(dense_folder, tmp_path):
    """An index of vectors to add to."""
    return open_index(shutil.copytree(dense_folder, tmp_path / "index"))


def test_an_index_of_words_needs_no_encoder_and_holds_no_vectors(words):
    names = sorted(path.name for path in words.folder.iterdir())
    assert names == ["bm25", "manifest.json", "passages", "tfidf"]
    assert load_from_disk(str(words.folder / "passages")).column_names == [
        "id",
        "document_id",
        "title",
        "text",
    ]
    manifest = words.manifest
    assert (len(words), manifest.n_documents, manifest.has_vectors) == (20, 20, False)
    assert manifest.lexical == {
        "bm25": {"language": "english", "k1": 1.2},
        "tfidf": {"language": None},
    }
    assert not list(words.folder.parent.glob(".*"))


def test_it_is_searched_by_words(words):
    for kind in BOTH:
        _, rows = words.lexical(kind).search(["the house of tess", "nora"], 2)
        assert rows[:, 0].tolist() == [19, 13]
    assert words.lexical("bm25") is words.lexical("bm25")


def test_its_passages_come_without_vectors(words):
    found, vectors = words.gather(np.array([[3, -1]]))
    assert [passage["id"] for passage in found] == ["4", ""]
    assert vectors.shape == (1, 2, 0)


def test_it_says_that_it_cannot_be_searched_by_vectors(words):
    with pytest.raises(ValueError, match=r"holds no vectors, only words \(bm25, tfidf\)"):
        words.search(np.zeros((1, 16), np.float32), 1)


def test_it_goes_with_any_encoder(words):
    assert len(open_index(words.folder, "0" * 64)) == 20
    words.check_encoder(99, {})


def test_an_index_says_which_kinds_it_lacks(words, dense):
    with pytest.raises(ValueError, match=r"expected an index by bm25, found vectors only\. Add it"):
        dense.lexical("bm25")
    with pytest.raises(ValueError, match="expected an index by splade, found bm25 and tfidf"):
        words.lexical("splade")


def test_words_are_added_beside_vectors(dense):
    before = dense.search(np.ones((2, 16), np.float32), 3)
    assert add_lexical(dense, BOTH) == ["bm25", "tfidf"]
    index = open_index(dense.folder)
    assert index.lexical("tfidf").search(["tess"], 1)[1].tolist() == [[19]]
    assert np.array_equal(index.search(np.ones((2, 16), np.float32), 3)[0], before[0])
    assert {"bm25/lexical.json", "tfidf/idf.npy"} <= set(index.manifest.file_sizes)


def test_what_is_there_is_not_built_again_and_other_settings_replace_it(dense):
    assert add_lexical(dense, BM25) == ["bm25"]
    stamp = (dense.folder / "bm25/lexical.json").stat().st_mtime_ns
    assert add_lexical(open_index(dense.folder), BM25) == []
    assert (dense.folder / "bm25/lexical.json").stat().st_mtime_ns == stamp
    opened = open_index(dense.folder)
    bm25 = opened.lexical("bm25")
    assert add_lexical(opened, {"bm25": {"k1": 0.5}}) == ["bm25"]
    assert open_index(dense.folder).lexical("bm25").settings == {"language": None, "k1": 0.5}
    assert bm25.search(["tess"], 1)[1].tolist() == [[19]]  # as it was opened


def test_a_kill_while_words_are_replaced_leaves_a_whole_index(dense, monkeypatch):
    add_lexical(dense, BOTH)

    def die(*args, **settings):
        shutil.rmtree(dense.folder / "bm25")
        raise KeyboardInterrupt

    monkeypatch.setattr(lexical_parts, "build_lexical", die)
    with pytest.raises(KeyboardInterrupt):
        add_lexical(open_index(dense.folder), {"bm25": {"k1": 0.5}})
    index = open_index(dense.folder)
    assert list(index.manifest.lexical) == ["tfidf"]
    monkeypatch.undo()
    assert add_lexical(index, BM25) == ["bm25"]


def test_a_file_that_was_cut_is_refused_on_opening(dense):
    add_lexical(dense, BM25)
    path = dense.folder / "bm25/vocabulary.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(ValueError, match=r"vocabulary\.json: expected .* bytes, found"):
        open_index(dense.folder)


def test_words_of_other_passages_are_refused(dense, tmp_path):
    other = build_word_index(tiny_rag.passages().select([0]), tmp_path / "other", BM25)
    add_lexical(dense, BM25)
    shutil.rmtree(dense.folder / "bm25")
    shutil.copytree(other.folder / "bm25", dense.folder / "bm25")
    manifest = json.loads((dense.folder / "manifest.json").read_text())
    (dense.folder / "manifest.json").write_text(json.dumps({**manifest, "file_sizes": {}}))
    with pytest.raises(ValueError, match="rows of bm25/: expected 20, found 1"):
        open_index(dense.folder).lexical("bm25")


def test_other_passages_are_told_from_those_of_an_index(words):
    rows = list(tiny_rag.passages())
    require_same_passages(words, iter(rows))
    changed = [*rows[:7], {**rows[7], "text": "x"}, *rows[8:]]
    for given, message in (
        (changed, 'expected passage 7 with the id "8" and its text, found the id "8"'),
        (rows[:-1], 'expected passage 19 with the id "20" and its text, found the id none'),
        ([*rows, rows[0]], 'expected passage 20 with the id none and its text, found the id "1"'),
    ):
        with pytest.raises(ValueError, match=message):
            require_same_passages(words, iter(given))


def test_the_passages_of_both_folders_are_the_same(words, dense_folder):
    texts = open_index(dense_folder).passages.remove_columns("embeddings")
    assert words.passages[:] == texts[:]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [({}, "name bm25, tfidf, or both"), ({"splade": {}}, "kind must be bm25 or tfidf")],
)
def test_what_cannot_be_built_leaves_nothing(kinds, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build_word_index(tiny_rag.passages(), tmp_path / "index", kinds)
    with pytest.raises(ValueError, match="at least one passage, found none"):
        build_word_index([], tmp_path / "index", BM25)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_refused(words):
    with pytest.raises(FileExistsError, match="already exists and is not empty"):
        build_word_index(tiny_rag.passages(), words.folder, BM25)
