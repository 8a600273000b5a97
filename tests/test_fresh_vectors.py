"""Passages encoded again: the same vectors as the index's, with gradient, each passage once."""

import numpy as np
import pytest
import tiny_encoders
import tiny_rag
import torch

from rag_finetune.encoders.load import load_context_encoder
from rag_finetune.index.build import build_index
from rag_finetune.retrieval.search import Searcher
from rag_finetune.training.fresh_vectors import (
    FreshSearcher,
    encode_with_gradient,
    fresh_vectors,
    overlap_at_k,
)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return tiny_rag.tiny_index(tmp_path_factory.mktemp("fresh") / "index")


def test_an_encoder_that_has_not_moved_gives_the_vectors_of_the_index(index):
    rows = np.array([[3, 0, 19], [7, 3, 1]])
    found = fresh_vectors(index, tiny_rag.context_encoder(), rows)
    assert found.shape == (2, 3, 16)
    assert found.dtype == torch.float32
    assert np.allclose(found.detach().numpy(), index.vectors_at(rows), atol=1e-5)


def test_no_passage_is_a_vector_of_zeros(index):
    found = fresh_vectors(index, tiny_rag.context_encoder(), np.array([[-1, 4], [-1, -1]]))
    assert (found[0, 0] == 0).all()
    assert (found[1] == 0).all()
    assert (found[0, 1] != 0).any()
    nothing = fresh_vectors(index, tiny_rag.context_encoder(), np.array([[-1]]))
    assert nothing.tolist() == [[[0.0] * 16]]


def test_without_any_passage_every_parameter_has_a_gradient_of_zeros(index):
    """Else a process whose questions find nothing would keep the others waiting."""
    encoder = tiny_rag.context_encoder()
    fresh_vectors(index, encoder, np.array([[-1, -1]])).sum().backward()
    assert all((p.grad == 0).all() for p in encoder.model.parameters())


def test_a_passage_that_stands_in_several_places_is_encoded_once_and_hears_of_each(index):
    encoder = tiny_rag.context_encoder()
    rows, weights = np.array([[5, 2], [2, 5]]), torch.randn(2, 2, 16)
    seen = []
    encoder.model.register_forward_pre_hook(
        lambda module, args, given: seen.append(len(given["input_ids"])), with_kwargs=True
    )
    (fresh_vectors(index, encoder, rows) * weights).sum().backward()
    assert sum(seen) == 2
    once = {n: p.grad.clone() for n, p in encoder.model.named_parameters() if p.grad is not None}
    encoder.model.zero_grad()
    for row, column in np.ndindex(2, 2):  # one by one
        passage = index.passages_at(rows[row, column : column + 1])[0]
        vector = encode_with_gradient(encoder, [passage["text"]], [passage["title"]])[0]
        (vector * weights[row, column]).sum().backward()
    for name, parameter in encoder.model.named_parameters():
        if name in once:
            assert torch.allclose(parameter.grad, once[name], atol=1e-5), name
    assert any(gradient.any() for gradient in once.values())


def test_a_pooled_encoder_with_a_prefix_gives_the_vectors_of_its_index(tmp_path):
    folder = tiny_encoders.save_sentence_folder(tmp_path / "encoder")
    encoder = load_context_encoder(folder, prefix="the house")
    built = build_index(tiny_rag.passages(), encoder, tmp_path / "index")
    rows = np.arange(20)
    found = fresh_vectors(built, encoder, rows).detach().numpy()
    assert np.allclose(found, built.vectors_at(rows), atol=1e-5)


def test_the_mode_of_the_network_is_left_to_the_caller(index):
    encoder = tiny_rag.context_encoder()
    encoder.model.train()
    first, second = (fresh_vectors(index, encoder, np.arange(3)) for _ in range(2))
    assert not torch.equal(first, second)  # dropout
    assert encoder.model.training


def test_the_overlap_is_that_of_two_searches(index):
    draw = np.random.default_rng(0)
    asked = draw.normal(size=(6, 16)).astype(np.float32)
    same = tiny_rag.context_encoder()
    same.model.train()
    assert overlap_at_k(index, same, asked, 5) == 1.0
    assert same.model.training
    other = tiny_rag.context_encoder(seed=7)
    passages = tiny_rag.passages()
    scores = asked @ other.encode(passages["text"][:], passages["title"][:]).T  # (6, 20)
    expected = 0.0
    for row in range(6):  # 4 · 5 is all passages
        found = set(index.search(asked[row : row + 1], 5)[1][0].tolist())
        expected += len(found & set(np.argsort(-scores[row])[:5].tolist())) / 5 / 6
    assert 0 < expected < 1
    assert overlap_at_k(index, other, asked, 5) == pytest.approx(expected)
    assert overlap_at_k(index, other, asked, 20) == 1.0


class Words:
    """A searcher that finds the first rows, one of them missing, and knows a prior."""

    def __init__(self, index, prior):
        self.index, self.prior = index, prior

    def search(self, vectors, questions, k):
        rows = np.tile(np.arange(k), (len(vectors), 1))
        rows[:, 1] = -1
        return np.zeros(rows.shape, np.float32), rows

    def prior_scores(self, questions, rows):
        return np.where(rows == self.prior, 1000.0, 0.0).astype(np.float32)


@pytest.mark.parametrize("top", [8, 20, 50])
def test_of_what_the_index_finds_the_present_encoder_chooses(index, top):
    asked = np.random.default_rng(1).normal(size=(6, 16)).astype(np.float32)
    other, passages = tiny_rag.context_encoder(seed=7), tiny_rag.passages()
    other.model.train()
    searcher = FreshSearcher(Searcher(index), other, top)
    scores, rows = searcher.search(asked, None, 5)
    assert other.model.training
    assert searcher.index is index
    products = asked @ other.encode(passages["text"][:], passages["title"][:]).T  # (6, 20)
    _, found = index.search(asked, min(top, 20))
    changed = 0
    for row in range(6):
        best = sorted(found[row].tolist(), key=lambda place: -products[row, place])[:5]
        assert rows[row].tolist() == best
        assert np.allclose(scores[row], products[row, best], atol=1e-4)
        changed += best != found[row, :5].tolist()
    assert changed


def test_what_words_add_counts_and_a_missing_passage_comes_last(index):
    asked = np.random.default_rng(2).normal(size=(3, 16)).astype(np.float32)
    searcher = FreshSearcher(Words(index, prior=6), tiny_rag.context_encoder(seed=7), 8)
    scores, rows = searcher.search(asked, ["a", "b", "c"], 8)
    assert rows[:, 0].tolist() == [6, 6, 6]
    assert rows[:, -1].tolist() == [-1, -1, -1]
    assert np.isneginf(scores[:, -1]).all()
    assert np.isfinite(scores[:, :-1]).all()
    assert (searcher.search(asked, None, 8)[1][:, 0] != 6).any()  # without texts, without words
