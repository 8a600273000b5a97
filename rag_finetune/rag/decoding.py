"""Decoding with the RAG heads, a batch of questions at a time, from retrieved contexts.

Source:
    Lewis et al. 2020, arXiv:2005.11401, section 2.5.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import RagTokenForGeneration

from rag_finetune.losses.likelihood import doc_log_probs
from rag_finetune.rag.causal_decoding import decode_causal
from rag_finetune.rag.causal_model import CausalRag
from rag_finetune.rag.decoded import Decoded
from rag_finetune.rag.scoring import (
    Contexts,
    read_contexts,
    sequence_log_probs,
    token_log_probs,
)
from rag_finetune.rag.sharing import OWN_CACHE, generate_rag_token


@torch.no_grad()
def decode(
    model: Any,
    contexts: Contexts,
    *,
    thorough: bool = True,
    num_return_sequences: int = 1,
    **generation: Any,
) -> Decoded:
    """Answer a batch of questions.

    Args:
        model: a RagSequenceForGeneration, RagTokenForGeneration or CausalRag.
        contexts: of B questions.
        thorough: RAG-Sequence only: score each candidate under every passage; False ("fast")
            counts only the passages whose search found it.
        num_return_sequences: answers a question. RAG-Sequence gives fewer where the passages'
            searches found fewer different ones.
        **generation: anything `generate` takes: max_new_tokens, num_beams, do_sample, …; None for
            the model's own setting.

    Returns:
        The answers with their scores and evidence.

    Raises:
        ValueError: num_return_sequences is more than the search can give.
    """
    generation = {name: value for name, value in generation.items() if value is not None}
    if "max_length" in generation:  # else a max_new_tokens of the model's settings would win
        start = 0 if isinstance(model, CausalRag) else 1  # the token that a decoder begins with
        generation.setdefault("max_new_tokens", generation.pop("max_length") - start)
    settings = _settings(model, generation)
    per_search = settings["num_beams"] if not settings["do_sample"] else num_return_sequences
    if isinstance(model, CausalRag):
        _require_enough(num_return_sequences, per_search, "num_beams", settings)
        return decode_causal(model, contexts, num_return_sequences, generation)
    if isinstance(model, RagTokenForGeneration):
        _require_enough(num_return_sequences, per_search, "num_beams", settings)
        return _decode_rag_token(model, contexts, num_return_sequences, settings, generation)
    n_docs = contexts.doc_scores.shape[1]
    _require_enough(num_return_sequences, per_search * n_docs, "num_beams × n_docs", settings)
    candidates = max(settings["num_beams"], per_search)
    return _decode_rag_sequence(
        model, contexts, thorough, num_return_sequences, candidates, generation
    )


def _settings(model: Any, generation: dict[str, Any]) -> dict[str, Any]:
    """num_beams and do_sample that are in force."""
    config = _generation_config(model, generation)
    return {
        "num_beams": generation.get("num_beams") or config.num_beams or 1,
        "do_sample": bool(generation.get("do_sample", config.do_sample)),
    }


def _generation_config(model: Any, generation: dict[str, Any]) -> Any:
    """The settings that single arguments replace: the caller's, or the model's own."""
    return generation.get("generation_config", model.rag.generator.generation_config)


def _require_enough(wanted: int, found: int, what: str, settings: dict[str, Any]) -> None:
    """Raise where more answers are asked for than a search can give."""
    beams = settings["num_beams"]
    if settings["do_sample"] and beams > 1 and wanted > beams:
        raise ValueError(
            f"num_return_sequences must be at most num_beams ({beams}) where beams are sampled, "
            f"found {wanted}. Set num_beams to 1, or raise it."
        )
    if not 1 <= wanted <= found and not (settings["do_sample"] and wanted >= 1):
        raise ValueError(
            f"num_return_sequences must be from 1 to {found} ({what}), found {wanted}. "
            "Raise num_beams, or sample with do_sample."
        )


def _decode_rag_sequence(
    model: Any,
    contexts: Contexts,
    thorough: bool,
    num_return_sequences: int,
    per_passage: int,
    generation: dict[str, Any],
) -> Decoded:
    """Candidates from every passage, scored under every passage, the best kept."""
    generator = model.rag.generator
    batch_size, n_docs = contexts.doc_scores.shape
    read = read_contexts(generator, contexts)
    rows = torch.arange(batch_size * n_docs, device=contexts.input_ids.device)
    with read.read_by(rows.repeat_interleave(per_passage)) as cache:
        found = generator.generate(
            contexts.input_ids,
            attention_mask=contexts.attention_mask,
            encoder_outputs=read.encoder_outputs(batch_size * n_docs),
            past_key_values=cache,
            **{
                **generation,
                **_lengths(model, generation),
                **OWN_CACHE,
                "num_return_sequences": per_passage,
            },
        )
    found = _pad_after_end(model, found, generation).view(batch_size, n_docs, per_passage, -1)
    rows, sequences, found_by = _distinct(found, torch.isfinite(contexts.doc_scores))
    if thorough:
        found_by = torch.isfinite(contexts.doc_scores)[rows]
    priors = doc_log_probs(contexts.doc_scores)[rows]  # (candidates, K)
    only_best = priors if num_return_sequences == 1 else None
    joint = priors + sequence_log_probs(model, read, rows, sequences, found_by, only_best)
    scores = joint.logsumexp(-1)
    best = [
        index
        for row in range(batch_size)
        for index in _best(scores, rows == row, num_return_sequences)
    ]
    keep = torch.tensor(best, device=rows.device)
    return Decoded(sequences[keep], scores[keep], rows[keep], joint[keep].softmax(-1))


def _best(scores: Tensor, of_question: Tensor, count: int | None = None) -> list[int]:
    """Indices of the best candidates of one question, or of all, best first."""
    indices = of_question.nonzero().squeeze(-1)
    order = scores[indices].argsort(descending=True, stable=True)
    chosen: list[int] = indices[order[:count]].tolist()
    return chosen


def _distinct(found: Tensor, is_passage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Different candidates of each question.

    Args:
        found: token ids, shape (B, K, candidates of a passage, T).
        is_passage: False where nothing was retrieved, shape (B, K).

    Returns:
        The question of each candidate (C,), its token ids (C, T), and which passages' searches
        found it (C, K).
    """
    batch_size, n_docs = is_passage.shape
    table: dict[tuple[int, tuple[int, ...]], set[int]] = {}
    for row in range(batch_size):
        for passage in range(n_docs):
            if is_passage[row, passage]:
                for ids in found[row, passage].tolist():
                    table.setdefault((row, tuple(ids)), set()).add(passage)
    found_by = torch.zeros(len(table), n_docs, dtype=torch.bool, device=found.device)
    for index, passages in enumerate(table.values()):
        found_by[index, list(passages)] = True
    rows = torch.tensor([row for row, _ in table], device=found.device)
    return rows, torch.tensor([ids for _, ids in table], device=found.device), found_by


