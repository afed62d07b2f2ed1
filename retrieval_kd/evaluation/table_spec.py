"""What a table.yaml says, checked: rows, columns, and what each row should give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from retrieval_kd.contracts import UserError


@dataclass(frozen=True)
class Expected:
    """A value that a row is to reproduce, and how closely."""

    value: float
    tolerance: str  # the name of a tolerance class of the table


@dataclass(frozen=True)
class RowSpec:
    """One row: an experiment with overrides, what it is compared with and what it should give."""

    name: str
    experiment: str
    overrides: tuple[str, ...] = ()
    control: str | None = None
    expected: Mapping[str, Mapping[str, Expected]] = field(default_factory=dict)  # by scale, by cell
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by cell: value and source
    scales: tuple[str, ...] = ()  # where the row is run; empty: at all of them


@dataclass(frozen=True)
class TableSpec:
    """A table.yaml, checked."""

    title: str
    columns: tuple[str, ...]  # cells: "<collection>/<split> <measure>"; the first is the one that is tested
    seeds: Mapping[str, tuple[int, ...]]  # by scale
    overrides: Mapping[str, tuple[str, ...]]  # by scale, for every row
    tolerances: Mapping[str, float]
    data: Mapping[str, Mapping[str, str]]  # by scale: the digest of each collection that expectations are about
    rows: tuple[RowSpec, ...]


def read_spec(content: Any, where: str) -> TableSpec:
    """Check a table.yaml's content; every mistake is told with the file's name and the key."""
    known = {"title", "columns", "seeds", "overrides", "tolerances", "data", "rows"}
    if not isinstance(content, dict) or not {"columns", "seeds", "rows"} <= content.keys() <= known:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{where}: a table has the keys {', '.join(sorted(known))}; found {found}")
    spec = TableSpec(
        title=str(content.get("title", "")),
        columns=tuple(_texts_of(content["columns"], f"{where}: columns")),
        seeds={scale: _seeds(seeds, f"{where}: seeds.{scale}") for scale, seeds in _items(content, "seeds", where)},
        overrides={
            scale: _texts_of(said, f"{where}: overrides.{scale}") for scale, said in _items(content, "overrides", where)
        },
        tolerances={
            name: _number(value, f"{where}: tolerances.{name}") for name, value in _items(content, "tolerances", where)
        },
        data=dict(_items(content, "data", where)),
        rows=(),
    )
    for column in spec.columns:
        if len(column.split()) != 2 or "/" not in column.split()[0]:
            raise UserError(f"{where}: columns: {column!r} is not '<collection>/<split> <measure>'")
    rows = tuple(_row(name, row, spec, where) for name, row in _items(content, "rows", where))
    names = {row.name for row in rows}
    for row in rows:
        if "," in row.name:
            raise UserError(f"{where}: rows.{row.name}: a name without a comma, by which only=ROW,ROW divides")
        if row.control is not None and (row.control not in names or row.control == row.name):
            wrong = f"there is no row {row.control!r}" if row.control != row.name else "a row is no control of itself"
            raise UserError(f"{where}: rows.{row.name}.control: {wrong}")
    if not (rows and spec.columns and spec.seeds):
        raise UserError(f"{where}: rows, columns and seeds must not be empty")
    return replace(spec, rows=rows)


def at_scale(spec: TableSpec, scale: str) -> TableSpec:
    """The table without the rows of other scales."""
    return replace(spec, rows=tuple(row for row in spec.rows if not row.scales or scale in row.scales))


def _items(content: Mapping[str, Any], key: str, where: str) -> list[tuple[str, Any]]:
    found = content.get(key) or {}
    if not isinstance(found, dict):
        raise UserError(f"{where}: {key}: a mapping expected, found {found!r}")
    return [(str(name), value) for name, value in found.items()]


def _texts_of(found: Any, where: str) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise UserError(f"{where}: a list expected, found {found!r}")
    return tuple(map(str, found))


def _seeds(found: Any, where: str) -> tuple[int, ...]:
    if not isinstance(found, list) or not found or any(type(seed) is not int for seed in found):
        raise UserError(f"{where}: a list of integers expected, found {found!r}")
    return tuple(found)


def _number(found: Any, where: str) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise UserError(f"{where}: a number expected, found {found!r}")
    return float(found)


def _row(name: str, row: Any, spec: TableSpec, where: str) -> RowSpec:
    if not isinstance(row, dict):
        raise UserError(f"{where}: rows.{name}: a mapping with the key experiment expected, found {row!r}")
    unknown = set(row) - {"experiment", "overrides", "control", "expected", "published", "scales"}
    if unknown or "experiment" not in row:
        wrong = f"unknown key {sorted(unknown)[0]!r}" if unknown else "it names no experiment"
        raise UserError(f"{where}: rows.{name}: {wrong}")
    place = f"{where}: rows.{name}"
    scales = _scales(row, spec, f"{place}.scales")
    expected = {}
    for scale, _ in _items(row, "expected", place):
        if scale not in spec.seeds:
            raise UserError(f"{place}.expected: no scale {scale!r}; this table has {', '.join(spec.seeds)}")
        expected[scale] = {
            cell: _expected(entry, cell, spec, f"{place}.expected.{scale}.{cell}")
            for cell, entry in _items(row["expected"], scale, f"{place}.expected")
        }
    published = dict(_items(row, "published", place))
    for cell, entry in published.items():
        if not isinstance(entry, dict) or "source" not in entry:
            raise UserError(f"{place}.published.{cell}: a published number needs its source")
    return RowSpec(
        name=name,
        experiment=str(row["experiment"]),
        overrides=_texts_of(row.get("overrides") or [], f"{place}.overrides"),
        control=row.get("control"),
        expected=expected,
        published=published,
        scales=scales,
    )


def _scales(row: Mapping[str, Any], spec: TableSpec, where: str) -> tuple[str, ...]:
    scales = tuple(_texts_of(row.get("scales") or [], where))
    for scale in scales:
        if scale not in spec.seeds:
            raise UserError(f"{where}: no scale {scale!r}; this table has {', '.join(spec.seeds)}")
    return scales


def _expected(entry: Any, cell: str, spec: TableSpec, where: str) -> Expected:
    if cell not in spec.columns:
        raise UserError(f"{where}: there is no such column; columns: {', '.join(spec.columns)}")
    if not isinstance(entry, dict) or entry.keys() != {"value", "tolerance"}:
        raise UserError(f"{where}: {{value, tolerance}} expected")
    if entry["tolerance"] not in spec.tolerances:
        raise UserError(f"{where}: no tolerance {entry['tolerance']!r}; there are: {', '.join(spec.tolerances)}")
    return Expected(_number(entry["value"], f"{where}.value"), str(entry["tolerance"]))
