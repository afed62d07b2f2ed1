"""A threshold on scores that moves while training: what lies above it may be a false negative."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, ScoreKind, Signals
from retrieval_kd.filters.account import Account, of_members
from retrieval_kd.filters.member_scores import MemberScores
from retrieval_kd.functional.score_kinds import check_threshold
from retrieval_kd.functional.thresholds import below_share, exceeds_all, quantiles, weakest_target

OF_PROBABILITIES = 0.9  # where a threshold of probabilities begins if nothing else is said


def stays(keep: Dynamic, seen: Tensor, progress: float) -> Tensor:
    """The threshold as it is."""
    return keep.threshold


def on_a_line(keep: Dynamic, seen: Tensor, progress: float) -> Tensor:
    """From ``start`` to ``end`` with the training's progress."""
    start = OF_PROBABILITIES if keep.start is None else keep.start
    return torch.full_like(keep.threshold, start + (float(keep.end or 0.0) - start) * min(1.0, progress))


def moving_mean(keep: Dynamic, seen: Tensor, progress: float) -> Tensor:
    """A step towards what was seen of the positives; where one of both is unknown, the other."""
    mean = (1 - keep.rate) * keep.threshold + keep.rate * seen
    known = torch.where(keep.threshold.isnan(), seen, keep.threshold)
    return torch.where(mean.isnan(), known, mean)


VARIANTS: dict[str, Callable[[Dynamic, Tensor, float], Tensor]] = {
    "fixed": stays,
    "linear": on_a_line,
    "ema_quantile": moving_mean,
    "relative": stays,
}


class Dynamic(nn.Module):
    """Drops passages that score above a threshold, which follows how known positives score.

    After the idea in MD2PR's abstract (Li et al., 2023, https://arxiv.org/abs/2312.16821); the formulas are a
    reconstruction. Of several members each has a threshold of its own, and what all of them place above theirs is
    dropped. What has no score is kept.

    Args:
        members: What the teacher's raw scores mean, by member.
        by: Whose scores: ``teacher`` or ``student``.
        member: Of a teacher with several; None: all.
        kind: What thresholds are of; raw scores are told as that.
        variant: ``fixed`` at ``start``; ``linear`` to ``end`` over the training; ``ema_quantile``, a moving mean of a
            quantile of the positives' scores; ``relative`` to each query's own positive.
        start: The first threshold; None: 0.9 of probabilities, of similarities the quantile in the first batch.
        end: Of ``linear``.
        quantile: Of the positives' scores in a batch.
        rate: How much of it enters the threshold with each optimizer step.
        share: Of the own positive's score, from which ``relative`` drops.
        margin: Also drop what comes nearer than this to the own positive's score; None: do not.
    """

    threshold: Tensor  # [M], NaN until positives were seen

    def __init__(  # noqa: PLR0913 - one argument for each key of the option
        self,
        members: Mapping[str, str | None],
        by: str,
        member: str | None,
        kind: str,
        variant: str,
        start: float | None,
        end: float | None,
        quantile: float,
        rate: float,
        share: float,
        margin: float | None,
    ) -> None:
        super().__init__()
        _check(variant, end, quantile, rate, share, margin)
        numbers = {"start": start if variant != "relative" else None, "end": end if variant == "linear" else None}
        numbers["margin"] = margin
        given = [f"filter.{name}={value:g}" for name, value in numbers.items() if value is not None]
        self.scores = MemberScores(by, member, kind, members, given)
        for name in ("start", "end"):
            if numbers[name] is not None:
                check_threshold(f"filter.{name}", float(numbers[name] or 0.0), self.scores.kinds[0])
        self.variant = variant
        self.start, self.end = start, end
        self.quantile, self.rate, self.share, self.margin = quantile, rate, share, margin
        self.register_buffer("threshold", torch.tensor([self._first(one) for one in self.scores.kinds]))
        higher = "a higher filter.share" if variant == "relative" else "a higher filter.start"
        self.account = Account("A higher filter.quantile" if variant == "ema_quantile" else higher.capitalize())

    def _first(self, kind: ScoreKind) -> float:
        if self.variant == "relative":
            return math.inf
        if self.start is not None:
            return float(self.start)
        if kind is ScoreKind.PROBABILITY:
            return OF_PROBABILITIES
        if self.variant != "ema_quantile":
            raise ValueError(f"filter.variant={self.variant} needs filter.start, on the scale of the {kind}")
        return math.nan

    @property
    def figures(self) -> dict[str, Tensor]:
        """For the log: the threshold, the share of own negatives that is dropped, queries that have none left."""
        return self.account.figures

    def forward(self, evidence: Evidence, signals: Signals) -> Tensor:
        """[Q, P] bool, True where kept."""
        scores = self.scores(evidence, signals)
        own = weakest_target(scores, signals.target)
        limits = self.limits(own)
        kept = ~exceeds_all(scores, limits.unsqueeze(-1))
        reported = limits.nanmean(-1) if self.variant == "relative" else self._present(own)
        self.account.take(kept, signals, of_members("filter_threshold", self.scores.names, reported))
        return kept

    def step(self, evidence: Evidence, signals: Signals, progress: float) -> None:
        """Move the threshold."""
        own = weakest_target(self.scores(evidence, signals), signals.target)
        self.threshold.copy_(VARIANTS[self.variant](self, quantiles(own, self.quantile), progress))
        self.account.warn()

    def limits(self, own: Tensor) -> Tensor:
        """What may not be exceeded, of the positives' scores [M, Q]: [M, Q]."""
        limits = self._present(own).unsqueeze(-1).expand_as(own)
        if self.variant == "relative":
            limits = torch.minimum(limits, _or_infinite(below_share(own, self.share)))
        if self.margin is not None:
            limits = torch.minimum(limits, _or_infinite(own - self.margin))
        return limits

    def _present(self, own: Tensor) -> Tensor:
        """[M], in the first batches that of the batch itself where nothing else is known."""
        if self.variant != "ema_quantile":
            return self.threshold
        return torch.where(self.threshold.isnan(), quantiles(own, self.quantile), self.threshold)


def _check(variant: str, end: float | None, quantile: float, rate: float, share: float, margin: float | None) -> None:
    if variant not in VARIANTS:
        raise ValueError(f"filter.variant is {', '.join(VARIANTS)}, got {variant}")
    if variant == "linear" and end is None:
        raise ValueError("filter.variant=linear needs filter.end, where the threshold arrives")
    for name, value in (("quantile", quantile), ("rate", rate), ("share", share)):
        if not 0 <= value <= 1:
            raise ValueError(f"filter.{name} is from 0 to 1, got {value}")
    if margin is not None and not 0 <= margin < math.inf:
        raise ValueError(f"filter.margin is null or at least 0, got {margin}")


def _or_infinite(limits: Tensor) -> Tensor:
    return torch.where(limits.isnan(), torch.inf, limits)
