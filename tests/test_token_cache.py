import csv
import fcntl
import itertools
import random
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_rag
from conftest import ROOT
from datasets import Dataset
from tiny_tokenizers import ODD, PLAIN, byte_level_bpe, unigram, word_piece
from transformers import AutoTokenizer, RagConfig

from rag_finetune.index.build import build_index
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.retrieval import token_cache
from rag_finetune.retrieval.context_parts import PROBES, Template
from rag_finetune.retrieval.retriever import RagIndexRetriever
from rag_finetune.retrieval.token_cache import FOLDER, load_token_cache

TEMPLATE = Template("", " / ", " // ")
QUESTIONS = [
    *PROBES,
    *ODD,
    "who is in the house of ada ?",
    " ",
    "\t who",
    "…",
    "'s",
    "\u00a0who",
    "\ufb01sh?",
    "</s> or <s>?",
    "[SEP] or [UNK]?",
    "a" * 30,
]
TOKENIZERS = {
    "word": lambda texts: tiny_rag.word_tokenizer("bart"),
    "starter": lambda texts: AutoTokenizer.from_pretrained(ROOT / "data/starter/generator"),
    "bpe": lambda texts: byte_level_bpe(texts, 600),
    "unigram": lambda texts: unigram(texts, 600),
    "word_piece": lambda texts: word_piece(texts, 600),
}
TEXTS = [*PLAIN, *ODD, 'it ends with a quote "', "(and a bracket (", "house\u0301", "à", "red\n"]


