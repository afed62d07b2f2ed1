"""What a report is about: the rows of a finished table, or runs side by side, each with the folders of its seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation import tables
from retrieval_kd.evaluation.significance import PerQuery
from retrieval_kd.evaluation.table_spec import RowSpec, TableSpec
from retrieval_kd.evaluation.tables import Shown
from retrieval_kd.pipeline.table import OUTPUTS, compare_rows, seed_folder, values_by_query

TABLE, METRICS, MANIFEST, RESOLVED = "table.json", "metrics.json", "manifest.json", "resolved.yaml"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Reported:
    """A row: its seeds' folders, and the row that it is compared with."""

    name: str
    folders: tuple[Path, ...]
    control: str | None
    cost: Mapping[str, Any]
    quality: float | None  # on the first column

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The configuration of the first seed."""
        found: dict[str, Any] = yaml.load((self.folders[0] / RESOLVED).read_text(encoding="utf-8"), LOADER)
        return found

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """How the first seed came about."""
        found: dict[str, Any] = json.loads((self.folders[0] / MANIFEST).read_text(encoding="utf-8"))
        return found

    def values(self, cell: str) -> PerQuery:
        """Values by query, averaged over seeds."""
        return values_by_query(self.folders, cell)


@dataclass(frozen=True)
class Report:
    """Everything that a page is made of."""

    shown: Shown
    cell: str  # the first column, by which rows are compared
    rows: tuple[Reported, ...]

    def row(self, name: str | None) -> Reported | None:
        """A row by its name."""
        return next((row for row in self.rows if row.name == name), None)


def read(folders: Sequence[Path]) -> Report:
    """A table's folder or name, or folders of runs, the first being what the others are compared with."""
    if len(folders) == 1:
        for folder in (folders[0], OUTPUTS / folders[0]):
            if (folder / TABLE).is_file():
                return _of_table(folder)
    for folder in folders:
        if not (folder / METRICS).is_file() or not (folder / MANIFEST).is_file():
            raise UserError(
                f"{folder}: neither a table's folder (it holds {TABLE}) nor a run's ({METRICS}, {MANIFEST})"
            )
    return _of_runs(folders)


def _of_table(folder: Path) -> Report:
    try:
        content = json.loads((folder / TABLE).read_text(encoding="utf-8"))
        shown = Shown(**content["shown"])
        cell, scale = content["columns"][0], content["scale"]
        rows = []
        for row in content["rows"]:
            found = row["cells"].get(cell)
            places = [seed_folder(folder, scale, row["name"], seed) for seed in content["seeds"] if found]
            control = found["against"]["row"] if found and found["against"] else None
            rows.append(Reported(row["name"], tuple(places), control, row["cost"], found["value"] if found else None))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / TABLE}: bring the table up to date first, another version wrote it") from error
    for place in (place for row in rows for place in row.folders):
        if not (place / MANIFEST).is_file():
            raise UserError(f"{place}: the results of a row are gone; bring the table up to date first")
    return Report(shown, cell, tuple(row for row in rows if row.folders))


def _of_runs(folders: Sequence[Path]) -> Report:
    names = _names(folders)
    found = [json.loads((folder / METRICS).read_text(encoding="utf-8")) for folder in folders]
    cells = [f"{label} {measure}" for label, one in found[0]["collections"].items() for measure in one["measures"]]
    if not cells:
        raise UserError(f"{folders[0]}: nothing was measured there, its collections have no judgements")
    spec = TableSpec(
        title=" and ".join(names) if len(names) < 4 else f"{len(names)} runs",
        columns=tuple(cells),
        seeds={"": (0,)},
        overrides={},
        tolerances={},
        data={},
        rows=tuple(RowSpec(name, "", control=names[0] if number else None) for number, name in enumerate(names)),
    )
    rows = [
        tables.Row(row, (0,), _measured(one, cells), one["cost"], other_data=False)
        for row, one in zip(spec.rows, found, strict=True)
    ]
    places = {name: [folder] for name, folder in zip(names, folders, strict=True)}
    compare_rows(spec, rows, places)
    shown = tables.shown(spec, "", rows, [])
    reported = [
        Reported(name, (folder,), row.spec.control, row.cost, row.mean(cells[0]) if row.values.get(cells[0]) else None)
        for name, folder, row in zip(names, folders, rows, strict=True)
    ]
    return Report(shown, cells[0], tuple(reported))


def _measured(found: Mapping[str, Any], cells: Sequence[str]) -> dict[str, list[float]]:
    values = {}
    for cell in cells:
        label, measure = cell.rsplit(" ", 1)
        measures = found["collections"].get(label, {}).get("measures", {})
        if measure in measures:
            values[cell] = [measures[measure]]
    return values


def _names(folders: Sequence[Path]) -> list[str]:
    """Folders' names, as long as it takes to tell them apart."""
    places = [folder.resolve() for folder in folders]
    for count in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-count:]) for place in places]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{max(map(str, places), key=list(map(str, places)).count)} is named twice")
