"""What a table.yaml says, checked: rows, columns, and what each row should give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from retrieval_kd.contracts import UserError

NOT_FOUND = "not found"  # in place of a published number: looked for where it should stand, and it does not
KEYS = ("title", "columns", "seeds", "overrides", "tolerances", "data", "rows")
MORE_KEYS = ("exceptions", "references", "hardware", "hours")
ROW_KEYS = {"experiment", "overrides", "control", "expected", "published", "scales"}


@dataclass(frozen=True)
class Expected:
    """A value that a row is to reproduce, and how closely."""

    value: float
    tolerance: str  # the name of a tolerance class of the table
    exception: str | None = None  # the name of a known deviation, which turns FAIL into OKish


@dataclass(frozen=True)
class Published:
    """A number of a paper."""

    value: float | None  # None: it is not where it should stand
    source: str


@dataclass(frozen=True)
class KnownDeviation:
    """A known deviation from what is expected."""

    tolerance: float
    why: str


@dataclass(frozen=True)
class RowSpec:
    """One row: an experiment with overrides, what it is compared with and what it should give."""

    name: str
    experiment: str
    overrides: tuple[str, ...] = ()
    control: str | None = None
    expected: Mapping[str, Mapping[str, Expected]] = field(default_factory=dict)  # by scale, by cell
    published: Mapping[str, Published] = field(default_factory=dict)  # by cell, of any collection
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
    exceptions: Mapping[str, KnownDeviation] = field(default_factory=dict)
    references: Mapping[str, Mapping[str, Published]] = field(default_factory=dict)  # others' systems: by name, by cell
    hardware: Mapping[str, str] = field(default_factory=dict)  # by scale: what the expectations were measured on
    hours: Mapping[str, float] = field(default_factory=dict)  # by scale: how long the whole took there


def read_spec(content: Any, where: str) -> TableSpec:
    """Check a table.yaml's content; every mistake is told with the file's name and the key."""
    known = {*KEYS, *MORE_KEYS}
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
        exceptions={
            name: _deviation(value, f"{where}: exceptions.{name}")
            for name, value in _items(content, "exceptions", where)
        },
        references={
            name: _published(content["references"], name, f"{where}: references")
            for name, _ in _items(content, "references", where)
        },
        hardware={scale: str(text) for scale, text in _items(content, "hardware", where)},
        hours={scale: _number(value, f"{where}: hours.{scale}") for scale, value in _items(content, "hours", where)},
    )
    for column in spec.columns:
        if len(column.split()) != 2 or "/" not in column.split()[0]:
            raise UserError(f"{where}: columns: {column!r} is not '<collection>/<split> <measure>'")
    for key, scale in [*(("hardware", scale) for scale in spec.hardware), *(("hours", scale) for scale in spec.hours)]:
        if scale not in spec.seeds:
            raise UserError(f"{where}: {key}: no scale {scale!r}; this table has {', '.join(spec.seeds)}")
    spec = replace(spec, rows=tuple(_row(name, row, spec, where) for name, row in _items(content, "rows", where)))
    _check_rows(spec, where)
    if not (spec.rows and spec.columns and spec.seeds):
        raise UserError(f"{where}: rows, columns and seeds must not be empty")
    return spec


def _check_rows(spec: TableSpec, where: str) -> None:
    """Refuse names that mean two rows, or none."""
    names = {row.name for row in spec.rows}
    folders: dict[str, str] = {}
    for row in spec.rows:
        if "," in row.name:
            raise UserError(f"{where}: rows.{row.name}: a name without a comma, by which only=ROW,ROW divides")
        if row.name in spec.references:
            raise UserError(f"{where}: references.{row.name}: there is a row of this name; call one of them otherwise")
        if (other := folders.setdefault(row_folder(row.name), row.name)) != row.name:
            raise UserError(f"{where}: rows.{row.name}: its folder would be that of {other!r}; call it otherwise")
        if row.control is not None and (row.control not in names or row.control == row.name):
            wrong = f"there is no row {row.control!r}" if row.control != row.name else "a row is no control of itself"
            raise UserError(f"{where}: rows.{row.name}.control: {wrong}")


def row_folder(name: str) -> str:
    """A row's name as that of a folder."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name).strip("_")


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
    unknown = set(row) - ROW_KEYS
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
    return RowSpec(
        name=name,
        experiment=str(row["experiment"]),
        overrides=_texts_of(row.get("overrides") or [], f"{place}.overrides"),
        control=row.get("control"),
        expected=expected,
        published=_published(row, "published", place),
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
    if isinstance(entry, dict) and "tolerance" in entry and "value" not in entry:
        raise UserError(f"{where}: a tolerance without an expected value; {{value, tolerance}} expected")
    if not isinstance(entry, dict) or entry.keys() - {"exception"} != {"value", "tolerance"}:
        raise UserError(f"{where}: {{value, tolerance}} expected")
    if entry["tolerance"] not in spec.tolerances:
        raise UserError(f"{where}: no tolerance {entry['tolerance']!r}; there are: {', '.join(spec.tolerances)}")
    exception = entry.get("exception")
    if exception is not None and exception not in spec.exceptions:
        known = ", ".join(spec.exceptions) or "none in this table"
        raise UserError(f"{where}: no exception {exception!r}; there are: {known}")
    return Expected(_number(entry["value"], f"{where}.value"), str(entry["tolerance"]), exception)


def _deviation(entry: Any, where: str) -> KnownDeviation:
    if not isinstance(entry, dict) or entry.keys() != {"tolerance", "why"} or not entry["why"]:
        raise UserError(f"{where}: {{tolerance, why}} expected, found {entry!r}")
    return KnownDeviation(_number(entry["tolerance"], f"{where}.tolerance"), str(entry["why"]))


def _published(content: Mapping[str, Any], key: str, where: str) -> dict[str, Published]:
    """Published numbers by cell; ``not found`` says that one was looked for."""
    found = {}
    for cell, entry in _items(content, key, where):
        place = f"{where}.{key}.{cell}"
        if len(cell.split()) != 2 or "/" not in cell.split()[0]:
            raise UserError(f"{place}: not '<collection>/<split> <measure>'")
        if entry == NOT_FOUND:
            found[cell] = Published(None, NOT_FOUND)
            continue
        if not isinstance(entry, dict) or not entry.get("source"):
            raise UserError(f"{place}: a published number needs its source: {{value, source}}, or: {NOT_FOUND}")
        value = entry.get("value")
        found[cell] = Published(None if value is None else _number(value, f"{place}.value"), str(entry["source"]))
    return found
