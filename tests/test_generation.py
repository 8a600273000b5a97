"""Questions in, answers with evidence out: one search a question, and what was learnt is said."""

import numpy as np
import pytest
import tiny_rag
import tiny_words
import torch
from trained_rag import trained_rag

from rag_finetune.rag.checkpoint import Rag, load_rag
from rag_finetune.rag.decoding import Decoded
from rag_finetune.rag.generation import (
    Retrieved,
    answers_with_evidence,
    generate_answers,
    retrieve,
    tokenize_questions,
)
from rag_finetune.rag.scoring import Contexts
from rag_finetune.retrieval.retriever import RagIndexRetriever

FACTS = tiny_rag.facts()
QUESTIONS = [fact["question"] for fact in FACTS]
SHORT = [*QUESTIONS[:3], "ada ?", "who is in oslo and what is the colour of the old house ?"]


@pytest.fixture(params=["bart", "t5"])
def kind(request) -> str:
    return request.param


@pytest.fixture(params=["rag_sequence", "rag_token"])
def rag(request, kind) -> Rag:
    return trained_rag(kind, request.param)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Rag:
    """A model that tests leave as it is."""
    return tiny_rag.tiny_rag(tmp_path_factory.mktemp("generation"))


def share_of_exact(texts: list[str]) -> float:
    return sum(text == fact["answer"] for text, fact in zip(texts, FACTS, strict=True)) / 20


class Searches:
    """Counts the questions that an index was asked for."""

    def __init__(self, rag: Rag, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        search = rag.retriever.index.search

        def counted(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            self.rows.append(len(vectors))
            return search(vectors, k)

        monkeypatch.setattr(rag.retriever.index, "search", counted)


# ---- It says what it learnt ----


def test_trained_model_answers_by_our_decoding(rag):
    answers = generate_answers(rag, QUESTIONS, batch_size=7)
    assert share_of_exact([best.text for (best,) in answers]) >= 0.8


def test_trained_model_answers_by_plain_generate(rag):
    texts = []
    for question in QUESTIONS:
        tokens = rag.tokenizer.question_encoder(question, return_tensors="pt")
        sequences = rag.model.generate(tokens["input_ids"], num_beams=1, max_length=16)
        texts += rag.tokenizer.generator.batch_decode(sequences, skip_special_tokens=True)
    assert share_of_exact([text.strip() for text in texts]) >= 0.8


def test_beams_and_fast_decoding_answer_as_well(rag):
    for options in ({"num_beams": 3}, {"thorough": False}):
        answers = generate_answers(rag, QUESTIONS, batch_size=20, **options)
        assert share_of_exact([best.text for (best,) in answers]) >= 0.8


# ---- One search a question ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 3},
        {"do_sample": True, "num_return_sequences": 2},
        {"thorough": False},
    ],
    ids=lambda options: "-".join(options) or "greedy",
)
def test_each_question_is_searched_for_once(rag, monkeypatch, options):
    searches = Searches(rag, monkeypatch)
    generate_answers(rag, SHORT, batch_size=2, max_new_tokens=4, **options)
    assert searches.rows == [2, 2, 1]


def test_contexts_are_encoded_once(rag):
    read = []
    handle = rag.model.rag.generator.get_encoder().register_forward_hook(
        lambda _, args, kwargs, out: read.append(len(out[0])), with_kwargs=True
    )
    try:
        generate_answers(rag, SHORT, batch_size=5, num_beams=3, num_return_sequences=3)
    finally:
        handle.remove()
    # in groups of like length, but no context twice
    assert sum(read) == len(SHORT) * rag.model.config.n_docs


# ---- Batches ----


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_answers_do_not_depend_on_the_batch(rag, options):
    together = generate_answers(rag, SHORT, batch_size=5, max_new_tokens=6, **options)
    for batch_size in (1, 2):
        apart = generate_answers(rag, SHORT, batch_size=batch_size, max_new_tokens=6, **options)
        for first, second in zip(together, apart, strict=True):
            assert [answer.text for answer in first] == [answer.text for answer in second]
            for one, other in zip(first, second, strict=True):
                assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-5)
                assert [p["id"] for p in one.passages] == [p["id"] for p in other.passages]
                shares = [passage["posterior"] for passage in one.passages]
                expected = [passage["posterior"] for passage in other.passages]
                assert shares == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_answers_come_in_the_order_of_the_questions(rag):
    order = [13, 2, 7, 19, 0, 5]
    answers = generate_answers(rag, [QUESTIONS[row] for row in order], batch_size=4)
    expected = generate_answers(rag, QUESTIONS, batch_size=20)
    assert [best.text for (best,) in answers] == [expected[row][0].text for row in order]


