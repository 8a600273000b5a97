"""Questions in, answers with their evidence out: one search a question, then decoding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import tqdm

from rag_finetune.encoders.encode import evaluation_mode
from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.rag.checkpoint import Rag
from rag_finetune.rag.decoding import Decoded, decode
from rag_finetune.rag.lengths import check_question_lengths, question_limit
from rag_finetune.rag.prompt_retriever import PromptRetriever
from rag_finetune.rag.scoring import Contexts, score_passages
from rag_finetune.retrieval.context_parts import doc_lists
from rag_finetune.retrieval.retriever import RagIndexRetriever
from rag_finetune.retrieval.search import search_texts


@dataclass
class Retrieved:
    """What one search brought for B questions.

    Attributes:
        contexts: what the generator reads, of the first n_docs passages.
        passages: id, document_id, title, text and score of every passage found, best first.
    """

    contexts: Contexts
    passages: list[list[dict[str, Any]]]


@dataclass
class Answer:
    """An answer and the passages it rests on.

    Attributes:
        text: the answer.
        score: log p(answer|question) in nats.
        passages: id, title, text, score (what p(z|x) is the softmax of) and posterior
            p(passage|question, answer) of each passage that the generator read, in their order.
    """

    text: str
    score: float
    passages: list[dict[str, Any]]


@torch.no_grad()
def retrieve(
    model: Any,
    retriever: RagIndexRetriever,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    n_docs: int,
    depth: int | None = None,
    question_vectors: Tensor | None = None,
    questions: Sequence[str] | None = None,
) -> Retrieved:
    """Search once for every question, and write the generator's input.

    Args:
        model: a RAG model.
        retriever: its retriever.
        input_ids: token ids of the questions, shape (B, length).
        attention_mask: their mask, shape (B, length).
        n_docs: passages that the generator reads.
        depth: passages to find, at least n_docs, at most all; None for n_docs.
        question_vectors: what the question encoder made of them, shape (B, dim); None to ask it,
            which an index without vectors does not need.
        questions: their texts, where they are searched by words, or for prompts; None to read them
            off the tokens.

    Raises:
        ValueError: the question encoder gave a vector that is not finite.
    """
    hidden, searcher, asked = question_vectors, retriever.searcher, questions
    if questions is None and searcher.by_words:
        questions = search_texts(retriever.question_encoder_tokenizer, input_ids)
    if hidden is None and not retriever.index.manifest.has_vectors:
        hidden = torch.zeros(len(input_ids), model.config.retrieval_vector_size)
    elif hidden is None:
        hidden = model.question_encoder(input_ids, attention_mask=attention_mask)[0]
    if not hidden.isfinite().all():
        raise ValueError(
            "The question encoder gave a vector that is not finite. Were its weights damaged by a "
            "training run that diverged? Lower --learning_rate, or train in float32."
        )
    depth = min(max(depth or n_docs, n_docs), len(retriever.index))
    vectors, doc_ids, passages = retriever.retrieve_passages(
        hidden.float().cpu().numpy(), depth, questions
    )
    prior = None if questions is None else searcher.prior_scores(questions, doc_ids)
    scores = score_passages(hidden, torch.from_numpy(vectors), torch.from_numpy(doc_ids), prior)
    for found, row in zip(passages, scores.tolist(), strict=True):
        for passage, score in zip(found, row, strict=True):
            passage["score"] = score
    read = [found[:n_docs] for found in passages]
    scores, doc_ids = scores[:, :n_docs], doc_ids[:, :n_docs]
    contexts = write_contexts(model, retriever, input_ids, read, scores, doc_ids, asked)
    return Retrieved(contexts, passages)


def write_contexts(
    model: Any,
    retriever: RagIndexRetriever,
    input_ids: Tensor,
    passages: Sequence[list[dict[str, Any]]],
    doc_scores: Tensor,
    doc_ids: np.ndarray | None = None,
    questions: Sequence[str] | None = None,
) -> Contexts:
    """What the generator reads of passages, wherever they were found.

    Args:
        model: a RAG model.
        retriever: its retriever, which is not asked to search.
        input_ids: token ids of the questions, shape (B, length).
        passages: title and text of K passages for each.
        doc_scores: what p(z|x) is the softmax of, shape (B, K).
        doc_ids: rows of the passages in the retriever's index, shape (B, K), where known.
        questions: their texts, for the prompts of a decoder-only generator; None, and for others,
            as the question encoder's tokens say them.
    """
    as_written = isinstance(retriever, PromptRetriever) and questions is not None
    context_input_ids, context_attention_mask = retriever.postprocess_docs(
        [doc_lists(found) for found in passages],
        list(questions or ()) if as_written else retriever.question_texts(input_ids),
        getattr(model.config.generator, "prefix", None),
        doc_scores.shape[1],
        return_tensors="pt",
        doc_ids=doc_ids,
    )
    device = input_ids.device
    return Contexts(
        context_input_ids.to(device), context_attention_mask.to(device), doc_scores.to(device)
    )


def question_encoder_of(rag: Rag, max_question_length: int = 128) -> TextEncoder:
    """The question encoder of a RAG model, to encode questions without a generator."""
    return TextEncoder(
        rag.model.question_encoder,
        rag.tokenizer.question_encoder,
        question_limit(rag, max_question_length),
    )


def tokenize_questions(rag: Rag, questions: list[str], max_question_length: int) -> Any:
    """input_ids and attention_mask of questions, shape (B, length), on the model's device."""
    return rag.tokenizer.question_encoder(
        questions,
        truncation=True,
        max_length=question_limit(rag, max_question_length),
        padding=True,
        return_tensors="pt",
    ).to(rag.model.device)


