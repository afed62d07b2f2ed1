"""No pacing: every query counts the same, always."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import Signals


class Constant(nn.Module):
    """Weight one for every query."""

    def forward(self, signals: Signals, progress: float) -> Tensor:
        """[Q], ones."""
        return torch.ones(len(signals.positive), device=signals.positive.device)

    def step(self, signals: Signals, progress: float) -> None:
        """Nothing to remember."""
