"""What the jobs of a sweep came to, those that differ by their seed alone as one line: a table, and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation.pareto import NO_DIFFERENCE, shortest
from retrieval_kd.evaluation.tables import COSTS, aligned


@dataclass(frozen=True)
class Ran:
    """A job that was finished."""

    number: int
    said: Mapping[str, str]  # its overrides by key
    folder: str
    values: Mapping[str, float]  # by cell, "<collection>/<split> <measure>"
    cost: Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """Jobs that differ by their seed alone."""

    said: Mapping[str, str]  # by swept key
    jobs: tuple[Ran, ...]

    def values(self, cell: str) -> list[float]:
        """One for each seed."""
        return [job.values[cell] for job in self.jobs if cell in job.values]

    def mean(self, cell: str) -> float:
        """Over seeds; NaN where it was not measured."""
        values = self.values(cell)
        return statistics.mean(values) if values else float("nan")

    def cost(self, key: str) -> float | None:
        """Mean over seeds, where all of them have it."""
        found = [job.cost.get(key) for job in self.jobs]
        known = [float(value) for value in found if isinstance(value, int | float)]
        return statistics.mean(known) if len(known) == len(found) else None


@dataclass(frozen=True)
class Swept:
    """A sweep's finished jobs by what differs between them, the best first."""

    keys: tuple[str, ...]
    settings: tuple[Setting, ...]
    cells: tuple[str, ...]
    measure: str  # the cell that orders them

    @property
    def titles(self) -> list[str]:
        """The keys, as short as they stay different."""
        return [shortest(key, self.keys) for key in self.keys]


def gather(jobs: Sequence[Ran], measure: str | None, direction: str) -> Swept:
    """Jobs as settings, ordered by ``measure``: a cell, or a measure of the first collection; None: the first cell."""
    keys = [key for key in dict.fromkeys(key for job in jobs for key in job.said) if key not in NO_DIFFERENCE]
    keys = [key for key in keys if len({job.said.get(key) for job in jobs}) > 1]
    grouped: dict[tuple[str, ...], dict[str, Ran]] = {}
    for job in jobs:  # a search draws a setting again, which is no other seed: its results are the same folder
        grouped.setdefault(tuple(job.said.get(key, "") for key in keys), {}).setdefault(job.folder, job)
    settings = [
        Setting(dict(zip(keys, values, strict=True)), tuple(together.values())) for values, together in grouped.items()
    ]
    cells = tuple(dict.fromkeys(cell for job in jobs for cell in job.values))
    chosen = find_cell(cells, measure)
    sign = -1 if direction == "maximize" else 1
    known = [setting for setting in settings if setting.values(chosen)]
    unknown = [setting for setting in settings if not setting.values(chosen)]
    known.sort(key=lambda setting: sign * setting.mean(chosen))
    return Swept(tuple(keys), (*known, *unknown), cells, chosen)


def find_cell(cells: Sequence[str], measure: str | None) -> str:
    """The cell that is meant."""
    if not cells:
        raise UserError("nothing was measured: the collections have no judgements")
    if measure is None:
        return cells[0]
    for cell in cells:
        if measure in (cell, cell.rsplit(" ", 1)[1]):
            return cell
    raise UserError(f"sweep.measure={measure}: it was not measured; there are {', '.join(cells)}")


def as_markdown(swept: Swept, title: str, notes: Sequence[str]) -> str:
    """The table for people."""
    labels = list(dict.fromkeys(cell.rsplit(" ", 1)[0] for cell in swept.cells))
    shown = [swept.measure, *(cell for cell in swept.cells if cell != swept.measure)]
    costs = [key for key in COSTS if any(setting.cost(key) is not None for setting in swept.settings)]
    header = [*swept.titles, "seeds"]
    header += [cell.rsplit(" ", 1)[1] if len(labels) == 1 else cell for cell in shown]
    header += [COSTS[key][0] for key in costs]
    rows = [
        [
            *setting.said.values(),
            str(len(setting.jobs)),
            *(_value(setting.values(cell)) for cell in shown),
            *(_cost(key, setting.cost(key)) for key in costs),
        ]
        for setting in swept.settings
    ]
    about = f"{labels[0]}; " if len(labels) == 1 else ""
    first = f"{about}best {swept.measure.rsplit(' ', 1)[1]} first; ± is the deviation over seeds."
    return "\n".join([f"# {title}", "", *aligned(header, rows), "", first, *notes, ""])


def as_json(swept: Swept) -> dict[str, Any]:
    """The same for programs, each job with its folder."""
    return {
        "measure": swept.measure,
        "keys": list(swept.keys),
        "settings": [
            {
                "values": dict(setting.said),
                "cells": {cell: _cell(setting.values(cell)) for cell in swept.cells if setting.values(cell)},
                "cost": {key: setting.cost(key) for key in COSTS if setting.cost(key) is not None},
                "jobs": [_job(job) for job in setting.jobs],
            }
            for setting in swept.settings
        ],
    }


def _job(job: Ran) -> dict[str, Any]:
    return {"number": job.number, "seed": job.said.get("seed"), "folder": job.folder}


def _cell(seeds: Sequence[float]) -> dict[str, Any]:
    deviation = round(statistics.stdev(seeds), 6) if len(seeds) > 1 else None
    return {"value": round(statistics.mean(seeds), 6), "deviation": deviation, "seeds": list(seeds)}


def _value(seeds: Sequence[float]) -> str:
    if not seeds:
        return ""
    mean = f"{statistics.mean(seeds):.4f}"
    return mean if len(seeds) == 1 else f"{mean} ± {statistics.stdev(seeds):.4f}"


def _cost(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 1e6:.1f}" if key == "index_bytes" else COSTS[key][1].format(value)
