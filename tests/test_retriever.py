import random
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_rag
import tiny_words
import torch
from tiny_tokenizers import ODD, PLAIN, byte_level_bpe, unigram
from transformers import RagConfig, RagRetriever

from rag_finetune.index.build import build_index
from rag_finetune.rag.checkpoint import Rag, load_rag
from rag_finetune.retrieval.retriever import RagIndexRetriever
from rag_finetune.retrieval.search import clamp_n_docs

QUESTIONS = [fact["question"] for fact in tiny_rag.facts()[:6]]


@pytest.fixture(scope="module", params=["bart", "t5"])
def rag(request, tmp_path_factory) -> Rag:
    """A model that tests leave as it is."""
    folder = tmp_path_factory.mktemp("retriever")
    tiny_rag.tiny_rag(folder, request.param)
    return load_rag(folder / "assembled")


def native_retriever(rag: Rag) -> RagRetriever:
    folder = rag.retriever.index.folder
    return RagRetriever.from_pretrained(
        folder.parent / "assembled",
        index_name="custom",
        passages_path=str(folder / "passages"),
        index_path=str(folder / "dense.faiss"),
    )


def ask(rag: Rag, questions: list[str]) -> tuple[torch.Tensor, np.ndarray]:
    """Token ids of questions, and vectors that point each to another passage."""
    ids = rag.tokenizer.question_encoder(questions, padding=True, return_tensors="pt")["input_ids"]
    draw = np.random.default_rng(0)
    return ids, draw.normal(size=(len(questions), 16)).astype(np.float32)


def unpadded(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]


@pytest.mark.parametrize("prefix", [None, "old: "])
def test_contexts_are_those_of_transformers_up_to_padding(rag, prefix):
    ids, vectors = ask(rag, QUESTIONS)
    ours = rag.retriever(ids, vectors, prefix=prefix, n_docs=4, return_tensors="pt")
    native = native_retriever(rag)(ids, vectors, prefix=prefix, n_docs=4, return_tensors="pt")
    assert list(ours) == list(native)
    assert torch.equal(ours["doc_ids"], native["doc_ids"])
    assert len(ours["doc_ids"].unique()) > 4
    torch.testing.assert_close(
        ours["retrieved_doc_embeds"].double(), native["retrieved_doc_embeds"].double()
    )
    keys = ("context_input_ids", "context_attention_mask")
    assert unpadded(*(ours[key] for key in keys)) == unpadded(*(native[key] for key in keys))
    assert {ours[key].dtype for key in keys} == {native[key].dtype for key in keys}


def test_contexts_are_padded_to_the_longest_of_the_batch(rag):
    ids, vectors = ask(rag, QUESTIONS)
    found = rag.retriever(ids, vectors, n_docs=4, return_tensors="pt")
    mask = found["context_attention_mask"]
    assert mask.shape == found["context_input_ids"].shape == (24, int(mask.sum(-1).max()))
    assert mask.shape[1] < rag.model.config.max_combined_length
    pad = rag.model.config.generator.pad_token_id
    assert (found["context_input_ids"][mask == 0] == pad).all()


@pytest.mark.parametrize("kind", [None, "np", "pt"])
def test_return_type_is_as_asked(rag, kind):
    ids, vectors = ask(rag, QUESTIONS)
    found = rag.retriever(ids.tolist(), vectors, n_docs=2, return_tensors=kind)
    types = {None: list, "np": np.ndarray, "pt": torch.Tensor}
    assert isinstance(found["context_input_ids"], types[kind])
    assert len(found["context_input_ids"]) == len(found["context_attention_mask"]) == 12
    assert [len(row) for row in found["doc_ids"]] == [2] * 6


def test_retrieve_gives_vectors_rows_and_lists_of_titles_and_texts(rag):
    index = rag.retriever.index
    _, vectors = ask(rag, QUESTIONS)
    embeds, rows, docs = rag.retriever.retrieve(vectors, 3)
    stored = np.array(index.passages["embeddings"][:], dtype=np.float32)
    expected = np.argsort(-(vectors @ stored.T), axis=1)[:, :3]
    assert np.array_equal(rows, expected)
    assert np.array_equal(embeds, stored[expected])
    facts = tiny_rag.facts()
    assert docs == [
        {
            "title": [facts[row]["title"] for row in best],
            "text": [facts[row]["text"] for row in best],
        }
        for best in expected
    ]


