"""Tables as data: what a row should give, whether it did, and the table as JSON and as texts for every other form."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from retrieval_kd.evaluation.significance import LEVEL, POWER, Comparison
from retrieval_kd.evaluation.table_spec import NOT_FOUND, Expected, Published, RowSpec, TableSpec


class Status(StrEnum):
    """How a measured value stands to the expected one."""

    OK = "OK"  # within the tolerance
    OKISH = "OKish"  # above it, below by no more than twice the tolerance, or a deviation that is known
    FAIL = "FAIL"
    OTHER_DATA = "other data"  # the collection is not the one that the expectation is about
    NONE = ""  # nothing is expected


@dataclass
class Row:
    """One row as measured."""

    spec: RowSpec
    seeds: tuple[int, ...]
    values: dict[str, list[float]]  # by cell, one per seed
    cost: dict[str, Any]
    other_data: bool
    reconstructions: Mapping[str, str] = field(default_factory=dict)  # parts that are none of a paper's: what they say
    against: dict[str, Comparison] = field(default_factory=dict)
    commands: tuple[str, ...] = ()  # what makes each seed

    def mean(self, cell: str) -> float:
        """Over the seeds."""
        return statistics.mean(self.values[cell])

    def deviation(self, cell: str) -> float | None:
        """Standard deviation between the seeds; None of one."""
        return statistics.stdev(self.values[cell]) if len(self.values[cell]) > 1 else None


def status(spec: TableSpec, scale: str, row: Row, cell: str) -> Status:
    """OK, OKish or FAIL by the cell's tolerance; another collection is never a failure."""
    expected = row.spec.expected.get(scale, {}).get(cell)
    if expected is None or not row.values.get(cell):
        return Status.NONE
    if row.other_data:
        return Status.OTHER_DATA
    tolerance = spec.tolerances[expected.tolerance]
    difference = round(row.mean(cell) - expected.value, 9)  # .52 - .5 is not above .02
    if abs(difference) <= tolerance:
        return Status.OK
    known = spec.exceptions[expected.exception].tolerance if expected.exception else 0.0
    return Status.OKISH if difference > 0 or -difference <= max(2 * tolerance, known) else Status.FAIL


