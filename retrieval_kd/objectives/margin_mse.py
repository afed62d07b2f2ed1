"""Margin-MSE: the teacher's score differences, on the teacher's scale."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Signal, Signals
from retrieval_kd.functional.divergence import margin_mse, mean_over_queries


class MarginMSE(nn.Module):
    """Mean squared error of margins between the positive and each other candidate (Hofstätter et al., 2020).

    ``student_scale`` multiplies the student's similarities: cosines span 2 at most, a teacher's margins may not.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.SCORE, Signal.JUDGEMENTS})

    def __init__(self, student_scale: float, teacher_scale: float) -> None:
        super().__init__()
        self.student_scale = student_scale
        self.teacher_scale = teacher_scale

    def forward(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> Tensor:
        """Soft labels: the filter's ``negative`` is not asked."""
        scored = ~signals.scores.isnan()  # of candidates, or of the whole batch where the teacher scores it all
        positive = scored & signals.target
        other = scored & ~positive
        teacher = signals.scores.nan_to_num(0.0) * self.teacher_scale
        losses = margin_mse(evidence.query_passage * self.student_scale, teacher, positive, other)
        return mean_over_queries(losses, positive.any(-1) & other.any(-1), weight)