def test_answers_are_the_same_from_the_token_cache(tmp_path, monkeypatch):
    rag = tiny_rag.tiny_rag(tmp_path)
    few = generate_answers(rag, QUESTIONS[:7], max_new_tokens=4)  # 35 contexts of 20 passages
    assert not (rag.retriever.index.folder / "tokens").exists()
    tokenised, plain = [], RagIndexRetriever._tokenize_contexts
    monkeypatch.setattr(
        RagIndexRetriever,
        "_tokenize_contexts",
        lambda self, heads, tails: tokenised.append(heads) or plain(self, heads, tails),
    )
    all_of_them = generate_answers(rag, QUESTIONS, max_new_tokens=4, batch_size=7)
    assert (rag.retriever.index.folder / "tokens").is_dir() and not tokenised
    assert [answer[0].text for answer in all_of_them[:7]] == [answer[0].text for answer in few]
    assert [answer[0].score for answer in all_of_them[:7]] == pytest.approx(
        [answer[0].score for answer in few]
    )


def test_no_questions_give_no_answers(untrained):
    assert generate_answers(untrained, []) == []


def test_dropout_is_off_also_right_after_training(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path, dropout=0.5)
    expected = generate_answers(rag, SHORT, max_new_tokens=4)
    rag.model.train()
    rag.model.rag.question_encoder.eval()  # frozen, say
    assert generate_answers(rag, SHORT, max_new_tokens=4) == expected
    assert rag.model.training and rag.model.rag.generator.training
    assert not rag.model.rag.question_encoder.training


# ---- Evidence ----


def test_every_answer_comes_with_its_passages(rag):
    stored = {fact["id"]: fact for fact in FACTS}
    vectors = dict(
        zip(
            rag.retriever.index.passages["id"][:],
            np.array(rag.retriever.index.passages["embeddings"][:]),
            strict=True,
        )
    )
    for question, answers in zip(SHORT, generate_answers(rag, SHORT, n_docs=4), strict=True):
        (answer,) = answers
        tokens = rag.tokenizer.question_encoder(question, return_tensors="pt")
        with torch.no_grad():
            hidden = rag.model.question_encoder(**tokens).pooler_output[0].numpy()
        best = sorted(vectors, key=lambda name: -(vectors[name] @ hidden))[:4]
        assert [passage["id"] for passage in answer.passages] == best
        for passage in answer.passages:
            assert list(passage) == ["id", "title", "text", "score", "posterior"]
            assert passage["title"] == stored[passage["id"]]["title"]
            assert passage["text"] == stored[passage["id"]]["text"]
            assert passage["score"] == pytest.approx(vectors[passage["id"]] @ hidden, rel=1e-4)
        assert sum(p["posterior"] for p in answer.passages) == pytest.approx(1, abs=1e-5)
        assert answer.score <= 0


@pytest.mark.parametrize("n_docs", [1, 3, 20])
def test_n_docs_is_what_the_generator_reads(rag, n_docs):
    (answer,) = generate_answers(rag, QUESTIONS[:1], n_docs=n_docs, max_new_tokens=4)[0]
    assert len(answer.passages) == n_docs
    assert len({passage["id"] for passage in answer.passages}) == n_docs


def test_too_many_passages_are_all_of_them_with_one_warning(untrained):
    with pytest.warns(UserWarning, match="n_docs 30 is more than the 20 passages") as warned:
        answers = generate_answers(untrained, SHORT, n_docs=30, batch_size=1, max_new_tokens=2)
    assert len(answers[0][0].passages) == 20
    assert len(warned) == 1


