"""How sure a teacher is of a query's list, from raw scores [..., Q, P]: numbers from 0 to 1, NaN where none is.

``listed`` [..., Q, P] marks the scored passages that were found, ``target`` the positives. Everything is computed in 64
bits, so that a teacher which saturates still orders its queries.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Confidence = Callable[[Tensor, Tensor, Tensor], Tensor]

SHARES = 1 << 53  # numbers that a float64 from 0 to 1 tells apart
MULTIPLIERS = (-4658895280553007687, -7723592293110705685)  # of splitmix64, as signed numbers


def positive_probability(scores: Tensor, target: Tensor, listed: Tensor) -> Tensor:
    """The softmax's mass on the positives."""
    mass = _log_softmax(scores, listed).exp().masked_fill(~(target & listed), 0.0).sum(-1)
    return mass.masked_fill(~_judged(target, listed), torch.nan)


def positive_on_top(scores: Tensor, target: Tensor, listed: Tensor) -> Tensor:
    """1 where a positive has the highest score of its list, alone; else 0."""
    return (_gap(scores, target, listed) > 0).double().masked_fill(~_judged(target, listed), torch.nan)


def margin(scores: Tensor, target: Tensor, listed: Tensor) -> Tensor:
    """The sigmoid of the best positive's score less the best other's: above one half where the positive wins."""
    return _gap(scores, target, listed).sigmoid().masked_fill(~_judged(target, listed), torch.nan)


def certainty(scores: Tensor, target: Tensor, listed: Tensor) -> Tensor:
    """1 - entropy of the softmax / that of n equal scores; asks for no positive, only for two scored passages."""
    log_mass = _log_softmax(scores, listed)
    mass = log_mass.exp().masked_fill(~listed, 0.0)
    entropy = -(mass * log_mass.masked_fill(mass == 0, 0.0)).sum(-1)
    count = listed.sum(-1)
    sure = 1 - entropy / count.clamp_min(2).double().log()
    return sure.clamp(0.0, 1.0).masked_fill(count < 2, torch.nan)


CONFIDENCES: dict[str, Confidence] = {
    "probability": positive_probability,
    "top": positive_on_top,
    "margin": margin,
    "certainty": certainty,
}
OF_POSITIVES = frozenset({"probability", "top", "margin"})  # those that need to know which passage is a positive


def mean_deviation(scores: Tensor, listed: Tensor) -> Tensor:
    """Standard deviation of scores [M, Q, P] within each list, averaged over those of two or more [M]; NaN: no such."""
    values, count = scores.double().masked_fill(~listed, 0.0), listed.sum(-1)
    mean = values.sum(-1) / count.clamp_min(1)
    squares = (values - mean.unsqueeze(-1)).square().masked_fill(~listed, 0.0).sum(-1)
    deviations = (squares / count.clamp_min(1)).sqrt()
    return deviations.masked_fill(count < 2, torch.nan).nanmean(-1)


def scattered(scores: Tensor, listed: Tensor, seed: int) -> Tensor:
    """A number [Q], uniform from 0 to 1, out of the bits of each query's scores [M, Q, P].

    It looks random and is none: the same in every process, in a resumed training, for any order of the passages.
    """
    bits = scores.float().contiguous().view(torch.int32).to(torch.int64)
    key = _mixed(torch.tensor(seed, device=scores.device))
    every = _mixed(bits ^ key).masked_fill(~listed, 0)
    number = _mixed(every.sum(-1).sum(0) ^ key)
    return (number & (SHARES - 1)).double() / SHARES


def _mixed(bits: Tensor) -> Tensor:
    """Every bit of the result depends on every bit given (after splitmix64; products and sums wrap around)."""
    for multiplier in MULTIPLIERS:
        bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * multiplier
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


def _log_softmax(scores: Tensor, listed: Tensor) -> Tensor:
    return scores.double().masked_fill(~listed, torch.finfo(torch.float64).min).log_softmax(-1)


def _judged(target: Tensor, listed: Tensor) -> Tensor:
    """Whether a list has a scored positive and a scored other passage."""
    return (target & listed).any(-1) & (~target & listed).any(-1)


def _gap(scores: Tensor, target: Tensor, listed: Tensor) -> Tensor:
    lowest = torch.finfo(torch.float64).min / 4
    best, other = (scores.double().masked_fill(~(listed & some), lowest).amax(-1) for some in (target, ~target))
    return best - other
