"""Sweeps over every combination."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.sweep_space import Job, Space

Batches = Generator[list[Job], Mapping[int, float | None], None]


@dataclass(frozen=True)
class Grid:
    """The settings of a sweep, and which jobs it has."""

    params: Mapping[str, Any]
    measure: str | None
    direction: str
    fresh: bool
    folder: str | None

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise UserError(f"sweep.direction={self.direction}: it is maximize or minimize")

    known_before: ClassVar[bool] = True  # all jobs, before the first of them runs

    def prepare(self, space: Space) -> int:
        """Refuse what cannot be swept; how many jobs there will be."""
        return len(space.combinations())

    def batches(self, space: Space, folder: Path) -> Batches:
        """Jobs that may run side by side; what they came to is sent back, None where a job failed."""
        yield space.combinations()