def build(texts: list[tuple[str, str]], folder: Path) -> PassageIndex:
    rows = [
        {"id": str(number), "document_id": str(number), "title": title, "text": text}
        for number, (title, text) in enumerate(texts)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of passages that the encoder cuts
        return build_index(Dataset.from_list(rows), tiny_rag.context_encoder(), folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """An index of odd texts, each with a title and without."""
    titles = ["", '"ada"', "house of ada "]
    folder = tmp_path_factory.mktemp("odd") / "index"
    return build(list(itertools.product(titles, TEXTS)), folder).folder


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """An index of real passages."""
    folder = ROOT.parent / "shared" / "data" / "squad"
    if not folder.is_dir():
        pytest.skip("real text (../shared/data/squad) is not here")
    with (folder / "passages.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[::8]
    index = tmp_path_factory.mktemp("real") / "index"
    return build([(row["title"], row["text"]) for row in rows], index).folder


@pytest.fixture
def index(tmp_path) -> PassageIndex:
    return tiny_rag.tiny_index(tmp_path / "index")


def files_of(index: PassageIndex) -> list[str]:
    return sorted(path.name for path in (index.folder / FOLDER).iterdir())


def retriever_of(folder: Path, kind: str, **options) -> RagIndexRetriever:
    config = RagConfig.from_question_encoder_generator_configs(
        tiny_rag.dpr_config(),
        tiny_rag.generator("bart").config,
        retrieval_vector_size=16,
        **options,
    )
    index = open_index(folder)
    texts = list(index.passages["text"])
    return RagIndexRetriever(
        config, tiny_rag.word_tokenizer("bert"), TOKENIZERS[kind](texts), index
    )


def contexts_of(retriever, rows, questions, *, known: bool) -> list[list[int]]:
    """Contexts of every question with its passages, from the cache where known."""
    found = retriever.index.passages_at(rows)
    width = rows.shape[1]
    docs = [
        {key: [row[key] for row in found[start : start + width]] for key in ("title", "text")}
        for start in range(0, len(found), width)
    ]
    doc_ids = rows if known else None
    prefix = getattr(retriever.config.generator, "prefix", None)
    ids, mask = retriever.postprocess_docs(docs, questions, prefix, width, doc_ids=doc_ids)
    return [row[: sum(keep)] for row, keep in zip(ids, mask, strict=True)]


@pytest.fixture
def tokenized(monkeypatch) -> list[str]:
    """Passages' parts that were tokenised with a question."""
    parts, plain = [], RagIndexRetriever._tokenize_contexts

    def tokenize(self, heads, tails):
        parts.extend(heads)
        return plain(self, heads, tails)

    monkeypatch.setattr(RagIndexRetriever, "_tokenize_contexts", tokenize)
    return parts


# ---- The very ids ----


@pytest.mark.parametrize("length", [300, 45])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_odd_contexts_are_those_of_the_whole_text(built, tokenized, kind, length):
    retriever = retriever_of(built, kind, max_combined_length=length)
    n = len(retriever.index)
    rows = np.tile(np.arange(-1, n), (len(QUESTIONS), 1))
    expected = contexts_of(retriever, rows, QUESTIONS, known=False)
    retriever.expect_contexts(2 * n)
    tokenized.clear()
    assert contexts_of(retriever, rows, QUESTIONS, known=True) == expected
    assert (max(map(len, expected)) == 45) == (length == 45 and kind != "word")
    # No passage, and two texts that end in white space, with three titles each.
    assert len(tokenized) == len(QUESTIONS) * 7


@pytest.mark.parametrize("length", [300, 64])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_real_contexts_are_those_of_the_whole_text(real, tokenized, kind, length):
    retriever = retriever_of(real, kind, max_combined_length=length)
    n, draw = len(retriever.index), random.Random(0)
    rows = np.array([draw.sample(range(n), 8) for _ in QUESTIONS])
    expected = contexts_of(retriever, rows, QUESTIONS, known=False)
    retriever.expect_contexts(2 * n)
    tokenized.clear()
    assert contexts_of(retriever, rows, QUESTIONS, known=True) == expected
    assert tokenized == [] and (length == 300 or max(map(len, expected)) == 64)


def test_a_question_that_does_not_fit_is_an_error_with_the_cache_too(built):
    retriever = retriever_of(built, "bpe", max_combined_length=20)
    retriever.expect_contexts(2 * len(retriever.index))
    with pytest.raises(ValueError, match="does not fit into max_combined_length 20"):
        contexts_of(retriever, np.array([[0, 1]]), ["who is it? " * 9], known=True)


def test_prefix_and_separators_are_those_of_the_contexts(index, tokenized):
    options = {"title_sep": " : ", "doc_sep": " ? "}
    retriever = retriever_of(index.folder, "bpe", **options)
    retriever.config.generator.prefix = "old: "
    rows, asked = np.arange(20)[None], ["who?"]
    expected = contexts_of(retriever, rows, asked, known=False)
    retriever.expect_contexts(40)
    tokenized.clear()
    assert contexts_of(retriever, rows, asked, known=True) == expected and not tokenized
    retriever.config.generator.prefix = "new: "
    other = contexts_of(retriever, rows, asked, known=True)
    assert len(tokenized) == 20 and other != expected
    tokenized.clear()
    retriever.expect_contexts(40)
    assert contexts_of(retriever, rows, asked, known=True) == other and not tokenized
    assert len(files_of(index)) == 2


# ---- When it is made ----


def test_it_is_made_where_each_passage_is_read_twice_and_opened_by_all(index):
    few = retriever_of(index.folder, "bpe")
    few.expect_contexts(39)
    assert few._tokens is None and not (index.folder / FOLDER).exists()
    few.expect_contexts(40)
    assert few._tokens is not None
    [name] = files_of(index)
    made = (index.folder / FOLDER / name).stat().st_mtime_ns
    one = retriever_of(index.folder, "bpe")
    one.expect_contexts(1)
    assert one._tokens is not None
    assert (index.folder / FOLDER / name).stat().st_mtime_ns == made


def test_each_tokenizer_and_index_has_its_own(index, tmp_path):
    for tokenizer in (tiny_rag.word_tokenizer("bart"), tiny_rag.word_tokenizer("t5")):
        for _ in range(2):
            tokenizer(["a b"], truncation=True, max_length=1)  # leaves settings behind
            assert load_token_cache(index, tokenizer, TEMPLATE, make=True)
    assert len(files_of(index)) == 2
    other = tiny_rag.tiny_index(tmp_path / "other")
    (other.folder / FOLDER).symlink_to(index.folder / FOLDER)
    assert load_token_cache(other, tokenizer, TEMPLATE, make=True)
    assert len(files_of(index)) == 3


def test_blocks_join_to_the_same_file(index, tmp_path, monkeypatch):
    tokenizer = tiny_rag.word_tokenizer("bart")
    assert load_token_cache(index, tokenizer, TEMPLATE, make=True)
    path = index.folder / FOLDER / files_of(index)[0]
    once = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(token_cache, "ROWS_PER_BLOCK", 7)
    assert load_token_cache(index, tokenizer, TEMPLATE, make=True)
    assert path.read_bytes() == once


@pytest.mark.parametrize("size", [0, 5, 200, -2])
def test_a_file_that_was_cut_off_is_made_anew(index, size):
    tokenizer = tiny_rag.word_tokenizer("bart")
    load_token_cache(index, tokenizer, TEMPLATE, make=True)
    path = index.folder / FOLDER / files_of(index)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    assert load_token_cache(index, tokenizer, TEMPLATE, make=False) is None
    assert load_token_cache(index, tokenizer, TEMPLATE, make=True)
    assert path.read_bytes() == whole


def test_ids_above_sixteen_bits_are_kept(index):
    tokenizer = tiny_rag.word_tokenizer("bart")
    tokenizer.add_tokens([f"x{number}" for number in range(2**16)])
    tokenizer.add_tokens(["oslo!", "red!"])
    cache = load_token_cache(index, tokenizer, TEMPLATE, make=True)
    [found] = cache.contexts(tokenizer, [3], [" // red!"], 300)
    text = f"house of dan / {tiny_rag.facts()[3]['text']} // red!"
    assert found == tokenizer(text)["input_ids"] and max(found) >= 2**16


# ---- What stands in the way ----


def test_a_folder_that_cannot_be_written_is_said_once(index, monkeypatch, tokenized):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    retriever = retriever_of(index.folder, "bpe")
    with pytest.warns(UserWarning, match=r"tokens cannot be written \(Permission denied\): pass"):
        retriever.expect_contexts(1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retriever.expect_contexts(1000)
    assert contexts_of(retriever, np.array([[0]]), ["who?"], known=True)
    assert len(tokenized) == 1


def test_a_full_disk_leaves_nothing(index, monkeypatch):
    def fail(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache, "sync", fail)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert not load_token_cache(index, tiny_rag.word_tokenizer("t5"), TEMPLATE, make=True)
    assert files_of(index) == []


def test_separator_without_a_space_in_front_is_said(index):
    template = Template("", " / ", "\n")
    with pytest.warns(UserWarning, match=r"doc_sep '\\n' does not begin with a space: passages"):
        assert not load_token_cache(index, tiny_rag.word_tokenizer("t5"), template, make=True)


def test_tokenizer_that_joins_passages_with_questions_is_said(index, monkeypatch):
    monkeypatch.setattr(token_cache, "tokenize_heads", lambda *args: [[]] * 20)
    with pytest.warns(UserWarning, match="The generator's tokenizer joins passages with questions"):
        assert not load_token_cache(index, tiny_rag.word_tokenizer("t5"), TEMPLATE, make=True)
    assert files_of(index) == []


# ---- Several at once ----


def test_of_several_that_want_it_one_makes_it(index, monkeypatch):
    made, found, all_here, plain = [], [], threading.Barrier(3), token_cache._turn
    write = token_cache._Job._write

    def turn(opened):
        all_here.wait(timeout=60)  # none finds it made
        return plain(opened)

    monkeypatch.setattr(token_cache, "_turn", turn)
    monkeypatch.setattr(
        token_cache._Job, "_write", lambda job, path: (made.append(path), write(job, path))
    )

    def load():
        tokenizer = tiny_rag.word_tokenizer("bart")
        found.append(load_token_cache(open_index(index.folder), tokenizer, TEMPLATE, make=True))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and all(found) and len(found) == 3


def test_what_a_killed_process_left_is_swept_up(index):
    tokenizer = tiny_rag.word_tokenizer("bart")
    load_token_cache(index, tokenizer, TEMPLATE, make=True)
    [name] = files_of(index)
    (index.folder / FOLDER / name).rename(index.folder / FOLDER / f".{name}.partial-host-1")
    assert load_token_cache(index, tokenizer, TEMPLATE, make=True)
    assert files_of(index) == [name]


def test_a_file_system_without_locks_does(index, monkeypatch):
    def refuse(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert load_token_cache(index, tiny_rag.word_tokenizer("bart"), TEMPLATE, make=True)
    assert len(files_of(index)) == 1