def test_no_passage_is_no_evidence(rag, monkeypatch):
    search = rag.retriever.index.search

    def partly(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = search(vectors, k)
        rows[:, 3:], scores[:, 3:] = -1, -np.inf  # as an approximate index does
        return scores, rows

    expected = generate_answers(rag, SHORT, n_docs=3, num_beams=2, max_new_tokens=6)
    monkeypatch.setattr(rag.retriever.index, "search", partly)
    answers = generate_answers(rag, SHORT, n_docs=5, num_beams=2, max_new_tokens=6)
    for (answer,), (wanted,) in zip(answers, expected, strict=True):
        assert answer.text == wanted.text
        assert answer.score == pytest.approx(wanted.score, rel=1e-4, abs=1e-5)
        assert [p["id"] for p in answer.passages] == [p["id"] for p in wanted.passages]
        assert sum(p["posterior"] for p in answer.passages) == pytest.approx(1, abs=1e-5)


def test_answers_are_joined_to_their_own_questions(untrained):
    def passages(*names: str) -> list[dict]:
        return [{"id": n, "document_id": n, "title": n, "text": n, "score": 1.0} for n in names]

    contexts = Contexts(torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(2, 2))
    retrieved = Retrieved(contexts, [passages("a", "b", "deeper"), passages("c", "", "deeper")])
    words = untrained.tokenizer.generator(["red", "blue", "old"], return_tensors="pt")
    decoded = Decoded(
        words["input_ids"],
        torch.tensor([-1.0, -2.0, -3.0]),
        torch.tensor([0, 0, 1]),
        torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]),
    )
    first, second = answers_with_evidence(untrained, retrieved, decoded)
    assert [(answer.text, answer.score) for answer in first] == [("red", -1.0), ("blue", -2.0)]
    assert [(answer.text, answer.score) for answer in second] == [("old", -3.0)]
    shares = [[(p["id"], p["posterior"]) for p in answer.passages] for answer in (*first, *second)]
    assert shares == [[("a", 0.25), ("b", 0.75)], [("a", 0.5), ("b", 0.5)], [("c", 1.0)]]


# ---- Retrieving ----


def test_depth_brings_more_passages_than_the_generator_reads(untrained):
    tokens = tokenize_questions(untrained, QUESTIONS[:2], 128)
    arguments = (
        untrained.model,
        untrained.retriever,
        tokens["input_ids"],
        tokens["attention_mask"],
    )
    deep = retrieve(*arguments, n_docs=3, depth=50)
    plain = retrieve(*arguments, n_docs=3)
    assert [len(found) for found in deep.passages] == [20, 20]
    assert [len(found) for found in plain.passages] == [3, 3]
    for name in ("input_ids", "attention_mask", "doc_scores"):
        assert torch.equal(getattr(deep.contexts, name), getattr(plain.contexts, name))
    assert [found[:3] for found in deep.passages] == plain.passages
    scores = [passage["score"] for passage in deep.passages[0]]
    assert scores == sorted(scores, reverse=True)
    assert deep.contexts.doc_scores[0].tolist() == scores[:3]


def test_scores_of_passages_are_float32_under_autocast(untrained):
    tokens = tokenize_questions(untrained, QUESTIONS[:2], 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = retrieve(
            untrained.model,
            untrained.retriever,
            tokens["input_ids"],
            tokens["attention_mask"],
            n_docs=3,
        )
    assert found.contexts.doc_scores.dtype == torch.float32


def test_prefix_of_the_generator_begins_every_context(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path, "t5")
    rag.model.config.generator.prefix = "who lives "
    tokens = tokenize_questions(rag, QUESTIONS[:1], 128)
    found = retrieve(
        rag.model, rag.retriever, tokens["input_ids"], tokens["attention_mask"], n_docs=2
    )
    texts = rag.tokenizer.generator.batch_decode(found.contexts.input_ids)
    assert all(text.startswith("who lives house of") for text in texts)


def test_questions_are_cut_to_what_the_question_encoder_takes(untrained):
    tokens = tokenize_questions(untrained, ["red " * 500, "red"], 1000)
    assert tokens["input_ids"].shape == (2, 64)
    assert tokens["attention_mask"].sum(-1).tolist() == [64, 3]


def test_question_that_leaves_no_room_is_an_error_with_a_remedy(untrained):
    question = ["what is the house " * 20]
    remedy = "Raise max_combined_length or lower max_question_length"
    with pytest.raises(ValueError, match=remedy), pytest.warns(UserWarning, match="lose their end"):
        generate_answers(untrained, question)
    with pytest.warns(UserWarning, match="longer than 20 tokens and lose their end"):
        assert generate_answers(untrained, question, max_question_length=20, max_new_tokens=2)


# ---- What cannot be answered ----


def test_without_an_index_there_is_no_answer(untrained):
    folder = untrained.retriever.index.folder.parent
    rag = load_rag(folder / "assembled", with_index=False)
    with pytest.raises(ValueError, match="load the model with its index"):
        generate_answers(rag, QUESTIONS)


def test_a_string_is_not_taken_for_a_list_of_letters(untrained):
    with pytest.raises(ValueError, match=r"must be a list of strings. Write \['what is"):
        generate_answers(untrained, "what is red ?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
        ({"batch_size": -2}, "batch_size must be at least 1, found -2"),
        ({"n_docs": 0}, "n_docs must be at least 1, found 0"),
        ({"num_return_sequences": 0}, "num_return_sequences must be from 1"),
    ],
)
def test_arguments_out_of_range_are_refused(untrained, options, message):
    with pytest.raises(ValueError, match=message):
        generate_answers(untrained, QUESTIONS, **options)