def test_n_docs_above_the_number_of_passages_is_clamped_with_a_warning(rag):
    ids, vectors = ask(rag, QUESTIONS[:2])
    with pytest.warns(UserWarning, match="n_docs 50 is more than the 20 passages of the index"):
        found = rag.retriever(ids, vectors, n_docs=50, return_tensors="pt")
    assert sorted(found["doc_ids"][0].tolist()) == list(range(20))
    assert len(found["context_input_ids"]) == 40
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rag.retriever.clamp(None) == 5 and rag.retriever.clamp(20) == 20


@pytest.mark.parametrize("n_docs", [0, -3])
def test_n_docs_below_one_is_refused(rag, n_docs):
    with pytest.raises(ValueError, match=f"n_docs must be at least 1, found {n_docs}"):
        clamp_n_docs(n_docs, 20)
    with pytest.raises(ValueError, match="n_docs must be at least 1"):
        rag.retriever.clamp(n_docs)


def test_row_minus_one_never_reaches_a_passage(rag, monkeypatch):
    def search(vectors, k):
        rows = np.full((len(vectors), k), -1)
        rows[:, 0] = 7
        return np.where(rows < 0, -np.inf, 1.0).astype(np.float32), rows

    monkeypatch.setattr(rag.retriever.index, "search", search)
    ids, vectors = ask(rag, QUESTIONS[:1])
    found = rag.retriever(ids, vectors, n_docs=3, return_tensors="pt")
    assert found["doc_ids"].tolist() == [[7, -1, -1]]
    assert (found["retrieved_doc_embeds"][0, 1:] == 0).all()
    texts = rag.tokenizer.generator.batch_decode(
        found["context_input_ids"], skip_special_tokens=True
    )
    assert texts[0] == f"house of hana / {tiny_rag.facts()[7]['text']} // {QUESTIONS[0]}"
    assert texts[1] == texts[2] == f"/ // {QUESTIONS[0]}"
    _, _, passages = rag.retriever.retrieve_passages(vectors, 3)
    assert [passage["id"] for passage in passages[0]] == ["8", "", ""]


def test_native_forward_runs_with_our_retriever_and_gives_the_same_loss(rag):
    tokens = rag.tokenizer.question_encoder(QUESTIONS, padding=True, return_tensors="pt")
    start = rag.model.config.generator.decoder_start_token_id
    answers = rag.tokenizer.generator(["red oslo"] * 6, return_tensors="pt")["input_ids"]
    labels = torch.cat([answers.new_full((6, 1), start), answers], dim=1)
    assert rag.model.retriever is rag.retriever
    with torch.no_grad():
        ours = rag.model(**tokens, labels=labels, output_retrieved=True)
        rag.model.set_retriever(native_retriever(rag))
        try:
            native = rag.model(**tokens, labels=labels, output_retrieved=True)
        finally:
            rag.model.set_retriever(rag.retriever)
    torch.testing.assert_close(ours.loss, native.loss, rtol=1e-5, atol=0)
    assert torch.equal(ours.retrieved_doc_ids, native.retrieved_doc_ids)


def test_contexts_do_not_depend_on_how_the_tokenizer_was_used_before(rag):
    ids, vectors = ask(rag, QUESTIONS)
    before = rag.retriever(ids, vectors, n_docs=2, return_tensors="pt")
    rag.tokenizer.generator(["a b c d"], truncation=True, max_length=3, padding="max_length")
    after = rag.retriever(ids, vectors, n_docs=2, return_tensors="pt")
    assert torch.equal(before["context_input_ids"], after["context_input_ids"])


@pytest.mark.parametrize("return_tensors", [None, "np", "pt"])
def test_contexts_from_the_token_cache_are_the_same(tmp_path, monkeypatch, return_tensors):
    rag = tiny_rag.tiny_rag(tmp_path)
    ids, vectors = ask(rag, QUESTIONS)
    options = {"n_docs": 4, "return_tensors": return_tensors}
    before = rag.retriever(ids, vectors, **options)
    rag.retriever.expect_contexts(40)
    monkeypatch.setattr(RagIndexRetriever, "_tokenize_contexts", None)  # not asked
    after = rag.retriever(ids, vectors, **options)
    for name, values in before.items():
        assert type(after[name]) is type(values)
        assert np.array_equal(after[name], values)


