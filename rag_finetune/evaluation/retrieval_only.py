"""Measure retrieval alone, without a generator."""

import numpy as np
import torch
from datasets import Dataset
from transformers.utils.logging import tqdm

from rag_finetune.data.qa import require_columns
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.evaluation.evaluate import RETRIEVAL_DEPTH, Evaluation, evaluation_of
from rag_finetune.evaluation.measure import Evaluated
from rag_finetune.index.gold import resolve_positives
from rag_finetune.index.store import PassageIndex
from rag_finetune.rag.scoring import mask_missing, score_passages
from rag_finetune.retrieval.reranked import RerankedSearcher
from rag_finetune.retrieval.search import Searcher, clamp_n_docs
from rag_finetune.retrieval.way import Retrieval

SEARCH_BLOCK = 1024  # questions at a time
RERANK_BLOCK = 64  # the same where a cross-encoder reads the passages of each: minutes a thousand


def evaluate_retrieval(
    encoder: TextEncoder | None,
    index: PassageIndex,
    questions: Dataset,
    *,
    n_docs: int = 5,
    progress: bool = False,
    retrieval: Retrieval | None = None,
    searcher: Searcher | RerankedSearcher | None = None,
) -> Evaluation:
    """Measure retrieval alone, without a generator.

    Args:
        encoder: the question encoder; None where passages are found by words alone.
        index: the opened index.
        questions: as for `evaluate_rag`; their answers may be empty lists.
        n_docs: passages that a generator would read; recall is taken at it too, health over it.
        progress: show a bar.
        retrieval: how passages are found; None for the index's own way.
        searcher: finds them in place of `retrieval`, as one with a cross-encoder does.

    Returns:
        Retrieval metrics, and the passages of each question as predictions; their scores are those
        that a model would take for p(z|x).

    Raises:
        ValueError: vectors are to be searched and there is no encoder, or the index cannot be
            searched so.
    """
    require_columns(questions)
    searcher = searcher or Searcher(index, retrieval)
    if encoder is None and searcher.retrieval.by_vectors:
        raise ValueError(
            f"{index.folder}: retrieval by {searcher.retrieval.describe()} needs a question "
            "encoder. Give one, or search by words: bm25 or tfidf."
        )
    has_vectors = encoder is not None and index.manifest.has_vectors
    if encoder is not None:
        index.check_encoder(encoder.dimension, encoder.settings())
    questions = resolve_positives(questions, index)
    n_docs = clamp_n_docs(n_docs, len(index))
    depth = min(max(RETRIEVAL_DEPTH, n_docs), len(index))
    label = "Encoding questions" if progress else ""
    texts = list(questions["question"])
    vectors = encoder.encode(texts, progress=label) if encoder and has_vectors else None
    evaluated: list[Evaluated] = []
    size = RERANK_BLOCK if isinstance(searcher, RerankedSearcher) else SEARCH_BLOCK
    bar = tqdm(total=len(questions), desc="Searching", unit=" questions", disable=not progress)
    for start in range(0, len(questions), size):
        rows = slice(start, start + size)
        block = None if vectors is None else vectors[rows]
        _, doc_ids = searcher.search(block, texts[rows], depth)
        gathered, embeds = index.gather(doc_ids)
        found = iter(gathered)
        if block is not None:
            prior = searcher.prior_scores(texts[rows], doc_ids)
            scores = _scores(block, embeds, doc_ids, prior)
        else:
            words = index.lexical(searcher.retrieval.kind).scores_at(texts[rows], doc_ids)
            weighed = torch.from_numpy(words) * (searcher.prior_weight or 1.0)
            scores = mask_missing(weighed, torch.from_numpy(doc_ids)).numpy()
        for offset, row_scores in enumerate(scores.tolist()):
            passages = [{**next(found), "score": score} for score in row_scores]
            example = questions[start + offset]
            evaluated.append(Evaluated(example, passages, row_scores[:n_docs]))
        bar.update(len(scores))
    bar.close()
    return evaluation_of(evaluated, index, n_docs, by_words=not searcher.retrieval.by_vectors)


def _scores(
    vectors: np.ndarray, embeds: np.ndarray, doc_ids: np.ndarray, prior: np.ndarray | None
) -> np.ndarray:
    """Scores of the passages found, as a model takes them: not the index's estimate."""
    scores: np.ndarray = score_passages(
        torch.from_numpy(vectors), torch.from_numpy(embeds), torch.from_numpy(doc_ids), prior
    ).numpy()
    return scores