def test_damaged_question_encoder_is_an_error_that_says_so(tmp_path):
    rag = tiny_rag.tiny_rag(tmp_path)
    with torch.no_grad():
        next(rag.model.question_encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="question encoder gave a vector that is not finite"):
        generate_answers(rag, QUESTIONS)


# ---- Search by words ----


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    """Checkpoints over vectors and words, and over words alone."""
    folder = tmp_path_factory.mktemp("words")
    full = tiny_words.full_index(folder / "full/index")
    bare = tiny_words.word_index(folder / "bare/index")
    return [
        tiny_words.assembled(folder / "full", full),
        tiny_words.assembled(folder / "bare", bare),
    ]


def found_by(checkpoint, **options):
    """What is retrieved for all questions, and their scores by words and by vectors."""
    rag = load_rag(checkpoint, **options)
    tokens = tokenize_questions(rag, QUESTIONS, 64)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    with torch.no_grad():
        found = retrieve(rag.model, rag.retriever, ids, mask, n_docs=4, questions=QUESTIONS)
        hidden = rag.model.question_encoder(ids, attention_mask=mask)[0]
    index = rag.retriever.index
    rows = np.array([[int(p["id"]) - 1 if p["id"] else -1 for p in ps] for ps in found.passages])
    kind = rag.retriever.searcher.retrieval.kind
    words = torch.from_numpy(index.lexical(kind).scores_at(QUESTIONS, rows))
    assert (rows >= 0).all()
    if not index.manifest.has_vectors:
        return found, rows, words, None
    vectors = torch.from_numpy(index.vectors_at(rows))
    return found, rows, words, torch.einsum("bd,bkd->bk", hidden, vectors)


@pytest.mark.parametrize("way", ["bm25", "tfidf", "hybrid"])
def test_scores_are_inner_products_whichever_way_passages_are_found(indexes, way):
    found, rows, _, products = found_by(indexes[0], retrieval=way)
    torch.testing.assert_close(found.contexts.doc_scores, products)
    if way != "hybrid":
        assert rows[:, 0].tolist() == list(range(20))


@pytest.mark.parametrize("way", ["dense", "bm25"])
def test_a_prior_adds_lambda_times_the_scores_by_words(indexes, way):
    found, _, words, products = found_by(indexes[0], retrieval=way, lexical_prior=0.5)
    assert words.abs().sum() > 0
    torch.testing.assert_close(found.contexts.doc_scores, products + 0.5 * words)


@pytest.mark.parametrize(("prior", "factor"), [(None, 1.0), (0.25, 0.25)])
def test_without_vectors_the_scores_are_those_by_words(indexes, prior, factor):
    found, rows, words, _ = found_by(indexes[1], lexical_prior=prior)
    torch.testing.assert_close(found.contexts.doc_scores, factor * words)
    assert rows[:, 0].tolist() == list(range(20))


def test_without_vectors_the_question_encoder_is_not_asked(indexes, monkeypatch):
    rag = load_rag(indexes[1])
    monkeypatch.setattr(rag.model.rag.question_encoder, "forward", None)
    answers = generate_answers(rag, QUESTIONS[:3], max_new_tokens=2)
    assert [found[0].passages[0]["id"] for found in answers] == ["1", "2", "3"]


def test_answers_by_words_do_not_depend_on_the_batch(indexes):
    rag = load_rag(indexes[0], retrieval="hybrid", lexical_prior=0.1)
    whole = generate_answers(rag, QUESTIONS[:6], batch_size=6, max_new_tokens=3)
    single = generate_answers(rag, QUESTIONS[:6], batch_size=1, max_new_tokens=3)
    for one, other in zip(whole, single, strict=True):
        assert [p["id"] for p in one[0].passages] == [p["id"] for p in other[0].passages]
        assert one[0].score == pytest.approx(other[0].score, abs=1e-4)
