"""A loss beside the marginal likelihoods: passages that do not tell the answer shall guess nothing.

The marginal likelihood forgives them any guess, and in RAG-Token many guesses that agree outvote,
token by token, the one passage that tells it.
"""

import math

import torch
from torch import Tensor


def passage_doubt(
    token_log_probs: Tensor, mean_log_probs: Tensor, mask: Tensor, live: Tensor, vocab_size: int
) -> Tensor:
    """How far each passage that does not explain the answer is from guessing nothing.

    doubt_k = (1 − s_k) · Σ_t KL( uniform ‖ p(·|x,z_k,y_<t) ),
    s_k = (p(y|x,z_k) / max_j p(y|x,z_j))^(1/T)

    The share s is 1 for the passage that explains the answer best, and for any as good; no gradient
    reaches it, and none the scores of the retriever.

    Args:
        token_log_probs: log p(y_t|x,z,y_<t) in nats, shape (B, K, T).
        mean_log_probs: what `vocabulary_log_probs` gives, shape (B, K, T).
        mask: True where a token counts, shape (B, T).
        live: False where there is no passage, shape (B, K).
        vocab_size: V.

    Returns:
        Nats, at least 0, shape (B, K); 0 where there is no passage.
    """
    counted = mask.unsqueeze(1)  # (B, 1, T)
    per_token = token_log_probs.detach().masked_fill(~counted, 0.0).sum(-1)
    per_token = per_token / counted.sum(-1).clamp(min=1)  # (B, K)
    best = per_token.masked_fill(~live, -torch.inf).amax(-1, keepdim=True)
    unexplained = (1.0 - (per_token - best).exp()).masked_fill(~live, 0.0)
    guessing = (-mean_log_probs - math.log(vocab_size)).masked_fill(~counted, 0.0).sum(-1)
    return unexplained * guessing.masked_fill(~live, 0.0)
