"""Tensors of all processes of a training, whose leading sizes may differ."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(value: Tensor) -> list[Tensor]:
    """The tensor of every process in the order of their ranks, without a gradient."""
    sizes = [torch.zeros((), dtype=torch.int64, device=value.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor(len(value), device=value.device))
    lengths = [int(size) for size in sizes]
    padded = value.new_zeros((max(lengths), *value.shape[1:]))
    padded[: len(value)] = value.detach()
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded.contiguous())
    return [part[:length] for part, length in zip(parts, lengths, strict=True)]
