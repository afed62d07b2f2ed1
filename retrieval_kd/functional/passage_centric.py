"""Negatives pushed away from a query's positive, as a function of plain matrices: one value per (query, positive)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def against(own: Tensor, blocks: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """-log( e^own / (e^own + sum over the blocks of e^s where their masks keep) ) [K]; 0 where they keep nothing.

    Args:
        own: Similarity of each positive with its query [K].
        blocks: Similarities [K, N] and masks [K, N] of what else stands in the denominator; N differs from one to the
            other.
    """
    lowest = torch.finfo(torch.float32).min
    others = [scores.to(torch.float32).masked_fill(~mask, lowest).logsumexp(-1) for scores, mask in blocks]
    return F.softplus(torch.stack(others).logsumexp(0) - own.to(torch.float32))
