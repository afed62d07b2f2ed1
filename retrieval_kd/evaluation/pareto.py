"""Quality against cost: which systems no other beats at both, as a table, as JSON, and from finished runs' folders."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml  # type: ignore[import-untyped]

from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation.per_query import read_per_query
from retrieval_kd.evaluation.significance import PerQuery, bootstrap_interval
from retrieval_kd.evaluation.tables import aligned


class Cost(NamedTuple):
    """What a key of ``metrics.json``'s ``cost`` is called; less of it is better."""

    title: str
    form: str  # of a value in a table
    timed: bool = False  # a property of the machine too


COSTS = {
    "flops": Cost("FLOPS (shared terms per pair)", "{:.2f}"),
    "latency_p50_ms": Cost("P50 latency, 1 client (ms)", "{:.2f}", timed=True),
    "latency_p99_ms": Cost("P99 latency, 1 client (ms)", "{:.2f}", timed=True),
    "latency_p99_ms_2_clients": Cost("P99 latency, 2 clients (ms)", "{:.2f}", timed=True),
    "passage_terms_mean": Cost("terms per passage", "{:.0f}"),
    "index_bytes": Cost("index (bytes)", "{:.3g}"),
}
DEFAULT = ("flops", "latency_p99_ms")
NO_DIFFERENCE = {"seed", "output_dir", "store"}  # keys by which runs that are one point may differ


@dataclass(frozen=True)
class Point:
    """One system."""

    name: str
    quality: float
    costs: Mapping[str, float]  # by key; a cost that it does not have keeps it out of that comparison
    interval: tuple[float, float] | None = None  # of the quality
    source: str = ""  # of a published number; such points are shown, but neither beat nor are beaten


@dataclass(frozen=True)
class Standing:
    """How a point stands among those measured here, at one cost."""

    point: Point
    beaten_by: tuple[str, ...]  # points of the front that are no worse at both and better at one; best quality first

    @property
    def on_front(self) -> bool:
        return not self.beaten_by


def standings(points: Sequence[Point], cost: str) -> list[Standing]:
    """Every measured point that has this cost, cheapest first; two that are alike in both are both on the front."""
    measured = sorted(
        (point for point in points if cost in point.costs and not point.source),
        key=lambda point: (point.costs[cost], -point.quality),
    )
    front: list[Point] = []
    found = []
    for point in measured:
        alike = (front[-1].quality, front[-1].costs[cost]) == (point.quality, point.costs[cost]) if front else False
        # All that is cheaper or as cheap came before, and the last of the front is the best of it.
        if not front or point.quality > front[-1].quality or alike:
            front.append(point)
            found.append(Standing(point, ()))
        else:
            better = [other.name for other in reversed(front) if other.quality >= point.quality]
            found.append(Standing(point, tuple(better)))
    return found


def lines(points: Sequence[Point], costs: Sequence[str], measure: str) -> tuple[list[str], list[list[str]]]:
    """Header and cells as text: each point with its quality, each cost, and who beats it there."""
    header = ["point", measure, "95 %"]
    for cost in costs:
        header += [COSTS[cost].title, "front"]
    stands = {cost: {one.point.name: one for one in standings(points, cost)} for cost in costs}
    cells = []
    for point in sorted(points, key=lambda one: (bool(one.source), one.costs.get(costs[0], np.inf), -one.quality)):
        interval = f"[{point.interval[0]:.3f}, {point.interval[1]:.3f}]" if point.interval else ""
        row = [point.name, f"{point.quality:.3f}", interval]
        for cost in costs:
            value = point.costs.get(cost)
            row.append("" if value is None else COSTS[cost].form.format(value))
            row.append("" if value is None else _stands(point, stands[cost].get(point.name)))
        cells.append(row)
    return header, cells


def _stands(point: Point, standing: Standing | None) -> str:
    if point.source:
        return f"published: {point.source}"
    if standing is None or standing.on_front:
        return "front"
    more = len(standing.beaten_by) - 1
    return f"beaten by {standing.beaten_by[0]}" + (f" and {more} more" if more else "")


def as_markdown(points: Sequence[Point], costs: Sequence[str], measure: str, notes: Sequence[str] = ()) -> str:
    """The table for people, aligned so that it reads well as plain text too."""
    header, cells = lines(points, costs, measure)
    text = aligned(header, cells)
    return "\n".join([*text, "", *notes, ""])


def as_json(points: Sequence[Point], costs: Sequence[str], measure: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "measure": measure,
        **about,
        "points": [
            {
                "name": point.name,
                "value": round(point.quality, 6),
                "interval": [round(edge, 6) for edge in point.interval] if point.interval else None,
                "cost": dict(point.costs),
                "source": point.source or None,
            }
            for point in points
        ],
        "costs": {
            cost: {
                "front": [one.point.name for one in standings(points, cost) if one.on_front],
                "beaten": {one.point.name: one.beaten_by for one in standings(points, cost) if not one.on_front},
            }
            for cost in costs
        },
    }


def measured_point(name: str, seeds: Sequence[PerQuery], costs: Mapping[str, float]) -> Point:
    """A point from values by query, averaged over seeds; the interval is over queries drawn with replacement."""
    if any(seed.keys() != seeds[0].keys() for seed in seeds):
        raise UserError(f"{name}: its seeds were not measured on the same queries")
    values = np.array([[seed[query] for query in seeds[0]] for seed in seeds]).mean(0)
    return Point(name, float(values.mean()), costs, bootstrap_interval(values))


