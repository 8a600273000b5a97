"""Vectors of passages from the context encoder as it is now, with gradient."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_finetune.encoders.encode import evaluation_mode
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.store import PassageIndex
from rag_finetune.training.token_rows import TokenRows

DEPTH = 4  # times as many passages are looked at as count


def fresh_vectors(index: PassageIndex, encoder: TextEncoder, rows: np.ndarray) -> Tensor:
    """What a context encoder makes of passages of an index, each encoded once.

    Args:
        index: the opened index, whose own vectors are not read.
        encoder: the context encoder, in training or in evaluation mode.
        rows: rows of the index, any shape; −1 for no passage.

    Returns:
        Vectors, shape (*rows.shape, dim) float32, zeros for −1. Gradients reach the encoder, from
        each place where a passage stands; without any passage they are zeros.

    Source:
        Guu et al. 2020, arXiv:2002.08909, whose search goes by vectors of an earlier encoder and
        whose p(z|x) by those of the present one.
    """
    flat = rows.reshape(-1)
    unique, inverse = np.unique(flat[flat >= 0], return_inverse=True)
    device = encoder.model.device
    vectors = torch.zeros(flat.size, encoder.dimension, device=device)
    if unique.size:
        passages = index.passages_at(unique)
        texts, titles = ([passage[key] for passage in passages] for key in ("text", "title"))
        places = torch.from_numpy(np.flatnonzero(flat >= 0)).to(device)
        found = encode_with_gradient(encoder, texts, titles).float()  # (unique, dim)
        vectors = vectors.index_copy(0, places, found[torch.from_numpy(inverse).to(device)])
    elif torch.is_grad_enabled():
        # Of several processes each has to give a gradient for all parameters, or the others wait.
        for parameter in encoder.model.parameters():
            vectors = vectors + 0.0 * parameter.sum()
    return vectors.view(*rows.shape, encoder.dimension)


def overlap_at_k(
    index: PassageIndex, encoder: TextEncoder, question_vectors: np.ndarray, k: int
) -> float:
    """How far the search still finds what a search by the present encoder would, from 0 to 1.

    Of each question the first 4·k passages are encoded again, in evaluation mode: the share of the
    best k by these vectors that is among the first k found.

    Args:
        index: the opened index.
        encoder: the context encoder; left as it was.
        question_vectors: shape (B, dim).
        k: passages that count.
    """
    _, rows = index.search(question_vectors, min(DEPTH * k, len(index)))
    scores = fresh_scores(index, encoder, question_vectors, rows)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # places in the list that was found
    return float((best < k).mean())


class FreshSearcher:
    """A searcher of whose first passages the context encoder, as it is now, chooses those to read.

    What the searcher is otherwise, such as `index` and `retrieval`, this is too.

    Source:
        Izacard et al. 2022, arXiv:2208.03299, section 2.4, "re-ranking".
    """

    def __init__(self, searcher: Any, encoder: TextEncoder, top: int) -> None:
        """Join them.

        Args:
            searcher: finds the passages.
            encoder: the context encoder that is trained; left as it was.
            top: so many of each question are looked at.
        """
        self._searcher, self._encoder, self._top = searcher, encoder, top

    def __getattr__(self, name: str) -> Any:
        """Anything else is the searcher's."""
        return getattr(self._searcher, name)

    def search(
        self, vectors: np.ndarray, questions: Sequence[str] | None, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k passages of each question whose part in p(z|x) is the greatest.

        Args:
            vectors: of the questions, shape (batch, dim).
            questions: their texts; None where only vectors are searched.
            k: passages a question.

        Returns:
            Their doc_scores, shape (batch, k) float32, and rows, shape (batch, k) int64; row −1
            with score −inf where fewer were found.
        """
        depth = min(max(k, self._top), len(self.index))
        _, rows = self._searcher.search(vectors, questions, depth)
        scores = fresh_scores(self.index, self._encoder, vectors, rows)
        prior = None if questions is None else self.prior_scores(questions, rows)
        scores = scores if prior is None else scores + prior
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)


def fresh_scores(
    index: PassageIndex, encoder: TextEncoder, question_vectors: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Inner products of questions with passages encoded anew, in evaluation mode.

    Args:
        index: the opened index.
        encoder: the context encoder; left as it was.
        question_vectors: shape (B, dim).
        rows: of the passages of each, shape (B, n); −1 for none.

    Returns:
        Shape (B, n) float32; −inf for none.
    """
    with torch.no_grad(), evaluation_mode(encoder.model):
        vectors = fresh_vectors(index, encoder, rows).cpu().numpy()  # (B, n, dim)
    products = np.einsum("bd,bkd->bk", question_vectors, vectors)
    return np.where(rows < 0, -np.inf, products).astype(np.float32)


def encode_with_gradient(encoder: TextEncoder, texts: list[str], titles: list[str]) -> Tensor:
    """Vectors of texts in their order, shape (n, dim), those of like length encoded together.

    Args:
        encoder: the network with its tokenizer.
        texts: what to encode, at least one.
        titles: the title of each text; an empty one is left out.
    """
    pad_token_id = encoder.tokenizer.pad_token_id
    assert isinstance(pad_token_id, int)
    batch = TokenRows(encoder.tokenize(texts, titles), pad_token_id).batch(range(len(texts)))
    vectors = []
    for part in batch["parts"]:
        given = {name: tensor.to(encoder.model.device) for name, tensor in part.items()}
        vectors.append(encoder.model(**given, return_dict=True)[0])
    return torch.cat(vectors)[batch["order"].to(encoder.model.device)]
