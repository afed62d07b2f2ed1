"""Thresholds that leave a wanted share of numbers at or above them."""

from __future__ import annotations

import torch
from torch import Tensor


def threshold_of_share(values: Tensor, share: float) -> Tensor:
    """The value that ceil(share * n) of the n values [N] reach, one at least; NaN entries are no values.

    It is one of the values, so a larger share has a threshold that is no higher, and for all of them it is the minimum.
    """
    ordered = values.sort().values  # NaN last
    count = (~values.isnan()).sum()
    # Products such as 0.3 * 10 lie a rounding above the whole number.
    wanted = torch.ceil(count * share - 1e-9).to(torch.int64).clamp_min(1)
    return ordered[(count - wanted).clamp_min(0)]