def answers_with_evidence(rag: Rag, retrieved: Retrieved, decoded: Decoded) -> list[list[Answer]]:
    """Join what was decoded with what was retrieved, one list of answers a question."""
    texts = rag.tokenizer.generator.batch_decode(decoded.sequences, skip_special_tokens=True)
    answers: list[list[Answer]] = [[] for _ in retrieved.passages]
    for text, score, row, posterior in zip(
        texts,
        decoded.scores.tolist(),
        decoded.question_rows.tolist(),
        decoded.posteriors.tolist(),
        strict=True,
    ):
        evidence = [
            {**{key: passage[key] for key in ("id", "title", "text", "score")}, "posterior": share}
            for passage, share in zip(retrieved.passages[row], posterior, strict=False)
            if passage["id"]
        ]
        answers[row].append(Answer(text.strip(), score, evidence))
    return answers


def generate_answers(
    rag: Rag, questions: Sequence[str], *, progress: bool = False, **options: Any
) -> list[list[Answer]]:
    """Answer questions, with evidence.

    Args:
        rag: what `load_rag` gave.
        questions: what to answer.
        progress: show a bar.
        **options: what `iter_answers` takes: n_docs, num_beams, max_new_tokens, …

    Returns:
        The answers to each question, best first.

    Raises:
        ValueError: the model was loaded without a retriever, or an argument is out of range.
    """
    answers = iter_answers(rag, questions, **options)
    bar = tqdm(
        answers, total=len(questions), desc="Answering", unit=" questions", disable=not progress
    )
    return list(bar)


def iter_answers(
    rag: Rag,
    questions: Sequence[str],
    *,
    n_docs: int | None = None,
    batch_size: int = 8,
    max_question_length: int = 128,
    thorough: bool = True,
    num_return_sequences: int = 1,
    **generation: Any,
) -> Iterator[list[Answer]]:
    """Answer questions one after the other, with evidence; all are checked before the first.

    Args:
        rag: what `load_rag` gave.
        questions: what to answer.
        n_docs: passages a question; None for the model's own.
        batch_size: questions at a time.
        max_question_length: tokens of a question; the rest is cut.
        thorough: RAG-Sequence only: score each candidate under every passage.
        num_return_sequences: answers a question.
        **generation: anything `generate` takes: max_new_tokens, num_beams, do_sample, …

    Yields:
        The answers to each question, best first.

    Raises:
        ValueError: the model was loaded without a retriever, or an argument is out of range.
    """
    if rag.retriever is None:
        raise ValueError("Answering needs passages: load the model with its index.")
    if isinstance(questions, str):
        raise ValueError(f"questions must be a list of strings. Write [{questions[:60]!r}].")
    require_batch_size(batch_size)
    n_docs = rag.retriever.clamp(n_docs)
    check_question_lengths(rag, questions, max_question_length)
    rag.retriever.expect_contexts(len(questions) * n_docs)
    options = {**generation, "thorough": thorough, "num_return_sequences": num_return_sequences}
    with evaluation_mode(rag.model):
        for start in range(0, len(questions), batch_size):
            texts = list(questions[start : start + batch_size])
            batch = tokenize_questions(rag, texts, max_question_length)
            ids, mask = batch["input_ids"], batch["attention_mask"]
            retrieved = retrieve(
                rag.model, rag.retriever, ids, mask, n_docs=n_docs, questions=texts
            )
            decoded = decode(rag.model, retrieved.contexts, **options)
            yield from answers_with_evidence(rag, retrieved, decoded)


def require_batch_size(batch_size: int) -> None:
    """Raise where batches would hold nothing."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}.")
