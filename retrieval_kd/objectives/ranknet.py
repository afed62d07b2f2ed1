"""RankNet on the teacher's scores: pairs without a judge of pairs, the ablation of pairwise distillation."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Signal, Signals
from retrieval_kd.functional.pairs import AVERAGES, differences, ordered_pairs, ranknet


class RankNet(nn.Module):
    """Every two passages of a list in the order of their teacher scores, by how much is not asked; ties are left out.

    Args:
        student_temperature: Divides score differences.
        average: ``pairs`` or ``queries``, as in ``pairwise``.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.SCORE})

    def __init__(self, student_temperature: float, average: str) -> None:
        super().__init__()
        if student_temperature <= 0:
            raise ValueError(f"objective.ranknet.student_temperature must be > 0, got {student_temperature}")
        if average not in AVERAGES:
            raise ValueError(f"objective.ranknet.average is {' or '.join(AVERAGES)}, got {average}")
        self.student_temperature = student_temperature
        self.average = AVERAGES[average]

    def forward(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> Tensor:
        """Soft labels: the filter's ``negative`` is not asked."""
        pairs = ordered_pairs(signals.scores)
        losses = ranknet(differences(evidence.query_passage, pairs) / self.student_temperature)
        return self.average(losses, pairs, weight)