# ---- The question is never cut ----

TOKENIZERS = {
    "word": lambda: tiny_rag.word_tokenizer("bart"),
    "byte_level_bpe": lambda: byte_level_bpe([*PLAIN, *ODD], 400),
    "unigram": lambda: unigram([*PLAIN, *ODD] * 3, 300),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def writer(request, tmp_path_factory) -> SimpleNamespace:
    """A function that writes contexts with a tokenizer of the kind, and the tokenizer."""
    index = tiny_rag.tiny_index(tmp_path_factory.mktemp("writer") / "index")
    tokenizer = TOKENIZERS[request.param]()
    config = RagConfig.from_question_encoder_generator_configs(
        tiny_rag.dpr_config(), tiny_rag.generator("bart").config, retrieval_vector_size=16
    )
    retriever = RagIndexRetriever(config, tiny_rag.word_tokenizer("bert"), tokenizer, index)

    def write(
        title: str, text: str, question: str, length: int, prefix: str = "", doc_sep: str = " // "
    ) -> list[int]:
        config.max_combined_length, config.doc_sep = length, doc_sep
        docs = [{"title": [title], "text": [text]}]
        ids, mask = retriever.postprocess_docs(docs, [question], prefix, 1)
        assert mask == [[1] * len(ids[0])]
        return ids[0]

    return SimpleNamespace(write=write, tokenizer=tokenizer, kind=request.param)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def test_whole_question_is_in_the_context_whatever_the_length_of_the_passage(writer):
    draw, cut, tokenizer = random.Random(0), 0, writer.tokenizer
    plain = writer.kind == "word"
    sentences, lengths = (PLAIN[:-1], (12, 60)) if plain else (PLAIN + ODD, (70, 120))
    for _ in range(150):
        text = " ".join(draw.choices(sentences, k=draw.randrange(12)))
        title, prefix = draw.choice(["", "house of ada", '"ada"']), draw.choice(["", "old "])
        question = QUESTIONS[0] if plain else draw.choice([PLAIN[-1], *ODD])
        length = draw.randrange(*lengths)
        ids = writer.write(title, text, question, length, prefix)
        whole = f"{prefix}{title.strip(chr(34))} / {text} // {question}".replace("  ", " ")
        uncut = tokenizer(whole)["input_ids"]
        if len(uncut) <= length:
            assert ids == uncut
            continue
        cut += 1
        assert len(ids) == length
        # What goes is one run of tokens, between the beginning of the passage and the question.
        kept = next(i for i, (a, b) in enumerate(zip(ids, uncut, strict=False)) if a != b)
        assert ids[kept:] == uncut[len(uncut) - (length - kept) :]
        written = tokenizer.decode(ids, skip_special_tokens=True)
        assert squeezed(written).endswith(squeezed("// " + question))
        assert ids[-1] == tokenizer.eos_token_id
    assert cut > 30


@pytest.mark.parametrize("space", [" ", "  "])
def test_question_that_just_fits_leaves_no_passage(writer, space):
    question = "what is the house of ada ?"
    passage = "house of ada / the house is red"
    whole = writer.tokenizer(f"{passage} // {question}")["input_ids"]
    head = writer.tokenizer(passage, add_special_tokens=False)["input_ids"]
    alone = len(whole) - len(head)
    lead = whole.index(head[0])
    for length in range(alone, alone + 3):
        ids = writer.write(*passage.split(" / "), question.replace(" ", space), length)
        kept = length - alone
        assert ids == whole[: lead + kept] + whole[lead + len(head) :]
    with pytest.raises(ValueError, match="does not fit into max_combined_length"):
        writer.write(*passage.split(" / "), question.replace(" ", space), alone - 1)


def test_a_separator_of_one_letter_is_kept_with_the_question(writer):
    separator = " ? " if writer.kind == "word" else "?"
    ids = writer.write("house", "the dog " * 30, "who is in the house", 20, doc_sep=separator)
    written = writer.tokenizer.decode(ids, skip_special_tokens=True)
    assert len(ids) == 20 and written.endswith(f"{separator}who is in the house")


def test_question_that_does_not_fit_is_an_error_with_a_remedy(writer):
    question = "what is the house of ada ? " * 8
    message = (
        r"A question of \d+ of the generator's tokens does not fit into max_combined_length 20. "
        "Raise max_combined_length or lower max_question_length. The question: .*house of ada"
    )
    with pytest.raises(ValueError, match=message):
        writer.write("house of ada", PLAIN[0], question, 20)


def test_room_for_questions_can_be_checked_beforehand(rag):
    rag.retriever.require_room(QUESTIONS)
    with pytest.raises(ValueError, match=r"does not fit into max_combined_length 40.*: .* dog dog"):
        rag.retriever.require_room([QUESTIONS[0], "dog " * 60])


def test_separators_and_quotes_are_those_of_transformers(writer):
    ids = writer.write('"ada"', "red", "who ?", 300)
    assert ids == writer.tokenizer("ada / red // who ?")["input_ids"]


def test_many_contexts_are_written_in_order(rag):
    docs = [
        {"title": ["ada", "ben"], "text": ["red", "blue " * 60]},
        {"title": ["cora", "dan"], "text": ["green", "old"]},
    ]
    ids, mask = rag.retriever.postprocess_docs(docs, ["who is ada ?", "what ?"], None, 2, "pt")
    texts = rag.tokenizer.generator.batch_decode(ids, skip_special_tokens=True)
    assert ids.shape == mask.shape == (4, 40)
    assert [text.split(" // ")[1] for text in texts] == ["who is ada ?"] * 2 + ["what ?"] * 2
    assert [text.split()[2] for text in texts] == ["red", "blue", "green", "old"]


# ---- What does not belong together ----


def test_index_of_another_dimension_is_refused(rag, tmp_path):
    index = build_index(tiny_rag.passages(), tiny_rag.context_encoder(width=32), tmp_path / "i")
    tokenizers = rag.tokenizer.question_encoder, rag.tokenizer.generator
    with pytest.raises(ValueError, match=r"expected vectors of dimension 16.* found 32"):
        RagIndexRetriever(rag.model.config, *tokenizers, index)


def test_generator_tokenizer_without_fast_implementation_is_refused(rag):
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"Slow, which has no fast implementation. Save it"):
        RagIndexRetriever(
            rag.model.config, rag.tokenizer.question_encoder, Slow(), rag.retriever.index
        )


