"""Losses that teach the retriever what the generator found useful, or where the gold is.

Logs are natural. B questions, K passages each; s = doc_scores, γ the retriever's temperature, τ the
language model's, l_k = log p_LM(y|x,z_k), summed over the answer's tokens or their mean:

    p_R = softmax_k( s_k / γ ),   p_LM = softmax_k( l_k / τ )

Every function gives the loss of each question. Where no two passages can be compared the
divergences are 0, and `emdr2_losses` is −l of the one passage, without gradient. A doc_score of −∞
means that there is no passage. No gradient reaches the generator.
"""

import torch
from torch import Tensor

from rag_finetune.losses.likelihood import rag_sequence_log_likelihood

DIRECTIONS = ("retriever_lm", "lm_retriever")


def answer_log_likelihoods(token_log_probs: Tensor, mask: Tensor, per_token: bool) -> Tensor:
    """What the generator thinks of the answer, passage by passage.

    Args:
        token_log_probs: log p(y_t|x,z,y_<t) in nats, shape (B, K, T).
        mask: True where a token counts, shape (B, T).
        per_token: the mean over the tokens (minus the log of the perplexity), not their sum.

    Returns:
        l in nats, shape (B, K); without gradient.
    """
    counted = mask.unsqueeze(1)  # (B, 1, T)
    summed = token_log_probs.detach().masked_fill(~counted, 0.0).sum(-1)
    return summed / counted.sum(-1).clamp(min=1) if per_token else summed


