"""Tensors of different widths side by side."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(value: Tensor, width: int, fill: float = 0.0) -> Tensor:
    """[N, w, ...] to [N, width, ...], the new columns filled."""
    if value.shape[1] == width:
        return value
    extra = value.new_full((value.shape[0], width - value.shape[1], *value.shape[2:]), fill)
    return torch.cat([value, extra], dim=1)
