"""Listwise distillation: the teacher's distribution over a query's candidates."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import DARK_ROLES, Evidence, Signal, Signals
from retrieval_kd.functional.divergence import listwise_kl, mean_over_queries


class ListwiseKL(nn.Module):
    """KL(teacher || student) over the scored candidates, a temperature on each side, no factor T squared.

    ``unscored="zero"`` puts the batch's other passages into the list, with no teacher mass; known positives and dark
    passages of other queries stay out. ``dark=False`` keeps made passages out of every list, and with ``paced=False``
    every query counts the same.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.SCORE})

    def __init__(
        self,
        student_temperature: float,
        teacher_temperature: float,
        unscored: str,
        dark: bool = True,
        paced: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("student", student_temperature), ("teacher", teacher_temperature)):
            if value <= 0:
                raise ValueError(f"objective.listwise_kl.{name}_temperature must be > 0, got {value}")
        if unscored not in ("exclude", "zero"):
            raise ValueError(f"objective.listwise_kl.unscored is exclude or zero, got {unscored}")
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.unscored = unscored
        self.dark = dark
        self.paced = paced

    def forward(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> Tensor:
        """Soft labels: the filter's ``negative`` is not asked."""
        scored = ~signals.scores.isnan()  # of candidates, or of the whole batch where the teacher scores it all
        if not self.dark:
            for role in DARK_ROLES:
                scored = scored & (signals.role != role)
        listed = scored.any(-1)
        teacher = signals.scores.masked_fill(~scored, float("-inf")) / self.teacher_temperature
        mask = scored
        if self.unscored == "zero":
            mask = scored | (~scored & ~signals.positive & ~signals.dark & listed.unsqueeze(-1))
        losses = listwise_kl(evidence.query_passage / self.student_temperature, teacher, mask)
        return mean_over_queries(losses, listed, weight if self.paced else torch.ones_like(weight))
