import csv
import itertools
import os
import random
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_rag
from conftest import ROOT
from datasets import Dataset
from tiny_tokenizers import ODD, PLAIN, byte_fallback, byte_level_bpe, marked, unigram, word_piece
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, RagConfig

from rag_finetune.index.build import build_index
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.index.versions import TOKENS
from rag_finetune.retrieval import token_cache
from rag_finetune.retrieval.context_parts import PROBES, Template
from rag_finetune.retrieval.retriever import RagIndexRetriever
from rag_finetune.retrieval.token_cache import load_token_cache

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
    "<mask> or <end>?",
    "a" * 30,
]
TOKENIZERS = {
    "word": lambda texts: tiny_rag.word_tokenizer("bart"),
    "starter": lambda texts: AutoTokenizer.from_pretrained(ROOT / "data/starter/generator"),
    "bpe": lambda texts: byte_level_bpe(texts, 600),
    "unigram": lambda texts: unigram(texts, 600),
    "word_piece": lambda texts: word_piece(texts, 600),
    "marked": lambda texts: marked(texts, 600),
    "byte_fallback": lambda texts: byte_fallback(texts, 600),
}
ENDS_IN_SPACE = [ODD[2], "red\n", "red\u200b"]
TEXTS = [
    *PLAIN,
    *ODD,
    *ENDS_IN_SPACE[1:],
    'it ends with a quote "',
    "(and a bracket (",
    "house\u0301",
    "à",
    "</s> or [SEP] or <mask> in it",
    "it ends with [SEP]",
    "it ends with </s>",
    "it ends with <mask>",
]


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
    return sorted(path.name for path in (index.folder / TOKENS).iterdir())


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
def test_odd_contexts_are_those_of_the_whole_text(built, tokenized, monkeypatch, kind, length):
    monkeypatch.setattr(token_cache, "UNCLEAN", 0.5)
    retriever = retriever_of(built, kind, max_combined_length=length)
    n = len(retriever.index)
    rows = np.tile(np.arange(-1, n), (len(QUESTIONS), 1))
    expected = contexts_of(retriever, rows, QUESTIONS, known=False)
    retriever.expect_contexts(2 * n)
    tokenized.clear()
    assert contexts_of(retriever, rows, QUESTIONS, known=True) == expected
    assert (max(map(len, expected)) == 45) == (length == 45 and kind != "word")
    # No passage, and with three titles each the texts that end in white space, or in a special
    # token behind which the tokenizer writes a space.
    special = {"starter": 2, "byte_fallback": 1}.get(kind, 0)
    assert len(tokenized) == len(QUESTIONS) * (1 + 3 * (len(ENDS_IN_SPACE) + special))


def test_a_token_that_takes_the_space_behind_it_is_tokenised_with_each_question(
    tmp_path, tokenized
):
    index = build([("", "red <end>"), *[("", text) for text in PLAIN]], tmp_path / "index")
    retriever = retriever_of(index.folder, "marked")
    rows = np.arange(len(index))[None]
    expected = contexts_of(retriever, rows, ["who?"], known=False)
    retriever.expect_contexts(2 * len(index))
    tokenized.clear()
    assert contexts_of(retriever, rows, ["who?"], known=True) == expected
    assert tokenized == [" / red <end>"]


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
    retriever.config.generator.prefix = "old: "
    assert contexts_of(retriever, rows, asked, known=True) == expected and not tokenized
    assert len(files_of(index)) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: tokenizer.add_tokens(["houses"]),
        lambda tokenizer: tokenizer.add_tokens(["house"]),
        lambda tokenizer: setattr(tokenizer, "split_special_tokens", True),
        lambda tokenizer: setattr(
            tokenizer.backend_tokenizer,
            "post_processor",
            TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)]),
        ),
    ],
    ids=["new token", "known token", "split_special_tokens", "what stands around"],
)
def test_a_tokenizer_that_changes_has_another_cache(index, tokenized, change):
    retriever, rows = retriever_of(index.folder, "word"), np.arange(20)[None]
    retriever.expect_contexts(40)
    change(retriever.generator_tokenizer)
    asked = ["who </s> in houses ?"]
    expected = contexts_of(retriever, rows, asked, known=False)
    tokenized.clear()
    assert contexts_of(retriever, rows, asked, known=True) == expected and len(tokenized) == 20
    retriever.expect_contexts(40)
    assert contexts_of(retriever, rows, asked, known=True) == expected and len(tokenized) == 20
    assert len(files_of(index)) == 2


# ---- When it is made ----


def test_it_is_made_where_each_passage_is_read_twice_and_opened_by_all(index):
    few = retriever_of(index.folder, "bpe")
    few.expect_contexts(39)
    assert not any(few._caches.values()) and not (index.folder / TOKENS).exists()
    few.expect_contexts(40)
    assert any(few._caches.values())
    [name] = files_of(index)
    made = (index.folder / TOKENS / name).stat().st_mtime_ns
    one = retriever_of(index.folder, "bpe")
    one.expect_contexts(1)
    assert any(one._caches.values())
    assert (index.folder / TOKENS / name).stat().st_mtime_ns == made


def test_each_tokenizer_and_index_has_its_own(index, tmp_path):
    for tokenizer in (tiny_rag.word_tokenizer("bart"), tiny_rag.word_tokenizer("t5")):
        for _ in range(2):
            tokenizer(["a b"], truncation=True, max_length=1)  # leaves settings behind
            assert load_token_cache(index, tokenizer, TEMPLATE, make=True)
    assert len(files_of(index)) == 2
    other = tiny_rag.tiny_index(tmp_path / "other")
    (other.folder / TOKENS).symlink_to(index.folder / TOKENS)
    assert load_token_cache(other, tokenizer, TEMPLATE, make=True)
    assert len(files_of(index)) == 3


