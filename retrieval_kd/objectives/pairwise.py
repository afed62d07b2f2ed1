"""Pairwise distillation: the teacher's preference between two passages of a query."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Signal, Signals
from retrieval_kd.functional.pairs import AVERAGES, bernoulli_kl, differences


class Pairwise(nn.Module):
    """KL(teacher || student) between Bernoulli preferences; the student's is the sigmoid of a score difference.

    After PairDistill (Huang and Chen, 2024, https://arxiv.org/abs/2410.01383).

    Args:
        student_temperature: Divides score differences.
        teacher_temperature: Divides the teacher's log-odds, raw and often overconfident: its calibration.
        average: ``pairs`` as in the paper; with ``queries``, each query says as much as any other.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.PREFERENCE})

    def __init__(self, student_temperature: float, teacher_temperature: float, average: str) -> None:
        super().__init__()
        for name, value in (("student", student_temperature), ("teacher", teacher_temperature)):
            if value <= 0:
                raise ValueError(f"objective.pairwise.{name}_temperature must be > 0, got {value}")
        if average not in AVERAGES:
            raise ValueError(f"objective.pairwise.average is {' or '.join(AVERAGES)}, got {average}")
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.average = AVERAGES[average]

    def forward(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> Tensor:
        """Soft labels: the filter's ``negative`` is not asked. Without a pair in the batch it is 0."""
        student = differences(evidence.query_passage, signals.pairs) / self.student_temperature
        losses = bernoulli_kl(student, signals.log_odds / self.teacher_temperature)
        return self.average(losses, signals.pairs, weight)
