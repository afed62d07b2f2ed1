"""Tables as data: what a row should give, whether it did, and the table as markdown, JSON and HTML."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from retrieval_kd.evaluation.significance import Comparison
from retrieval_kd.evaluation.table_spec import RowSpec, TableSpec


class Status(StrEnum):
    """How a measured value stands to the expected one."""

    OK = "OK"  # within the tolerance
    OKISH = "OKish"  # above it, or below by no more than twice the tolerance
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


def status(spec: TableSpec, scale: str, row: Row, cell: str) -> Status:
    """OK, OKish or FAIL by the cell's tolerance; another collection is never a failure."""
    expected = row.spec.expected.get(scale, {}).get(cell)
    if expected is None or not row.values.get(cell):
        return Status.NONE
    if row.other_data:
        return Status.OTHER_DATA
    tolerance = spec.tolerances[expected.tolerance]
    difference = round(statistics.mean(row.values[cell]) - expected.value, 9)  # .52 - .5 is not above .02
    if abs(difference) <= tolerance:
        return Status.OK
    return Status.OKISH if difference > 0 or -difference <= 2 * tolerance else Status.FAIL


def as_json(spec: TableSpec, scale: str, rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """The table for programs."""
    return {
        "title": spec.title,
        "scale": scale,
        "columns": list(spec.columns),
        **about,
        "rows": [
            {
                "name": row.spec.name,
                "experiment": row.spec.experiment,
                **({"reconstructions": dict(row.reconstructions)} if row.reconstructions else {}),
                "cells": {cell: _cell(spec, scale, row, cell) for cell in spec.columns if cell in row.values},
                "cost": row.cost,
            }
            for row in rows
        ],
    }


def _cell(spec: TableSpec, scale: str, row: Row, cell: str) -> dict[str, Any]:
    expected = row.spec.expected.get(scale, {}).get(cell)
    published = row.spec.published.get(cell)
    comparison = row.against.get(cell)
    against = None
    if comparison is not None:
        against = {
            "row": row.spec.control,
            "difference": round(comparison.difference, 6),
            "interval": [round(edge, 6) for edge in comparison.interval],
            "p": comparison.p_corrected,
            "effect_size": round(comparison.effect_size, 4),
            "wins_ties_losses": [comparison.wins, comparison.ties, comparison.losses],
        }
    return {
        "value": round(statistics.mean(row.values[cell]), 6),
        "seeds": row.values[cell],
        "published": {"value": published.get("value"), "source": published["source"]} if published else None,
        "expected": {"value": expected.value, "tolerance": expected.tolerance} if expected else None,
        "status": str(status(spec, scale, row, cell)),
        "against": against,
    }


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
    short = _short(spec.columns)
    header = ["row", *short, "expected", "status", "against", "difference [95 %]", "p (Holm)"]
    shown = [key for key in COSTS if key in ALWAYS or any(key in row.cost for row in rows)]
    header += [COSTS[key][0] for key in shown]
    return header, [[*_texts(spec, scale, row), *(_cost(row.cost, key) for key in shown)] for row in rows]


def reconstruction_notes(rows: Sequence[Row]) -> list[str]:
    """What the mark behind the names of rows means, where there is one."""
    parts = sorted({part for row in rows for part in row.reconstructions})
    return [f"{MARK} with reconstructions of what could not be read: {', '.join(parts)}."] if parts else []


def _short(columns: Sequence[str]) -> list[str]:
    """Measures alone where all columns are of one collection."""
    collections = {column.rsplit(" ", 1)[0] for column in columns}
    return [column.rsplit(" ", 1)[1] for column in columns] if len(collections) == 1 else list(columns)


def _texts(spec: TableSpec, scale: str, row: Row) -> list[str]:
    main = spec.columns[0]
    expected = row.spec.expected.get(scale, {}).get(main)
    comparison = row.against.get(main)
    values = [_value(row.values.get(cell, [])) for cell in spec.columns]
    compared = ["", "", ""]
    if comparison is not None:
        low, high = comparison.interval
        p = comparison.p_corrected
        difference = f"{comparison.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        compared = [str(row.spec.control), difference, "< .001" if p < 0.001 else f"{p:.3f}"]
    worst = _worst([status(spec, scale, row, cell) for cell in spec.columns])
    name = f"{row.spec.name} {MARK}" if row.reconstructions else row.spec.name
    return [name, *values, f"{expected.value:.3f}" if expected else "", worst, *compared]


def _value(seeds: Sequence[float]) -> str:
    if not seeds:
        return ""
    mean = f"{statistics.mean(seeds):.3f}"
    return mean if len(seeds) == 1 else f"{mean} ± {statistics.stdev(seeds):.3f}"


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
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [header, rule, *cells]
    ]


def as_markdown(spec: TableSpec, scale: str, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The table for people, aligned so that it reads well as plain text too."""
    header, cells = lines(spec, scale, rows)
    text = aligned(header, cells)
    return "\n".join([f"# {spec.title}" if spec.title else "", "", *text, "", *notes, ""]).lstrip()


def as_html(spec: TableSpec, scale: str, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The table as a page of its own."""
    header, cells = lines(spec, scale, rows)

    def line(tag: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

    body = "\n".join(line("td", values) for values in cells)
    about = "\n".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return PAGE.format(title=html.escape(spec.title), header=line("th", header), body=body, notes=about)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }}
th {{ border-bottom: 2px solid #444; }} th:first-child, td:first-child {{ text-align: left; }}
p {{ max-width: 60rem; }}
</style></head>
<body><h1>{title}</h1>
<table>
<thead>{header}</thead>
<tbody>
{body}
</tbody></table>
{notes}
</body></html>
"""