def lsr_losses(
    doc_scores: Tensor,
    log_likelihoods: Tensor,
    *,
    retriever_temperature: float = 1.0,
    lm_temperature: float = 1.0,
    direction: str = "retriever_lm",
) -> Tensor:
    """How far the retriever is from preferring what makes the answer likely.

    retriever_lm: KL( p_R ‖ p_LM ) = Σ_k p_R(k) · (log p_R(k) − log p_LM(k))
    lm_retriever: KL( p_LM ‖ p_R ) = Σ_k p_LM(k) · (log p_LM(k) − log p_R(k))

    The former lets the retriever settle on some of the good passages, the latter wants them all.

    Args:
        doc_scores: inner products of question and passage, shape (B, K).
        log_likelihoods: l in nats, shape (B, K); see `answer_log_likelihoods`.
        retriever_temperature: γ, above 0.
        lm_temperature: τ, above 0.
        direction: one of `DIRECTIONS`.

    Returns:
        Nats, at least 0, float32 at least, shape (B,).

    Raises:
        ValueError: the shapes differ, a temperature is not above 0, or there is no such direction.

    Source:
        Shi et al. 2023 (REPLUG), arXiv:2301.12652, section 4: the direction retriever_lm. The
        paper's p_LM is the softmax of the likelihood itself, with τ; here it is that of its log, as
        in Izacard et al. 2022, arXiv:2208.03299.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f'direction must be {" or ".join(DIRECTIONS)}, found "{direction}".')
    return _divergence(
        doc_scores, log_likelihoods, retriever_temperature, lm_temperature, direction
    )


def pdist_losses(
    doc_scores: Tensor,
    log_likelihoods: Tensor,
    *,
    retriever_temperature: float = 1.0,
    lm_temperature: float = 1.0,
) -> Tensor:
    """Perplexity distillation: `lsr_losses` in the direction KL( p_LM ‖ p_R ).

    Args:
        doc_scores: as for `lsr_losses`.
        log_likelihoods: likewise.
        retriever_temperature: likewise.
        lm_temperature: likewise.

    Returns:
        Nats, at least 0, shape (B,).

    Raises:
        ValueError: as for `lsr_losses`.

    Source:
        Izacard et al. 2022 (Atlas), arXiv:2208.03299, section 2.2, PDist.
    """
    return _divergence(
        doc_scores, log_likelihoods, retriever_temperature, lm_temperature, "lm_retriever"
    )


def emdr2_losses(
    doc_scores: Tensor, log_likelihoods: Tensor, *, retriever_temperature: float = 1.0
) -> Tensor:
    """The retriever's half of EMDR²: the marginal likelihood, the generator taken as given.

    loss = − log Σ_k p_R(k) · SG( p(y|x,z_k) ),  SG: no gradient

    Its gradient with regard to s/γ is p_R less the posterior p(z|x,y): the M step of an EM
    algorithm. The generator's own half is RAG's likelihood, or whatever it learns by.

    Args:
        doc_scores: inner products of question and passage, shape (B, K).
        log_likelihoods: log p(y|x,z) in nats, summed over the tokens, shape (B, K).
        retriever_temperature: γ, above 0; the paper takes the square root of the width.

    Returns:
        Nats, shape (B,).

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.

    Source:
        Sachan et al. 2021, arXiv:2106.05346, section 2.3, equation 5.
    """
    _require(doc_scores, log_likelihoods, retriever_temperature, 1.0)
    scores = doc_scores / retriever_temperature
    given = log_likelihoods.detach().masked_fill(doc_scores == -torch.inf, 0.0)
    return -rag_sequence_log_likelihood(given, scores)


def adist_losses(
    doc_scores: Tensor,
    attention: Tensor,
    *,
    retriever_temperature: float = 1.0,
    lm_temperature: float = 1.0,
) -> Tensor:
    """Attention distillation: KL( softmax_k( a_k / τ ) ‖ p_R ).

    Args:
        doc_scores: inner products of question and passage, shape (B, K).
        attention: a, what the decoder attends to in each passage while it reads all of them at
            once: the mean of α_n·‖v_n‖ over heads, layers, the answer's tokens and the tokens n of
            the passage, shape (B, K). `rag_finetune.rag.attention` gives it with the mean 1 over
            the passages, so that τ has the same effect however much is read.
        retriever_temperature: γ, above 0.
        lm_temperature: τ, above 0.

    Returns:
        Nats, at least 0, shape (B,).

    Raises:
        ValueError: the shapes differ, or a temperature is not above 0.

    Source:
        Izacard et al. 2022 (Atlas), arXiv:2208.03299, section 2.2, ADist; there a is not divided by
        its mean, and τ is about 0.01.
    """
    return _divergence(doc_scores, attention, retriever_temperature, lm_temperature, "lm_retriever")


def loop_losses(
    doc_scores: Tensor,
    log_likelihoods: Tensor,
    *,
    retriever_temperature: float = 1.0,
    lm_temperature: float = 1.0,
) -> Tensor:
    """Leave-one-out perplexity distillation: a passage is worth what is lost without it.

    p_LOOP = softmax_k( − l_{-k} / τ ),  loss = KL( p_LOOP ‖ p_R )

    Args:
        doc_scores: inner products of question and passage, shape (B, K).
        log_likelihoods: l of each passage in nats, shape (B, K); l_{-k} is made of them by
            `left_out_log_likelihoods`.
        retriever_temperature: γ, above 0.
        lm_temperature: τ, above 0.

    Returns:
        Nats, at least 0, shape (B,).

    Raises:
        ValueError: the shapes differ, or a temperature is not above 0.

    Source:
        Izacard et al. 2022 (Atlas), arXiv:2208.03299, section 2.2, LOOP.
    """
    _require(doc_scores, log_likelihoods, retriever_temperature, lm_temperature)
    lost = -left_out_log_likelihoods(log_likelihoods, doc_scores > -torch.inf)
    return _divergence(doc_scores, lost, retriever_temperature, lm_temperature, "lm_retriever")


def left_out_log_likelihoods(log_likelihoods: Tensor, live: Tensor) -> Tensor:
    """Log-likelihood of the answer from all passages but one, which count alike.

    l_{-k} = log( mean over j ≠ k of p(y|x,z_j) )

    A RAG generator reads its passages one at a time, so this is exact for a uniform p(z|x), and no
    passage is read again; Atlas reads K − 1 passages at once, K times.

    Args:
        log_likelihoods: l in nats, shape (B, K).
        live: False where there is no passage, shape (B, K).

    Returns:
        Nats, shape (B, K); 0 where no other passage is left.
    """
    n_docs = live.shape[1]
    itself = torch.eye(n_docs, dtype=torch.bool, device=live.device)
    others = live.unsqueeze(1) & ~itself  # (B, left out, read)
    known = log_likelihoods.detach().unsqueeze(1).expand(-1, n_docs, -1)
    count = others.sum(-1)
    total = torch.logsumexp(known.masked_fill(~others, torch.finfo(known.dtype).min), dim=-1)
    return (total - count.clamp(min=1).log()).masked_fill(count == 0, 0.0)


def _divergence(
    doc_scores: Tensor, targets: Tensor, retriever_temperature: float, tau: float, direction: str
) -> Tensor:
    """KL divergence of p_R and softmax(targets / τ), over the passages there are, shape (B,)."""
    _require(doc_scores, targets, retriever_temperature, tau)
    live = doc_scores > -torch.inf
    live = live & (live.sum(1, keepdim=True) > 1)
    wide = torch.promote_types(doc_scores.dtype, torch.float32)
    out = torch.finfo(wide).min  # not −∞: its gradient would be NaN
    retriever = doc_scores.to(wide).masked_fill(~live, 0.0) / retriever_temperature
    retriever = torch.log_softmax(retriever.masked_fill(~live, out), dim=1)
    lm = targets.detach().to(wide).masked_fill(~live, 0.0) / tau
    lm = torch.log_softmax(lm.masked_fill(~live, out), dim=1)
    first, second = (retriever, lm) if direction == "retriever_lm" else (lm, retriever)
    return (first.exp() * (first - second)).masked_fill(~live, 0.0).sum(1)


def _require(doc_scores: Tensor, targets: Tensor, *temperatures: float) -> None:
    """Raise where arguments do not belong together, or a temperature is none."""
    if doc_scores.shape != targets.shape or doc_scores.ndim != 2:
        raise ValueError(
            "doc_scores and what they are held against must have one shape (B, K), found "
            f"{tuple(doc_scores.shape)} and {tuple(targets.shape)}."
        )
    for temperature in temperatures:
        if not temperature > 0:
            raise ValueError(f"A temperature must be above 0, found {temperature}.")
