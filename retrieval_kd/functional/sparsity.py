"""Sparse activations, what they cost, and penalties on them.

Representations ``reps`` are dense and not negative, [N, V]. Penalties are sums over the vocabulary, so their size does
not depend on the number of texts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 22  # entries of a memory map that are counted at once


def log_activation(x: Tensor, logs: int) -> Tensor:
    """log(1 + relu(x)), or log(1 + log(1 + relu(x))) with two logs."""
    if logs not in (1, 2):
        raise ValueError(f"logs={logs}: it is 1 or 2")
    value = torch.log1p(x.relu())
    return value if logs == 1 else torch.log1p(value)


def padded_terms(reps: Tensor, prune: float = 0.0) -> dict[str, Tensor]:
    """``terms`` int32 and ``weights`` [N, K], ``lengths`` [N]: each row's first are active, rising; the rest is 0.

    Dropped are entries of at most ``prune`` of the row's largest.
    """
    least = reps.amax(1, keepdim=True) * prune if reps.shape[1] else reps
    row, term = (reps > least).nonzero(as_tuple=True)
    lengths = torch.bincount(row, minlength=len(reps))
    place = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
    shape = len(reps), int(lengths.max()) if len(lengths) else 0
    terms = torch.zeros(shape, dtype=torch.int32, device=row.device)
    weights = reps.new_zeros(shape)
    terms[row, place] = term.int()
    weights[row, place] = reps[row, term]
    return {"terms": terms, "weights": weights, "lengths": lengths}


def dense_terms(terms: Tensor, weights: Tensor, vocabulary: int) -> Tensor:
    """Padded terms as [N, V]."""
    dense = weights.new_zeros(len(terms), vocabulary)
    return dense.scatter_add_(1, terms.long(), weights)  # adding: padding stands at term 0, and adds nothing


def flops(reps: Tensor) -> Tensor:
    """Sum over terms of the squared mean activation: one list of N texts (https://arxiv.org/abs/2004.05665)."""
    return reps.float().mean(0).square().sum()


def flops_by_position(reps: Tensor, positions: Tensor) -> Tensor:
    """The penalty of each list position by itself, summed; ``positions`` [N], below 0 for what is in no list.

    For lists of n passages it is about n times the penalty of all passages together: weights are not interchangeable.
    """
    places = torch.arange(int(positions.max().clamp_min(0)) + 1, device=positions.device)
    member = (positions.unsqueeze(0) == places.unsqueeze(1)).float()  # [n, N]
    with torch.autocast(reps.device.type, enabled=False):
        means = (member / member.sum(1, keepdim=True).clamp_min(1.0)) @ reps.float()
    return means.square().sum()


def flops_over_idf(reps: Tensor, idf: Tensor) -> Tensor:
    """The penalty of terms that carry their weight: sum of (mean / idf)^2, without terms of weight 0.

    With ``reps = idf * activations`` it equals ``flops(activations)``.
    """
    inverse = torch.where(idf > 0, 1.0 / idf, 0.0).float()
    return (reps.float().mean(0) * inverse).square().sum()


def longer_than(reps: Tensor, threshold: float) -> Tensor:
    """``reps`` with the rows set to 0 that have at most ``threshold`` active terms."""
    return reps * (active_terms(reps) > threshold).to(reps.dtype).unsqueeze(-1)


def l0_masked_flops(reps: Tensor, threshold: float) -> Tensor:
    """``flops`` of the rows with more than ``threshold`` active terms; the mean is still over all N."""
    return flops(longer_than(reps, threshold))


def df_weights(df_share: Tensor, alpha: float, beta: float) -> Tensor:
    """How much of the penalty a term takes, by the share of texts that hold it: 0 at 0, one half at alpha, 1 at 1.

    1 / (1 + (share^(log_alpha 2) - 1)^beta), https://arxiv.org/abs/2505.15070.
    """
    if not 0 < alpha < 1 or beta <= 0:
        raise ValueError(f"alpha={alpha}, beta={beta}: alpha lies between 0 and 1, beta above 0")
    exponent = float(np.log(2.0) / np.log(alpha))
    return 1.0 / (1.0 + (df_share.float().clamp(0.0, 1.0).pow(exponent) - 1.0).clamp_min(0.0).pow(beta))


def df_flops(reps: Tensor, df_share: Tensor, alpha: float, beta: float) -> Tensor:
    """Sum of (weight * mean activation)^2, terms weighted by the share of texts that hold them (``df_weights``)."""
    return (reps.float().mean(0) * df_weights(df_share, alpha, beta)).square().sum()


def l1(reps: Tensor) -> Tensor:
    """Mean over texts of the sum of activations."""
    return reps.float().abs().sum(-1).mean()


def active_terms(reps: Tensor) -> Tensor:
    """Number of terms above 0 of each text, float32 [N], no gradient."""
    return (reps.detach() > 0).sum(-1).float()


def term_shares(terms: np.ndarray, texts: int, vocabulary: int) -> np.ndarray:
    """Share of ``texts`` that hold each term, float64 [V]; ``terms`` [T] lists each text's distinct terms, any order.

    Read block by block: ``terms`` may be a memory map larger than memory.
    """
    counts = np.zeros(vocabulary, np.int64)
    for start in range(0, len(terms), BLOCK):
        counts += np.bincount(terms[start : start + BLOCK], minlength=vocabulary)
    return counts / max(texts, 1)


def expected_flops(
    query_terms: np.ndarray, queries: int, passage_terms: np.ndarray, passages: int, vocabulary: int
) -> float:
    """Mean number of terms that a query and a passage share: sum of P(query holds v) * P(passage holds v).

    Times the number of passages it is how many postings an exact scan touches for a query.
    """
    shares = term_shares(query_terms, queries, vocabulary), term_shares(passage_terms, passages, vocabulary)
    return float(shares[0] @ shares[1])
