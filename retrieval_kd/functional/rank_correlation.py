"""Whether two orders of a list agree."""

from __future__ import annotations

import torch
from torch import Tensor


def kendall_tau(left: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    """Kendall's tau-b [Q] of two scores [Q, P] over the entries that ``mask`` keeps; NaN where one has no order.

    Lists are packed first, so that what is compared is n x n for the longest list, not P x P.
    """
    longest = int(mask.sum(1).max()) if mask.numel() else 0
    columns = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    inside = mask.gather(1, columns)
    both = (inside.unsqueeze(2) & inside.unsqueeze(1)).triu(1)
    one, other = (_signs(scores.gather(1, columns), both) for scores in (left, right))
    told = (one.abs().sum((1, 2)) * other.abs().sum((1, 2))).double().sqrt()
    return torch.where(told > 0, (one * other).sum((1, 2)) / told, torch.nan)


def _signs(scores: Tensor, both: Tensor) -> Tensor:
    """The order of every two entries [Q, n, n]; 0 for ties and for pairs that are not looked at."""
    scores = scores.double().nan_to_num(0.0)
    return (scores.unsqueeze(2) - scores.unsqueeze(1)).sign().masked_fill(~both, 0.0)
