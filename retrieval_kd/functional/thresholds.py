"""Thresholds over scores of several members, as functions of plain tensors; NaN where a member gave no score."""

from __future__ import annotations

import torch
from torch import Tensor


def weakest_target(scores: Tensor, target: Tensor) -> Tensor:
    """The lowest score among each query's targets, of [M, Q, P] and [Q, P]: [M, Q], NaN without a scored one."""
    known = target & ~scores.isnan()
    lowest = scores.masked_fill(~known, torch.inf).amin(-1)
    return lowest.masked_fill(~known.any(-1), torch.nan)


def quantiles(values: Tensor, share: float) -> Tensor:
    """Each row's quantile over what is no NaN, of [M, N]: [M]; NaN for a row of nothing else."""
    if not values.shape[-1]:
        return values.new_full(values.shape[:-1], torch.nan)
    return values.float().nanquantile(share, dim=-1)


def below_share(own: Tensor, share: float) -> Tensor:
    """``share`` of each score for those above 0; as much below it for others: of logits a share would lie above."""
    return own - (1 - share) * own.abs()


def exceeds_all(scores: Tensor, limits: Tensor) -> Tensor:
    """Where every member that gave a score is above its limit, of [M, Q, P] and [M, Q or 1, 1]: [Q, P].

    What nobody scored exceeds nothing; nor does anything exceed a limit that is NaN.
    """
    silent = scores.isnan()
    return ((scores > limits) | silent).all(0) & ~silent.all(0)
