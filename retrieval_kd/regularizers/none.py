"""No penalty on representations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import Representations, Signals


class NoPenalty(nn.Module):
    """The penalty that is always zero."""

    def forward(
        self, queries: Representations, passages: Representations, progress: float, signals: Signals | None = None
    ) -> Tensor:
        """Zero, without a gradient."""
        return torch.zeros((), device=next(iter(queries.values())).device)

    def step(self, queries: Representations, passages: Representations, progress: float) -> None:
        """Nothing to update."""
