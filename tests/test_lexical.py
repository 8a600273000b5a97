"""Search by words over four passages, and over the paragraphs of real articles."""

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rag_finetune.data.passages import iter_passages
from rag_finetune.index.lexical import (
    KINDS,
    best_rows,
    build_lexical,
    make_lexical,
    open_lexical,
)

TEXTS = [
    "Harbour The harbour was built by Ada",
    "Mill The mill grinds old corn",
    "Harbour The old harbour burnt down",
    "...",
]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, tmp_path):
    build_lexical(TEXTS, tmp_path / kind, kind)
    return tmp_path / kind


def test_the_passages_that_share_words_are_found_best_first(kind):
    scores, rows = make_lexical(TEXTS, kind).search(["Who built the HARBOUR?", "corn"], 3)
    assert rows.tolist() == [[0, 2, 1], [1, -1, -1]]
    assert (scores.dtype, rows.dtype, scores.shape) == (np.float32, np.int64, (2, 3))
    assert scores[0, 0] > scores[0, 1] > scores[0, 2] > 0.0
    assert scores[1].tolist()[1:] == [-np.inf, -np.inf]


def test_a_question_without_a_known_word_finds_nothing(kind):
    scores, rows = make_lexical(TEXTS, kind).search(["zinc", "", "?!"], 2)
    assert (rows == -1).all() and np.isneginf(scores).all()


def test_no_question_is_no_result(kind):
    scores, rows = make_lexical(TEXTS, kind).search([], 2)
    assert scores.shape == rows.shape == (0, 2)


def test_k_is_clamped_to_the_passages_and_at_least_one(kind):
    index = make_lexical(TEXTS, kind)
    assert index.search(["harbour"], 100)[1].shape == (1, 4)
    with pytest.raises(ValueError, match="k must be at least 1, found 0"):
        index.search(["harbour"], 0)


def test_of_equal_scores_the_lower_row_comes_first_at_every_k(kind):
    index = make_lexical(["corn"] * 50 + ["corn corn", "mill"] + ["corn"] * 50, kind)
    _, whole = index.search(["corn"], 102)
    for k in (1, 2, 7, 60):
        assert index.search(["corn"], k)[1].tolist() == [whole[0, :k].tolist()]
    ties = [row for row in whole[0].tolist() if row not in (50, -1)]
    assert ties == sorted(ties)


def test_the_best_rows_equal_a_full_sort():
    draw = np.random.default_rng(0)
    for _ in range(50):
        scores = draw.integers(0, 6, 30).astype(np.float32)
        order = sorted(np.flatnonzero(scores > 0), key=lambda row: (-scores[row], row))
        for k in (1, 5, 30):
            assert best_rows(scores, k).tolist() == order[:k]


def test_scores_at_rows_are_those_of_the_search(kind):
    index = make_lexical(TEXTS, kind)
    questions = ["old harbour", "corn"]
    scores, rows = index.search(questions, 4)
    expected = np.where(rows < 0, 0.0, scores)
    assert index.scores_at(questions, rows) == pytest.approx(expected)
    assert index.scores_at(questions, np.array([[3], [0]])).tolist() == [[0.0], [0.0]]


def test_what_is_opened_finds_what_was_built(kind, folder):
    built, opened = make_lexical(TEXTS, kind), open_lexical(folder)
    assert len(opened) == 4 and opened.kind == kind
    questions = ["old harbour", "the mill", "zinc"]
    for found, expected in zip(
        opened.search(questions, 4), built.search(questions, 4), strict=True
    ):
        assert np.array_equal(found, expected)


def test_two_builds_are_bit_equal(kind, folder, tmp_path):
    build_lexical(TEXTS, tmp_path / "again", kind)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_the_settings_of_an_index_build_one_alike(tmp_path):
    build_lexical(TEXTS, tmp_path / "one", "bm25", language="english", k1=0.9, b=0.4)
    one = open_lexical(tmp_path / "one")
    assert one.settings == {"language": "english", "k1": 0.9, "b": 0.4}
    build_lexical(TEXTS, tmp_path / "two", one.kind, **one.settings)
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_questions_are_stemmed_as_the_passages_were(kind, tmp_path):
    build_lexical(TEXTS, tmp_path / kind, kind, language="english")
    index = open_lexical(tmp_path / kind)
    assert index.search(["grinding mills"], 1)[1].tolist() == [[1]]
    assert index.search(["the"], 1)[1].tolist() == [[-1]]  # a stop word
    assert make_lexical(TEXTS, kind).search(["grinding mills"], 1)[1].tolist() == [[-1]]