class Runs(NamedTuple):
    """Finished runs as points, and what they have in common."""

    points: list[Point]
    cell: str  # "<collection>/<split> <measure>"
    queries: int
    hardware: dict[str, Any]


def read_runs(folders: Sequence[Path], cell: str | None = None, costs: Sequence[str] = DEFAULT) -> Runs:
    """The runs of a sweep as points, named by the overrides in which they differ; those of several seeds are one.

    Args:
        folders: of runs, or folders that have such below them.
        cell: ``<collection>/<split> <measure>``; by default the first collection and measure of the first run.
        costs: keys that a comparison is asked for.
    """
    runs = [_read(folder) for folder in _run_folders(folders)]
    cell = cell or _first_cell(runs[0])
    names = _names(runs)
    _check_distinct(names, runs)
    _check_hardware(runs, costs)
    seeds: dict[str, list[PerQuery]] = {}
    paid: dict[str, list[Mapping[str, Any]]] = {}
    for name, run in zip(names, runs, strict=True):
        seeds.setdefault(name, []).append(_values(run, cell))
        paid.setdefault(name, []).append(run.cost)
    first = next(iter(seeds))
    for name, found in seeds.items():
        if found[0].keys() != seeds[first][0].keys():
            raise UserError(f"{name} and {first} were not measured on the same queries of {cell.split()[0]}")
    points = [measured_point(name, found, _mean_costs(paid[name])) for name, found in seeds.items()]
    return Runs(points, cell, len(seeds[first][0]), runs[0].hardware)


class _Run(NamedTuple):
    folder: Path
    overrides: dict[str, str]
    collections: dict[str, Any]
    cost: dict[str, Any]
    hardware: dict[str, Any]


def _run_folders(folders: Sequence[Path]) -> list[Path]:
    found = []
    for folder in folders:
        below = [folder] if (folder / "metrics.json").is_file() else sorted(folder.glob("*/metrics.json"))
        if not below:
            raise UserError(f"{folder}: no run's folder, nor one with such in it (they hold metrics.json)")
        found += [path if path == folder else path.parent for path in below]
    return list(dict.fromkeys(found))


def _read(folder: Path) -> _Run:
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        manifest = json.loads((folder / "manifest.json").read_text())
        said = yaml.safe_load((folder / "resolved.yaml").read_text())["overrides"]
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: not the complete folder of a run ({error})") from error
    overrides = dict(one.lstrip("+~").split("=", 1) for one in said if "=" in one)
    return _Run(folder, overrides, metrics["collections"], metrics["cost"], manifest.get("hardware", {}))


def _first_cell(run: _Run) -> str:
    for label, found in run.collections.items():
        for measure in found["measures"]:
            return f"{label} {measure}"
    raise UserError(f"{run.folder}: nothing was measured there, its collections have no judgements")


def _values(run: _Run, cell: str) -> PerQuery:
    label, _, measure = cell.rpartition(" ")
    collection, _, split = label.rpartition("/")
    if not (collection and split and measure):
        raise UserError(f"measure={cell}: write COLLECTION/SPLIT MEASURE, such as '{_first_cell(run)}'")
    return read_per_query(run.folder / "per_query.parquet", collection, split, measure)


def _names(runs: Sequence[_Run]) -> list[str]:
    """Overrides that not all runs share, keys as short as they stay different; a folder's name where there are none."""
    keys = [key for key in dict.fromkeys(key for run in runs for key in run.overrides) if key not in NO_DIFFERENCE]
    keys = [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]
    short = {key: shortest(key, keys) for key in keys}
    names = [" ".join(f"{short[key]}={run.overrides[key]}" for key in keys if key in run.overrides) for run in runs]
    if not keys and len({run.overrides.get("seed") for run in runs}) == 1:
        return [run.folder.name for run in runs]
    return [name or "defaults" for name in names]


def shortest(key: str, keys: Sequence[str]) -> str:
    """A dotted key by as few of its last parts as no other of ``keys`` ends with."""
    parts = key.split(".")
    ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1), key)


def _mean_costs(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    known = [key for key in COSTS if all(isinstance(cost.get(key), int | float) for cost in seeds)]
    return {key: statistics.mean(cost[key] for cost in seeds) for key in known}


def _check_distinct(names: Sequence[str], runs: Sequence[_Run]) -> None:
    """Two runs of the same overrides, seed included, are no two seeds: code or data changed between them."""
    known: dict[tuple[str, str | None], Path] = {}
    for name, run in zip(names, runs, strict=True):
        first = known.setdefault((name, run.overrides.get("seed")), run.folder)
        if first != run.folder:
            raise UserError(f"{first} and {run.folder} are runs of the same overrides ({name}); name one of them")


def _check_hardware(runs: Sequence[_Run], costs: Sequence[str]) -> None:
    """Times of different machines are not compared."""
    timed = next((cost for cost in costs if COSTS[cost].timed), None)
    having = [run for run in runs if timed in run.cost]
    other = next((run for run in having if _timed_on(run) != _timed_on(having[0])), None)
    if timed and other:
        raise UserError(
            f"{timed} was measured on different machines: {having[0].folder} on {_timed_on(having[0])}, "
            f"{other.folder} on {_timed_on(other)}; measure it again on one, or ask for other costs"
        )


def _timed_on(run: _Run) -> Any:
    return run.cost.get("timed_on", run.hardware)
