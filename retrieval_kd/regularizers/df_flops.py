"""FLOPS of terms that many passages hold (https://arxiv.org/abs/2505.15070)."""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval_kd.contracts import Representations
from retrieval_kd.functional.sparsity import df_weights
from retrieval_kd.regularizers.penalty import Penalty, activations_of
from retrieval_kd.regularizers.term_buffers import register_term_buffers


class DfFlops(Penalty):
    """FLOPS with a weight per term: near 0 where few passages hold it, one half at a share of ``alpha``, near 1 above.

    Document frequencies are those of the training's own passages: counted over ``every`` steps, then taken as they
    are for as many. The first step gives the first estimate; before it all terms weigh 1. Queries are not weighted.
    """

    df: Tensor  # [V] share of passages that hold a term, as last estimated
    counts: Tensor  # [V] passages that hold a term, since then
    counted: Tensor  # [] passages, since then
    steps: Tensor  # [] all of them

    def __init__(
        self,
        passage_weight: float,
        query_weight: float,
        ramp: float,
        reduction: str,
        alpha: float,
        beta: float,
        every: int,
    ) -> None:
        super().__init__(passage_weight, query_weight, ramp, reduction)
        if not 0 < alpha < 1 or beta <= 0:
            raise ValueError(f"regularizer.alpha must lie between 0 and 1, beta above 0, got {alpha} and {beta}")
        if every < 1:
            raise ValueError(f"regularizer.every is a number of steps, got {every}")
        self.alpha = alpha
        self.beta = beta
        self.every = every
        register_term_buffers(self, "df", "counts")
        self.register_buffer("counted", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def of_passages(self, activations: Tensor) -> Tensor:
        """Each term by its weight."""
        return activations * df_weights(self.df, self.alpha, self.beta) if len(self.df) else activations

    def step(self, queries: Representations, passages: Representations, progress: float) -> None:
        """Count, and estimate anew when it is time."""
        held = (activations_of(passages).detach() > 0).sum(0).float()
        self.counts = self.counts + held if len(self.counts) else held
        self.counted += len(activations_of(passages))
        self.steps += 1
        if int(self.steps) == 1 or int(self.steps) % self.every == 0:
            self.df = self.counts / self.counted
            self.counts = torch.zeros_like(held)
            self.counted.zero_()