def _decode_rag_token(
    model: Any,
    contexts: Contexts,
    num_return_sequences: int,
    settings: dict[str, Any],
    generation: dict[str, Any],
) -> Decoded:
    """Decode by the next-token distribution marginalised over passages."""
    batch_size, n_docs = contexts.doc_scores.shape
    is_drawn = settings["do_sample"] and settings["num_beams"] == 1
    # Transformers 5.23 draws one sample a question, whatever num_return_sequences says.
    copies = num_return_sequences if is_drawn else 1
    read = read_contexts(model.rag.generator, contexts)
    passages = torch.arange(n_docs, device=contexts.input_ids.device)
    searched = contexts.repeated(copies)
    sequences = generate_rag_token(
        model,
        read,
        _context_rows(batch_size, copies * settings["num_beams"], passages),
        context_input_ids=searched.input_ids,
        context_attention_mask=searched.attention_mask,
        doc_scores=searched.doc_scores,
        n_docs=n_docs,
        **{
            **generation,
            **_lengths(model, generation),
            "num_return_sequences": num_return_sequences // copies,
        },
    )
    sequences = _pad_after_end(model, sequences, generation)
    rows = torch.arange(batch_size, device=sequences.device)
    rows = rows.repeat_interleave(num_return_sequences)
    per_token, mask = token_log_probs(
        model,
        read,
        _context_rows(batch_size, num_return_sequences, passages),
        sequences.repeat_interleave(n_docs, 0),
    )
    prior = doc_log_probs(contexts.doc_scores)[rows].unsqueeze(-1)  # (A, K, 1)
    joint = prior + per_token.view(len(rows), n_docs, -1)  # (A, K, T)
    mask = mask.view(len(rows), n_docs, -1)[:, 0]  # (A, T)
    scores = joint.logsumexp(1).masked_fill(~mask, 0.0).sum(-1)
    posteriors = joint.softmax(1).masked_fill(~mask.unsqueeze(1), 0.0).sum(-1)  # (A, K)
    posteriors = posteriors / mask.sum(-1, keepdim=True).clamp(min=1)
    order = torch.arange(len(rows), device=rows.device)
    if is_drawn:  # in no order
        order = torch.cat([order.new_tensor(_best(scores, rows == row)) for row in rows.unique()])
    return Decoded(sequences[order], scores[order], rows, posteriors[order])


def _context_rows(batch_size: int, copies: int, passages: Tensor) -> Tensor:
    """The context of every passage of so many copies of each question, shape (B·copies·K,)."""
    questions = torch.arange(batch_size, device=passages.device).repeat_interleave(copies)
    return (questions.unsqueeze(1) * len(passages) + passages).view(-1)


def _pad_after_end(model: Any, sequences: Tensor, generation: dict[str, Any]) -> Tensor:
    """Sequences with padding behind the token that ends them, shape (A, length).

    Where the padding id is 0, as T5's is, beam search of Transformers 5.23 fills up with EOS: each
    would be scored as a token of the answer. Delete when its generation/utils.py no longer holds
    `pad_token_id or eos_token_id` (huggingface/transformers#47286).
    """
    end = generation.get("eos_token_id", _generation_config(model, generation).eos_token_id)
    if end is None:
        end = model.rag.generator.generation_config.eos_token_id
    if end is None:
        return sequences
    # The first token starts the decoder; BART's is the same as its end.
    is_end = torch.isin(sequences[:, 1:], torch.tensor(end, device=sequences.device))
    is_after = is_end.cumsum(-1) > is_end.long()
    padded = sequences[:, 1:].masked_fill(is_after, model.config.generator.pad_token_id)
    return torch.cat([sequences[:, :1], padded], dim=-1)


def _lengths(model: Any, generation: dict[str, Any]) -> dict[str, int | None]:
    """Limits on new tokens as limits on the length.

    Transformers 5.23 ignores the former in RagToken's generate, and elsewhere logs for each batch
    that both are set where the model's settings hold the latter. The decoder starts from one token,
    so a limit on new tokens is one less than a limit on the length.
    """
    limits: dict[str, int | None] = {}
    for new, total in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
        value = generation.get(new)
        if value is None and total not in generation:
            value = getattr(_generation_config(model, generation), new)
        if value is not None:
            limits |= {total: value + 1, new: None}
    return limits
