"""FLOPS: what a query with the passages' own term frequencies would cost (https://arxiv.org/abs/2004.05665)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from retrieval_kd.regularizers.penalty import Penalty


class Flops(Penalty):
    """Sum over terms of the squared mean activation.

    With IDF in the score, terms of low IDF earn little there and pay the same here: that is the IDF-aware penalty.
    Where the score has no IDF and activations carry it instead (u = idf * d), give ``idf`` [V]: the penalty is then of
    u / idf, and the same. Terms of IDF 0 are left out of it.
    """

    inverse: Tensor | None

    def __init__(
        self,
        passage_weight: float,
        query_weight: float,
        ramp: float,
        reduction: str,
        idf: np.ndarray | Tensor | None = None,
    ) -> None:
        super().__init__(passage_weight, query_weight, ramp, reduction)
        inverse = None
        if idf is not None:
            given = torch.as_tensor(idf, dtype=torch.float32)
            inverse = torch.where(given > 0, 1 / given, 0.0)
        self.register_buffer("inverse", inverse, persistent=False)

    def of_passages(self, activations: Tensor) -> Tensor:
        """As they are, or divided by IDF."""
        if self.inverse is None:
            return activations
        beyond = activations.shape[-1] - len(self.inverse)  # rows that fill a head up, and are never active
        return activations * (nn.functional.pad(self.inverse, (0, beyond)) if beyond else self.inverse)

    def of_queries(self, activations: Tensor) -> Tensor:
        """As passages."""
        return self.of_passages(activations)
