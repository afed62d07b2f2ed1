"""Preferences between two passages of a query, as functions of scores [Q, P] and pairs [K, 3]: (query, i, j)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def differences(scores: Tensor, pairs: Tensor) -> Tensor:
    """s(query, i) - s(query, j) of each pair [K], in float32."""
    query, left, right = pairs.unbind(1)
    scores = scores.to(torch.float32)
    return scores[query, left] - scores[query, right]


def bernoulli_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(Bernoulli(sigmoid(teacher)) || Bernoulli(sigmoid(student))) of log-odds [K].

    It is the binary cross-entropy of the student's log-odds to the teacher's probability, less the teacher's entropy,
    which has no gradient: subtracted inside, so that equal preferences give exactly 0.
    """
    preferred = torch.sigmoid(teacher)
    wins = F.logsigmoid(teacher) - F.logsigmoid(student)
    losses = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    return preferred * wins + (1 - preferred) * losses


def ranknet(student: Tensor) -> Tensor:
    """-log sigmoid(s_i - s_j) of differences [K] whose i is to stand above j (Burges et al., 2005)."""
    return F.softplus(-student)


def ordered_pairs(scores: Tensor) -> Tensor:
    """Every (query, i, j) whose teacher score i exceeds j, from scores [Q, P] with NaN for none: [K, 3].

    Lists are packed first, so that what is compared is n x n for the longest list, not P x P.
    """
    scored = ~scores.isnan()
    longest = int(scored.sum(1).max()) if scores.numel() else 0
    columns = scored.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    packed = scores.gather(1, columns)  # NaN behind the end of a shorter list: never above anything
    query, left, right = (packed.unsqueeze(2) > packed.unsqueeze(1)).nonzero().unbind(1)
    return torch.stack([query, columns[query, left], columns[query, right]], dim=1)


def mean_over_pairs(losses: Tensor, pairs: Tensor, weight: Tensor) -> Tensor:
    """Losses [K], each times its query's weight [Q], over the number of pairs: a query with more pairs says more."""
    return (losses * weight[pairs[:, 0]]).sum() / max(len(losses), 1)


def mean_of_each_query(losses: Tensor, pairs: Tensor, weight: Tensor) -> Tensor:
    """Each query's mean over its own pairs, times its weight [Q], over the number of queries that have pairs."""
    count = torch.bincount(pairs[:, 0], minlength=len(weight))
    shares = (weight / count.clamp_min(1))[pairs[:, 0]]
    return (losses * shares).sum() / (count > 0).sum().clamp_min(1)


AVERAGES = {"pairs": mean_over_pairs, "queries": mean_of_each_query}
