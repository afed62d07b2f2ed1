"""Sweeps over every combination."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.sweep_space import Job, Space, list_values, some_value

Batches = Generator[list[Job], Mapping[int, float | None], None]


@dataclass(frozen=True)
class Grid:
    """The settings of a sweep, and which jobs it has."""

    params: Mapping[str, Any]
    measure: str | None
    direction: str
    fresh: bool
    folder: str | None

    known_before: ClassVar[bool] = True  # all jobs, before the first of them runs

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise UserError(f"sweep.direction={self.direction}: it is maximize or minimize")

    def prepare(self, space: Space) -> int:
        """Refuse what cannot be swept, before anything is written; how many jobs there will be."""
        count = len(space.combinations())
        compose_values(space)
        return count

    def batches(self, space: Space, folder: Path) -> Batches:
        """Jobs that may run side by side; what they came to is sent back, None where a job failed."""
        yield space.combinations()


def compose_values(space: Space) -> None:
    """Compose each value of each key once, so that one that is not there is told at once."""
    first = {key: some_value(override) for key, override in space.swept.items()}
    for key, override in space.swept.items():
        for value in list_values(override) if override.is_discrete_sweep() else [first[key]]:
            compose(space.job(0, {**first, key: value}).overrides)