# ---- Search by words ----


@pytest.fixture(scope="module", params=["full", "words"])
def by_words(request, tmp_path_factory) -> Rag:
    """A model whose passages BM25 finds, over an index with vectors or without."""
    folder = tmp_path_factory.mktemp("words")
    make = {"full": tiny_words.full_index, "words": tiny_words.word_index}[request.param]
    checkpoint = tiny_words.assembled(folder, make(folder / "index"))
    return load_rag(checkpoint, retrieval="bm25")


def test_passages_are_found_by_the_words_of_the_tokens(by_words):
    ids, vectors = ask(by_words, QUESTIONS)
    found = by_words.retriever(ids, vectors, n_docs=3, return_tensors="pt")
    expected = by_words.retriever.index.lexical("bm25").search(QUESTIONS, 3)[1]
    assert np.array_equal(found["doc_ids"].numpy(), expected)
    assert found["doc_ids"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_the_texts_that_were_asked_win_over_the_tokens(by_words):
    ids, vectors = ask(by_words, QUESTIONS)
    by_words.retriever.asked = QUESTIONS[::-1]
    try:
        found = by_words.retriever(ids, vectors, n_docs=1)
    finally:
        by_words.retriever.asked = None
    assert np.array(found["doc_ids"])[:, 0].tolist() == [5, 4, 3, 2, 1, 0]


def test_vectors_are_those_of_the_index_or_zeros(by_words):
    _, vectors = ask(by_words, QUESTIONS)
    found, rows, _ = by_words.retriever.retrieve_passages(vectors, 3, QUESTIONS)
    assert found.shape == (6, 3, 16)
    index = by_words.retriever.index
    expected = index.vectors_at(rows) if index.manifest.has_vectors else np.zeros((6, 3, 16))
    assert np.array_equal(found, expected)


def test_transformers_own_model_runs_on_passages_found_by_words(by_words):
    tokens = by_words.tokenizer.question_encoder(QUESTIONS[:2], return_tensors="pt")
    out = by_words.model.generate(tokens["input_ids"], tokens["attention_mask"], max_new_tokens=2)
    assert len(out) == 2