def as_json(spec: TableSpec, scale: str, rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """The table for programs."""
    return {
        "title": spec.title,
        "scale": scale,
        "columns": list(spec.columns),
        **about,
        "statistics": {"correction": "Holm", "level": LEVEL, "power": POWER},
        "exceptions": {name: {"tolerance": one.tolerance, "why": one.why} for name, one in spec.exceptions.items()},
        "published": [
            {"system": system, "cell": cell, "value": one.value, "source": one.source}
            for system, cell, one in published(spec, rows)
        ],
        "rows": [
            {
                "name": row.spec.name,
                "experiment": row.spec.experiment,
                "commands": list(row.commands),
                **({"reconstructions": dict(row.reconstructions)} if row.reconstructions else {}),
                "cells": {cell: _cell(spec, scale, row, cell) for cell in spec.columns if cell in row.values},
                "cost": row.cost,
            }
            for row in rows
        ],
    }


def published(spec: TableSpec, rows: Sequence[Row]) -> list[tuple[str, str, Published]]:
    """Every published number: by system (rows, then those of others) and cell."""
    systems = {row.spec.name: row.spec.published for row in rows} | dict(spec.references)
    return [(system, cell, one) for system, cells in systems.items() for cell, one in cells.items()]


def _cell(spec: TableSpec, scale: str, row: Row, cell: str) -> dict[str, Any]:
    expected = row.spec.expected.get(scale, {}).get(cell)
    found = row.spec.published.get(cell)
    deviation = row.deviation(cell)
    comparison = row.against.get(cell)
    against = None
    if comparison is not None:
        against = {
            "row": row.spec.control,
            "difference": round(comparison.difference, 6),
            "interval": [round(edge, 6) for edge in comparison.interval],
            "p": comparison.p_corrected,
            "detectable": round(comparison.detectable, 6),
            "effect_size": round(comparison.effect_size, 4) if math.isfinite(comparison.effect_size) else None,
            "wins_ties_losses": [comparison.wins, comparison.ties, comparison.losses],
        }
    return {
        "value": round(row.mean(cell), 6),
        "seeds": row.values[cell],
        "deviation": None if deviation is None else round(deviation, 6),
        "published": {"value": found.value, "source": found.source} if found else None,
        "expected": _expected(expected) if expected else None,
        "status": str(status(spec, scale, row, cell)),
        "against": against,
    }


def _expected(expected: Expected) -> dict[str, Any]:
    exception = {"exception": expected.exception} if expected.exception else {}
    return {"value": expected.value, "tolerance": expected.tolerance, **exception}


COSTS = {
    "train_seconds": ("train s", "{:.0f}"),
    "encode_passages_per_second": ("encode /s", "{:.0f}"),
    "index_bytes": ("index MB", "{}"),
    "flops": ("FLOPS", "{:.2f}"),
    "passage_terms_mean": ("terms", "{:.0f}"),
    "query_terms_mean": ("of queries", "{:.1f}"),
    "recall_of_exact": ("of exact", "{:.3f}"),
    "latency_p50_ms": ("P50 ms", "{:.2f}"),
    "latency_p99_ms": ("P99 ms", "{:.2f}"),
    "queries_per_second": ("queries /s", "{:.0f}"),
    "queries_per_second_2_clients": ("by 2 clients", "{:.0f}"),
}
MARK = "\N{DAGGER}"  # behind the name of a row some parts of which are reconstructions
ALWAYS = ("train_seconds", "encode_passages_per_second", "index_bytes")  # others are shown where a row has them


def lines(spec: TableSpec, scale: str, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells as text, for every form that people read."""
    columns: dict[str, list[str]] = {
        "row": [f"{row.spec.name} {MARK}" if row.reconstructions else row.spec.name for row in rows]
    }
    for name, cell in zip(_short(spec.columns), spec.columns, strict=True):
        columns[name] = [_value(row, cell) for row in rows]
    main = spec.columns[0]
    if any(main in row.spec.published for row in rows):
        columns["published"] = [_published(row.spec.published.get(main)) for row in rows]
    columns["expected"] = [_of_expected(row.spec.expected.get(scale, {}).get(main)) for row in rows]
    columns["status"] = [_worst([status(spec, scale, row, cell) for cell in spec.columns]) for row in rows]
    compared = [_compared(row, main) for row in rows]
    for place, name in enumerate(("against", "difference [95 %]", "p (Holm)")):
        columns[name] = [one[place] for one in compared]
    for key, (name, _) in COSTS.items():
        if key in ALWAYS or any(key in row.cost for row in rows):
            columns[name] = [_cost(row.cost, key) for row in rows]
    return list(columns), [list(cells) for cells in zip(*columns.values(), strict=True)]


def reconstruction_notes(rows: Sequence[Row]) -> list[str]:
    """What the mark behind the names of rows means, where there is one."""
    parts = sorted({part for row in rows for part in row.reconstructions})
    return [f"{MARK} with reconstructions of what could not be read: {', '.join(parts)}."] if parts else []


def _short(columns: Sequence[str]) -> list[str]:
    """Measures alone where all columns are of one collection."""
    collections = {column.rsplit(" ", 1)[0] for column in columns}
    return [column.rsplit(" ", 1)[1] for column in columns] if len(collections) == 1 else list(columns)


def _value(row: Row, cell: str) -> str:
    if not row.values.get(cell):
        return ""
    deviation = row.deviation(cell)
    return f"{row.mean(cell):.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


def _published(found: Published | None) -> str:
    if found is None:
        return ""
    return NOT_FOUND if found.value is None else f"{found.value:.3f}"


def _of_expected(expected: Expected | None) -> str:
    return f"{expected.value:.3f}" if expected else ""


def _compared(row: Row, cell: str) -> tuple[str, str, str]:
    """With what, the difference with its interval, p."""
    comparison = row.against.get(cell)
    if comparison is None:
        return "", "", ""
    low, high = comparison.interval
    p = comparison.p_corrected
    difference = f"{comparison.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
    return str(row.spec.control), difference, "< .001" if p < 0.001 else f"{p:.3f}"


def _cost(cost: Mapping[str, Any], key: str) -> str:
    if cost.get(key) is None:
        return ""
    return f"{cost[key] / 1e6:.1f}" if key == "index_bytes" else COSTS[key][1].format(cost[key])


def _worst(found: Sequence[Status]) -> str:
    for one in (Status.FAIL, Status.OTHER_DATA, Status.OKISH, Status.OK):
        if one in found:
            return str(one)
    return ""


def aligned(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a markdown table that reads well as plain text too."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [header, rule, *cells]
    ]


@dataclass(frozen=True)
class Shown:
    """A table's texts, the same in every form for people."""

    title: str
    header: list[str]
    cells: list[list[str]]
    notes: list[str]
    commands: list[list[str]]  # of each row: what makes each of its seeds
    published: list[list[str]]  # system, cell, value, source


def shown(spec: TableSpec, scale: str, rows: Sequence[Row], notes: Sequence[str]) -> Shown:
    """What markdown, LaTeX and HTML say."""
    header, cells = lines(spec, scale, rows)
    commands = [list(row.commands) for row in rows]
    told = [[system, cell, _number(one), one.source] for system, cell, one in published(spec, rows)]
    return Shown(spec.title, header, cells, [*notes, *_deviations(spec, scale, rows)], commands, told)


def _number(one: Published) -> str:
    return NOT_FOUND if one.value is None else f"{one.value:g}"


def _deviations(spec: TableSpec, scale: str, rows: Sequence[Row]) -> list[str]:
    """A line for each known deviation that rows lean on."""
    leaning: dict[str, list[str]] = {}
    for row in rows:
        for cell, expected in row.spec.expected.get(scale, {}).items():
            okish = status(spec, scale, row, cell) is Status.OKISH
            if (
                expected.exception
                and okish
                and expected.value - row.mean(cell) > 2 * spec.tolerances[expected.tolerance]
            ):
                leaning.setdefault(expected.exception, []).append(f"{row.spec.name}, {cell}")
    return [
        f"Known deviation {name} ({'; '.join(where)}): {spec.exceptions[name].why}" for name, where in leaning.items()
    ]
