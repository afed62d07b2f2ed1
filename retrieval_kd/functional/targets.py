"""Which passage of each list stands for its positive."""

from __future__ import annotations

import torch
from torch import Tensor


def best_scored(scores: Tensor, listed: Tensor) -> Tensor:
    """The entry of the highest score in each row of ``listed`` [Q, P], the first of equals; rows without a score: none.

    ``scores`` [Q, P] hold NaN where there is none.
    """
    usable = listed & ~scores.isnan()
    best = scores.masked_fill(~usable, -torch.inf).argmax(-1, keepdim=True)
    return torch.zeros_like(usable).scatter_(-1, best, True) & usable
