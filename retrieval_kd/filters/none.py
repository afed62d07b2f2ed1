"""No filter: every candidate may serve as a hard-label negative."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Signals


class KeepAll(nn.Module):
    """The filter that filters nothing."""

    def forward(self, evidence: Evidence, signals: Signals) -> Tensor:
        """[Q, P], all True."""
        return torch.ones_like(signals.positive)

    def step(self, evidence: Evidence, signals: Signals, progress: float) -> None:
        """Nothing to update."""
