"""Decoding with a decoder-only generator: one prompt, or an ensemble whose predictions are mixed.

Source:
    Shi et al. 2023, arXiv:2301.12652, section 3.2: p(y_t|x,y_<t) = Σ_z p(z|x) p(y_t|x,z,y_<t).
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from rag_finetune.losses.likelihood import doc_log_probs
from rag_finetune.rag.causal_model import IGNORED, CausalRag
from rag_finetune.rag.decoded import Decoded
from rag_finetune.rag.scoring import Contexts

# What changes scores where answers are sampled, in Transformers' order, each with the value that
# changes nothing.
WARPERS: dict[str, tuple[Any, float | None]] = {
    "temperature": (TemperatureLogitsWarper, 1.0),
    "top_h": (TopHLogitsWarper, None),
    "top_k": (TopKLogitsWarper, 0),
    "top_p": (TopPLogitsWarper, 1.0),
    "min_p": (MinPLogitsWarper, None),
    "typical_p": (TypicalLogitsWarper, 1.0),
    "epsilon_cutoff": (EpsilonLogitsWarper, 0.0),
    "eta_cutoff": (EtaLogitsWarper, 0.0),
}


class Mixture(LogitsProcessor):
    """Gives all prompts of a question the same scores: log Σ_z p(z|x) p(y_t|x,z,y_<t).

    All then go on with the same token, so that the prompts of a question stay one answer. Other
    settings, such as a least length, have changed each prompt's scores before they are mixed.
    """

    def __init__(self, doc_scores: Tensor) -> None:
        """Take the inner products of questions and passages, shape (B, K)."""
        self.prior = doc_log_probs(doc_scores)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        """Scores of the next token, shape (B·K·beams, V), mixed over K."""
        batch_size, n_docs = self.prior.shape
        each = scores.float().log_softmax(-1).view(batch_size, n_docs, -1, scores.shape[-1])
        mixed = (each + self.prior[:, :, None, None]).logsumexp(1, keepdim=True)
        return mixed.expand_as(each).reshape(scores.shape)


class Draw(LogitsProcessor):
    """Draws the next token, the same for all prompts of a question, for a search that is greedy.

    Source:
        The Gumbel-max trick; Maddison et al. 2014, arXiv:1411.0030.
    """

    def __init__(self, prompts: int) -> None:
        """Take the number of prompts a question."""
        self.prompts = prompts

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        """Scores, shape (B·P, V), with noise that makes the largest of them a draw."""
        first = scores[:: self.prompts].float()
        noise = -torch.empty_like(first).exponential_().log()
        return scores + noise.repeat_interleave(self.prompts, 0)


@torch.no_grad()
def decode_causal(
    model: CausalRag, contexts: Contexts, num_return_sequences: int, generation: dict[str, Any]
) -> Decoded:
    """Answer a batch of questions.

    Args:
        model: the model.
        contexts: prompts of B questions.
        num_return_sequences: answers a question.
        generation: what `generate` takes; see `decode`.

    Returns:
        The answers with their scores and evidence; see `Decoded`.

    Raises:
        ValueError: beams are to be sampled.
    """
    settings = settings_of(model, generation)
    draws = bool(settings.do_sample) and (settings.num_beams or 1) == 1
    if settings.do_sample and not draws:
        raise ValueError("do_sample goes with num_beams 1 for a decoder-only generator.")
    copies = num_return_sequences if draws else 1
    each = num_return_sequences // copies
    asked = contexts.repeated(copies)
    prompts = len(contexts.input_ids) // len(contexts.doc_scores)
    processors = LogitsProcessorList()
    if prompts > 1:
        processors.append(Mixture(asked.doc_scores))
    if draws:
        processors += [*_warpers(settings), Draw(prompts)]
        settings.update(do_sample=False, **dict.fromkeys(WARPERS))
    settings.num_return_sequences = each
    found = model.generator.generate(
        asked.input_ids,
        attention_mask=asked.attention_mask,
        generation_config=settings,
        logits_processor=processors,
    )[:, asked.input_ids.shape[1] :]
    found = found.view(len(asked.doc_scores), prompts, each, -1)[:, 0].flatten(0, 1)
    labels = _until_end(found, settings.eos_token_id)
    answered = contexts.repeated(num_return_sequences)
    log_probs = model.token_log_probs(answered, labels)  # (A, P, T)
    scores, posteriors = _scores(log_probs, answered.doc_scores, labels != IGNORED)
    rows = torch.arange(len(contexts.doc_scores), device=found.device)
    rows = rows.repeat_interleave(num_return_sequences)
    if draws:  # in no order
        best = scores.argsort(descending=True, stable=True)
        order = best[rows[best].argsort(stable=True)]
        labels, scores, posteriors = labels[order], scores[order], posteriors[order]
    sequences = labels.masked_fill(labels == IGNORED, settings.pad_token_id)
    return Decoded(sequences, scores, rows, posteriors)


def settings_of(model: CausalRag, generation: dict[str, Any]) -> GenerationConfig:
    """The generation settings in force: the model's own, and what replaces them.

    Lengths are of the answer alone. Without any, it is as long as the checkpoint says.
    """
    given = {name: value for name, value in generation.items() if name != "generation_config"}
    settings = copy.deepcopy(generation.get("generation_config", model.generation_config))
    settings.update(**given)
    if settings.max_new_tokens is None:
        settings.max_new_tokens = model.max_target_length
    settings.max_length = None
    settings.use_cache = True
    if settings.eos_token_id is None:
        settings.eos_token_id = model.config.eos_token_id
    settings.pad_token_id = model.config.pad_token_id
    return settings


def _warpers(settings: GenerationConfig) -> list[LogitsProcessor]:
    """What sampling does to scores, as `generate` would, for after they are mixed."""
    asked = {name: getattr(settings, name) for name in WARPERS}
    kinds = WARPERS.items()
    return [kind(asked[name]) for name, (kind, idle) in kinds if asked[name] not in (None, idle)]


def _until_end(found: Tensor, end: int | list[int] | None) -> Tensor:
    """Token ids up to the first that ends a sequence, itself included; −100 behind it."""
    is_end = torch.isin(found, torch.tensor(end, device=found.device))
    is_after = is_end.cumsum(-1) > is_end.long()
    return found.masked_fill(is_after, IGNORED)


def _scores(log_probs: Tensor, doc_scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Log p(y|x) in nats, (A,), and how much of each answer every passage explains, (A, K).

    Args:
        log_probs: log p(y_t|x,z,y_<t), shape (A, P, T).
        doc_scores: shape (A, K).
        mask: True where a token counts, shape (A, T).
    """
    prior = doc_log_probs(doc_scores)
    if log_probs.shape[1] == 1:
        return log_probs[:, 0].sum(-1), prior.exp()
    joint = prior.unsqueeze(-1) + log_probs  # (A, K, T)
    scores = joint.logsumexp(1).masked_fill(~mask, 0.0).sum(-1)
    posteriors = joint.softmax(1).masked_fill(~mask.unsqueeze(1), 0.0).sum(-1)  # (A, K)
    return scores, posteriors / mask.sum(-1, keepdim=True).clamp(min=1)
