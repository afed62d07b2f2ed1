"""Contrastive learning against in-batch and hard negatives: hard labels only."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Role, Signal, Signals
from retrieval_kd.functional.divergence import contrastive, mean_over_queries


class Contrastive(nn.Module):
    """InfoNCE (van den Oord et al., 2018): the judged passage of a query against every negative of the batch."""

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.JUDGEMENTS})

    def __init__(self, temperature: float, in_batch: bool) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"objective.contrastive.temperature must be > 0, got {temperature}")
        self.temperature = temperature
        self.in_batch = in_batch

    def forward(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> Tensor:
        """``in_batch=False`` keeps to the query's own candidates; a query that has no negative left is not counted."""
        target = (signals.role == Role.POSITIVE) | (signals.role == Role.PSEUDO_POSITIVE)
        negative = negative & ~target
        if not self.in_batch:
            negative = negative & (signals.role != Role.NONE)
        losses = contrastive(evidence.query_passage / self.temperature, target, negative)
        return mean_over_queries(losses, target.any(-1) & negative.any(-1), weight)
