"""How alike two teachers order the same lists: what one that was trained on another's scores has learned of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from retrieval_kd.functional.rank_correlation import kendall_tau

MOST_LISTS = 1_000  # a longer input is sampled evenly: every two passages of a list are compared
AT_ONCE = 20  # lists whose pairs of passages are in memory together


@dataclass(frozen=True)
class Agreement:
    """Means over lists; NaN where none of them has an order."""

    lists: int  # looked at
    kendall_tau: float
    same_top: float  # share of lists whose best passage is the same


def agreement(one: np.ndarray, other: np.ndarray, offsets: np.ndarray) -> Agreement:
    """Of scores [N] of lists given end to end, list i being ``offsets[i]:offsets[i + 1]``.

    Passages that either left without a score (NaN) are not looked at; of equal scores the first is the best.
    """
    if len(offsets) < 2:
        return Agreement(0, float("nan"), float("nan"))
    chosen = np.unique(np.linspace(0, len(offsets) - 2, min(len(offsets) - 1, MOST_LISTS)).astype(np.int64))
    sizes = np.diff(offsets)[chosen]
    inside = np.arange(sizes.max(initial=0)) < sizes[:, None]
    places = np.minimum(offsets[chosen][:, None] + np.arange(inside.shape[1]), max(0, len(one) - 1))
    left, right = (torch.from_numpy(scores[places].astype(np.float64)) for scores in (one, other))
    told = torch.from_numpy(inside) & ~left.isnan() & ~right.isnan()
    tops = [scores.masked_fill(~told, -torch.inf).argmax(1) for scores in (left, right)]
    several = told.sum(1) > 1
    same = (tops[0] == tops[1])[several].double()
    parts = zip(*(scores.split(AT_ONCE) for scores in (left, right, told)), strict=True)
    taus = torch.cat([kendall_tau(*part) for part in parts])
    return Agreement(int(several.sum()), float(taus.nanmean()), float(same.mean()))