def test_blocks_join_to_the_same_file(index, tmp_path, monkeypatch):
    tokenizer = tiny_rag.word_tokenizer("bart")
    assert load_token_cache(index, tokenizer, TEMPLATE, make=True)
    path = index.folder / TOKENS / files_of(index)[0]
    once = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(token_cache, "ROWS_PER_BLOCK", 7)
    assert load_token_cache(index, tokenizer, TEMPLATE, make=True)
    assert path.read_bytes() == once


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:5],
        lambda whole: whole[:200],
        lambda whole: whole[:-2],
        lambda whole: b"\1" + whole[1:],
        lambda whole: whole[:24] + b"\0" * 8 + whole[32:],
    ],
)
def test_a_damaged_file_is_said_and_left(index, damage):
    tokenizer = tiny_rag.word_tokenizer("bart")
    load_token_cache(index, tokenizer, TEMPLATE, make=True)
    [name] = files_of(index)
    path = index.folder / TOKENS / name
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    for make in (False, True):
        with pytest.warns(
            UserWarning, match=rf"no token cache \({name} is damaged: delete it, and"
        ):
            assert load_token_cache(index, tokenizer, TEMPLATE, make=make) is None
    assert path.read_bytes() == damaged
    path.unlink()
    assert load_token_cache(index, tokenizer, TEMPLATE, make=True)


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
    with pytest.warns(UserWarning, match=r"tokens: no token cache \(Permission denied\): passages"):
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


@pytest.mark.parametrize("make", [False, True])
def test_a_file_that_cannot_be_read_is_said(index, monkeypatch, make):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    tokenizer = tiny_rag.word_tokenizer("t5")
    assert load_token_cache(index, tokenizer, TEMPLATE, make=True)
    for owner, name in ((np, "memmap"), (Path, "stat")):
        monkeypatch.setattr(owner, name, refuse)
        with pytest.warns(UserWarning, match=r"no token cache \(Permission denied\): passages"):
            assert load_token_cache(index, tokenizer, TEMPLATE, make=make) is None


def test_something_else_in_its_place_is_said(index):
    (index.folder / TOKENS).write_text("no folder")
    tokenizer = tiny_rag.word_tokenizer("t5")
    assert load_token_cache(index, tokenizer, TEMPLATE, make=False) is None
    with pytest.warns(UserWarning, match=r"no token cache \(Not a directory\)"):
        assert load_token_cache(index, tokenizer, TEMPLATE, make=True) is None


@pytest.mark.parametrize("doc_sep", ["\n", " "])
def test_a_separator_that_does_not_part_is_said(index, doc_sep):
    tokenizer, template = tiny_rag.word_tokenizer("t5"), Template("", " / ", doc_sep)
    with pytest.warns(UserWarning, match=r"no token cache \(doc_sep .* is not a space and"):
        assert not load_token_cache(index, tokenizer, template, make=True)
    assert not (index.folder / TOKENS).exists()


def test_passages_that_end_in_white_space_are_counted(tmp_path):
    texts = [("", text + "\n" * (number < 3)) for number, text in enumerate(PLAIN)]
    index = build(texts, tmp_path / "index")
    told = rf"3 of the first {len(PLAIN)} passages end in white space, or the generator's tokenizer"
    with pytest.warns(UserWarning, match=told):
        assert not load_token_cache(index, tiny_rag.word_tokenizer("t5"), TEMPLATE, make=True)
    assert files_of(index) == []


# ---- Several at once ----


def test_of_several_that_make_it_all_use_that_of_the_first(index, monkeypatch):
    found, all_here, write = [], threading.Barrier(3), token_cache._Job._write

    def write_together(job, path):
        write(job, path)
        all_here.wait(timeout=60)

    monkeypatch.setattr(token_cache._Job, "_write", write_together)

    def load():
        tokenizer = tiny_rag.word_tokenizer("bart")
        found.append(load_token_cache(open_index(index.folder), tokenizer, TEMPLATE, make=True))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found) and len(found) == 3 and len(files_of(index)) == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(index, monkeypatch, links):
    tokenizer, write = tiny_rag.word_tokenizer("bart"), token_cache._Job._write
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)

    def write_late(job, path):
        write(job, path)
        if not job.path.exists():
            job.path.write_bytes(path.read_bytes())
            made.append(job.path.stat().st_ino)

    made: list[int] = []
    monkeypatch.setattr(token_cache._Job, "_write", write_late)
    assert load_token_cache(index, tokenizer, TEMPLATE, make=True)
    [name] = files_of(index)
    assert [(index.folder / TOKENS / name).stat().st_ino] == made


def refuse_links(*args):
    raise PermissionError(1, "Operation not permitted")


def test_a_file_system_without_links_does(index, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_links)
    assert load_token_cache(index, tiny_rag.word_tokenizer("bart"), TEMPLATE, make=True)
    assert len(files_of(index)) == 1


def test_what_a_killed_process_left_is_swept_up(index):
    (index.folder / TOKENS).mkdir()
    for name in (".old.bin.partial-1", ".new.bin.partial-2"):
        (index.folder / TOKENS / name).write_bytes(b"ids")
    os.utime(index.folder / TOKENS / ".old.bin.partial-1", (0, 0))
    assert load_token_cache(index, tiny_rag.word_tokenizer("bart"), TEMPLATE, make=True)
    left, made = files_of(index)
    assert left == ".new.bin.partial-2" and made.endswith(".bin")
