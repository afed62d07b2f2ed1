"""Contrastive learning against in-batch and hard negatives: hard labels only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Role, Signal, Signals
from retrieval_kd.functional.divergence import contrastive, mean_over_queries
from retrieval_kd.functional.targets import best_scored

POSITIVES = ("judged", "teacher_top")


class Contrastive(nn.Module):
    """InfoNCE (van den Oord et al., 2018): the positive of a query against the negatives of the batch.

    Args:
        temperature: Divides similarities.
        in_batch: Whether the other queries' passages are negatives.
        positive: ``judged``, or ``teacher_top``: the passage of the query's list that the teacher scores highest, which
            needs no judgements.
        own: Whether the query's own candidates are negatives; PairDistill leaves these to its other terms.
    """

    needs: frozenset[Signal] = frozenset({Signal.JUDGEMENTS})

    def __init__(self, temperature: float, in_batch: bool, positive: str = "judged", own: bool = True) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"objective.contrastive.temperature must be > 0, got {temperature}")
        if positive not in POSITIVES:
            raise ValueError(f"objective.contrastive.positive is {' or '.join(POSITIVES)}, got {positive}")
        if not (in_batch or own):
            raise ValueError("objective.contrastive: in_batch=false and own=false leave no negatives")
        self.temperature = temperature
        self.in_batch = in_batch
        self.own = own
        self.by_teacher = positive == "teacher_top"
        if self.by_teacher:
            self.needs = frozenset({Signal.SCORE})

    def forward(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> Tensor:
        """A query without a positive or a negative is not counted; every other one is, whatever its pacing."""
        listed = signals.role != Role.NONE
        target = best_scored(signals.scores, listed & ~signals.dark) if self.by_teacher else signals.target
        negative = negative & ~target
        if not self.in_batch:
            negative = negative & listed
        if not self.own:
            negative = negative & ~listed
        losses = contrastive(evidence.query_passage / self.temperature, target, negative)
        return mean_over_queries(losses, target.any(-1) & negative.any(-1), torch.ones_like(weight))
