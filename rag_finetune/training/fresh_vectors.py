"""Vectors of passages from the context encoder as it is now, with gradient."""

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
    with torch.no_grad(), evaluation_mode(encoder.model):
        vectors = fresh_vectors(index, encoder, rows).cpu().numpy()  # (B, depth, dim)
    scores = np.where(rows < 0, -np.inf, np.einsum("bd,bkd->bk", question_vectors, vectors))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # places in the list that was found
    return float((best < k).mean())


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
