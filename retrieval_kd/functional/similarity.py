"""Pooling token states and comparing vectors, in float32 whatever the encoder computed in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of the token states [N, L, D] that ``mask`` [N, L] keeps, summed in float32."""
    weights = mask.unsqueeze(-1).to(torch.float32)
    return (states.to(torch.float32) * weights).sum(1) / weights.sum(1).clamp_min(1.0)


def first_token(states: Tensor, mask: Tensor) -> Tensor:
    """State of the first token ([CLS]) of [N, L, D], in float32; ``mask`` is there for the common signature."""
    return states[:, 0].to(torch.float32)


def unit_length(vectors: Tensor) -> Tensor:
    """Rows of [N, D] at length one, so that inner products are cosines."""
    return F.normalize(vectors, dim=-1)


def inner_products(queries: Tensor, passages: Tensor) -> Tensor:
    """[Q, D] and [P, D] to [Q, P], accumulated in float32: half precision makes ties."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries.to(torch.float32) @ passages.to(torch.float32).T