def test_texts_are_read_once_and_more_than_a_block_of_them(kind):
    index = make_lexical((f"corn number{n}" for n in range(2500)), kind)
    assert index.search(["number2400"], 1)[1].tolist() == [[2400]]


def test_threads_may_search_at_once(kind, tmp_path):
    build_lexical(TEXTS, tmp_path / kind, kind, language="english")
    index = open_lexical(tmp_path / kind)
    questions = [[f"old harbours {n}", "mills"] for n in range(40)]
    alone = [index.search(asked, 3)[1].tolist() for asked in questions]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda asked: index.search(asked, 3)[1].tolist(), questions)
        assert list(found) == alone


@pytest.mark.parametrize(
    ("texts", "kind", "settings", "message"),
    [
        (TEXTS, "splade", {}, 'kind must be bm25 or tfidf, found "splade"'),
        (TEXTS, "tfidf", {"k1": 1.0}, '"k1" is no setting of tfidf. Its settings: language.'),
        (TEXTS, "bm25", {"k2": 1.0}, "Its settings: language, method, k1, b."),
        (TEXTS, "bm25", {"language": "klingon"}, "language must be one of danish"),
        (["?", "..."], "bm25", {}, "none of the 2 passages has any."),
        (["the"], "tfidf", {"language": "english"}, "besides the stop words of english"),
        ([], "bm25", {}, "none of the 0 passages"),
    ],
)
def test_what_cannot_be_built_is_refused_and_leaves_nothing(
    texts, kind, settings, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        build_lexical(texts, tmp_path / "index", kind, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "language", "missing", "named"),
    [
        ("bm25", None, "bm25s", "BM25 needs bm25s"),
        ("tfidf", None, "scipy", "TF-IDF needs scipy"),
        ("bm25", "english", "Stemmer", "BM25 needs PyStemmer"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    kind, language, missing, named, tmp_path, monkeypatch
):
    build_lexical(TEXTS, tmp_path / "index", kind, language=language)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    for attempt in (
        lambda: make_lexical(TEXTS, kind, language=language),
        lambda: open_lexical(tmp_path / "index"),
    ):
        with pytest.raises(ValueError, match=rf"{named}: pip install 'rag-finetune\[lexical\]'"):
            attempt()


def test_a_folder_without_an_index_is_said_to_be_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no index by words, lexical\.json is missing"):
        open_lexical(tmp_path)


@pytest.mark.parametrize("name", ["lexical.json", "vocabulary.json", "settings", "kind"])
def test_a_damaged_file_is_named_with_a_remedy(kind, folder, name):
    if name.endswith(".json"):
        (folder / name).write_text('{"a": ')
    else:
        data = json.loads((folder / "lexical.json").read_text())
        (folder / "lexical.json").write_text(json.dumps({**data, "format_version": 2}))
    with pytest.raises(ValueError, match=r"cannot be read \(.*Build it again: rag-finetune index"):
        open_lexical(folder)


def test_a_vocabulary_of_another_index_is_refused(kind, folder):
    (folder / "vocabulary.json").write_text('{"a": 0}')
    with pytest.raises(ValueError, match="1 words, and scores of"):
        open_lexical(folder)


def test_an_array_that_is_cut_off_is_refused(kind, folder):
    for path in folder.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="Build it again"):
        open_lexical(folder)


# Of data/README.md beside the real text: R@1, R@5, R@20.
BM25S = {"train": (0.7711, 0.9157, 0.9598), "dev": (0.7605, 0.9222, 0.9820)}


def test_bm25_of_english_words_finds_what_bm25s_does_on_real_text(squad):
    passages = list(iter_passages([str(squad / "passages.tsv")], 0))
    index = make_lexical(
        [f"{p['title']} {p['text']}" for p in passages], "bm25", language="english"
    )
    for split, expected in BM25S.items():
        questions = json.loads((squad / f"{split}.json").read_text())
        _, rows = index.search([row["question"] for row in questions], 20)
        ids = [[passages[row]["id"] for row in found if row >= 0] for found in rows.tolist()]
        golds = [set(map(str, row["positive_ids"])) for row in questions]
        for k, figure in zip((1, 5, 20), expected, strict=True):
            hits = [not gold.isdisjoint(found[:k]) for gold, found in zip(golds, ids, strict=True)]
            assert np.mean(hits) == pytest.approx(figure, abs=0.005)
