"""Bring a table up to date: run the rows that are missing, test them against their controls, write all forms."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file
from retrieval_kd.evaluation import tables
from retrieval_kd.evaluation.per_query import read_per_query
from retrieval_kd.evaluation.significance import PerQuery, corrected, paired
from retrieval_kd.evaluation.table_spec import RowSpec, TableSpec, at_scale, read_spec
from retrieval_kd.pipeline.beforehand import Work, planned
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.conf_tree import did_you_mean
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.provenance import reconstructions
from retrieval_kd.pipeline.rounds import with_rounds
from retrieval_kd.pipeline.run import MANIFEST, METRICS, holds, lay_out

log = logging.getLogger(__name__)

OUTPUTS = Path("outputs/tables")


@dataclass(frozen=True)
class Request:
    """What is asked of a table."""

    name: str  # a folder of experiments/, or a path to a folder or table.yaml
    scale: str = "quick"
    only: tuple[str, ...] = ()
    dry_run: bool = False
    overrides: tuple[str, ...] = ()


def find(name: str) -> Path:
    """The table.yaml that a name stands for."""
    root = Path(__file__).parents[2] / "experiments"
    places = [
        Path(name),
        Path(name) / "table.yaml",
        Path("experiments") / name / "table.yaml",
        root / name / "table.yaml",
    ]
    for place in places:
        if place.is_file():
            return place
    known = sorted({path.parent.name for base in (Path("experiments"), root) for path in base.glob("*/table.yaml")})
    raise UserError(f"no table {name!r}{did_you_mean(name, known)}; there are: {', '.join(known) or 'none here'}")


def bring(request: Request, say: Callable[[str], None]) -> Path:
    """Run what is missing, ``say`` each row as it is ready, and write the table; returns its folder.

    With ``only``, the other rows stay in the table as far as they are done already.
    """
    path = find(request.name)
    spec = at_scale(read_table(path), request.scale)
    wanted = _wanted(spec, request)
    folder = OUTPUTS / (path.resolve().parent.name)
    # All of them before the first one runs: a mistake in the last row must not wait for hours.
    configs = {
        row.name: [_config(spec, request, row, seed, path) for seed in _seeds(spec, request)] for row in spec.rows
    }
    for row in wanted if not request.dry_run else ():
        places = [seed_folder(folder, request.scale, row.name, seed) for seed in _seeds(spec, request)]
        _check_parts(f"{path}: rows.{row.name}", configs[row.name], places)
    rows = []
    for row in spec.rows:
        if row not in wanted and (request.dry_run or not _done(request, row, configs[row.name], folder, spec)):
            continue
        if request.dry_run:
            say(_dry(row, configs[row.name]))
            continue
        rows.append(_measured(spec, request, row, configs[row.name], folder))
        say(_line(_of_what_was_measured(spec, rows), request.scale, rows[-1]))
    if not request.dry_run:
        spec = _of_what_was_measured(spec, rows)
        _compare(spec, request.scale, rows, folder)
        _write(spec, request, rows, folder)
    return folder


def read_table(path: Path) -> TableSpec:
    """A table.yaml, with every mistake told by its place."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_NoRepetition)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split()).replace('in "<unicode string>", ', "")
        raise UserError(f"{path}: {told}") from error
    return read_spec(content, str(path))


class _NoRepetition(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key that stands twice is a mistake: two rows of one name would hide each other."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for place, (key, (key_node, _)) in enumerate(zip(keys, node.value, strict=True)):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
        return super().construct_mapping(node, deep)


def _of_what_was_measured(spec: TableSpec, rows: Sequence[tables.Row]) -> TableSpec:
    """Without the columns of collections that the command chose others for."""
    measured = {cell.rsplit(" ", 1)[0] for row in rows for cell in row.values}
    columns = tuple(cell for cell in spec.columns if cell.rsplit(" ", 1)[0] in measured)
    return replace(spec, columns=columns or spec.columns)


def _wanted(spec: TableSpec, request: Request) -> list[RowSpec]:
    if request.scale not in spec.seeds:
        raise UserError(f"scale={request.scale}: this table has {', '.join(spec.seeds)}")
    names = [row.name for row in spec.rows]
    for name in request.only:
        if name not in names:
            raise UserError(f"only={name}: there is no such row{did_you_mean(name, names)}; rows: {', '.join(names)}")
    return [row for row in spec.rows if not request.only or row.name in request.only]


def _seeds(spec: TableSpec, request: Request) -> tuple[int, ...]:
    return spec.seeds[request.scale]


def _config(spec: TableSpec, request: Request, row: RowSpec, seed: int, path: Path) -> DictConfig:
    said = [*spec.overrides.get("all", ()), *spec.overrides.get(request.scale, ()), *row.overrides]
    overrides = [f"scale={request.scale}", f"experiment={row.experiment}", *said, f"seed={seed}", *request.overrides]
    try:
        cfg = compose(overrides)
        check(cfg)
    except UserError as error:
        raise UserError(f"{path}: rows.{row.name}: {error}") from error
    return cfg


def _check_parts(where: str, configs: Sequence[DictConfig], places: Sequence[Path]) -> None:
    """Build what is cheap to build of a row that is still to be run."""
    try:
        for cfg, place in zip(configs, places, strict=True):
            plan = Plan(cfg)
            results = planned(plan)
            if not holds(place, results):
                Work(plan, results).check_parts()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _dry(row: RowSpec, configs: Sequence[DictConfig]) -> str:
    plans = map(Plan, configs)
    results = [result for plan in plans for result in with_rounds(plan, planned(plan))]
    steps = {step.key: step for result in results for step in result.walk()}
    missing = [step.name for step in steps.values() if not step.done]
    return f"{row.name}: " + (f"to do: {', '.join(missing)}" if missing else "done")


def _measured(
    spec: TableSpec, request: Request, row: RowSpec, configs: Sequence[DictConfig], folder: Path
) -> tables.Row:
    """One row over its seeds; a seed whose results are there is not touched."""
    seeds = _seeds(spec, request)
    values: dict[str, list[float]] = {cell: [] for cell in spec.columns}
    cost: dict[str, Any] = {}
    other, reconstructed = False, {}
    for seed, cfg in zip(seeds, configs, strict=True):
        plan = Plan(cfg)
        place = seed_folder(folder, request.scale, row.name, seed)
        _bring_seed(plan, place)
        found = json.loads((place / METRICS).read_text())
        for cell in spec.columns:
            label, measure = cell.rsplit(" ", 1)
            if measure in found["collections"].get(label, {}).get("measures", {}):
                values[cell].append(found["collections"][label]["measures"][measure])
        cost = cost or found["cost"]
        digests = spec.data.get(request.scale, {})
        reconstructed |= reconstructions(plan)
        other |= any(digests.get(entry.label, entry.key) != entry.key for entry in plan.entries.evaluate)
    found_values = {cell: found for cell, found in values.items() if found}
    return tables.Row(row, seeds, found_values, cost, other, reconstructed)


def seed_folder(folder: Path, scale: str, row: str, seed: int) -> Path:
    """Where a row's results lie."""
    return folder / scale / re.sub(r"[^A-Za-z0-9.+-]+", "_", row).strip("_") / f"seed-{seed}"


def _done(request: Request, row: RowSpec, configs: Sequence[DictConfig], folder: Path, spec: TableSpec) -> bool:
    places = [seed_folder(folder, request.scale, row.name, seed) for seed in _seeds(spec, request)]
    return all(holds(place, planned(Plan(cfg))) for place, cfg in zip(places, configs, strict=True))


def _bring_seed(plan: Plan, place: Path) -> None:
    results = plan.results()
    if not holds(place, results):  # or those of a row that has changed since, which stay until the new ones are there
        lay_out(place, plan, results)


def _line(spec: TableSpec, scale: str, row: tables.Row) -> str:
    """A row as it is ready, before it can be compared."""
    header, cells = tables.lines(spec, scale, [row])
    count = len(spec.columns)
    measured = "  ".join(
        f"{name} {value}" for name, value in zip(header[1 : count + 1], cells[0][1 : count + 1], strict=True)
    )
    return f"{row.spec.name:28}  {measured}  {cells[0][count + 2]}".rstrip()


def _compare(spec: TableSpec, scale: str, rows: Sequence[tables.Row], folder: Path) -> None:
    """Each row against its control, per column, corrected over the column."""
    by_name = {row.spec.name: row for row in rows}
    for cell in spec.columns:
        pairs = [
            (row, by_name[row.spec.control])
            for row in rows
            if row.spec.control in by_name and cell in row.values and cell in by_name[row.spec.control].values
        ]
        family = [
            paired(
                _per_query(folder, scale, row, cell),
                _per_query(folder, scale, control, cell),
                (row.spec.name, control.spec.name),
            )
            for row, control in pairs
        ]
        for (row, _), comparison in zip(pairs, corrected(family), strict=True):
            row.against[cell] = comparison


def _per_query(folder: Path, scale: str, row: tables.Row, cell: str) -> PerQuery:
    """Values by query, averaged over seeds."""
    label, measure = cell.rsplit(" ", 1)
    collection, split = label.rsplit("/", 1)
    found = [
        read_per_query(
            seed_folder(folder, scale, row.spec.name, seed) / "per_query.parquet", collection, split, measure
        )
        for seed in row.seeds
    ]
    return {query: sum(one[query] for one in found) / len(found) for query in found[0]}


def _write(spec: TableSpec, request: Request, rows: Sequence[tables.Row], folder: Path) -> None:
    first = seed_folder(folder, request.scale, rows[0].spec.name, rows[0].seeds[0])
    metrics = json.loads((first / METRICS).read_text())
    queries = {label: found["queries"] for label, found in metrics["collections"].items()}
    manifest = json.loads((first / MANIFEST).read_text())
    about = {
        "queries": queries,
        "data": manifest["inputs"],
        "hardware": manifest["hardware"],
        "versions": manifest["versions"],
        "commit": manifest["commit"],
    }
    notes = [
        f"Scale {request.scale}; "
        + ", ".join(f"{label}: {count} queries" for label, count in queries.items())
        + f"; seeds {', '.join(map(str, spec.seeds[request.scale]))}; {os.cpu_count()} cores, {platform.machine()},"
        f" {manifest['hardware']['accelerator']}; commit {(manifest['commit'] or 'unknown')[:12]}.",
        f"Compared on {spec.columns[0]}: paired randomisation test, Holm correction over the table's comparisons,"
        " bootstrap interval of the difference.",
        *tables.reconstruction_notes(rows),
    ]
    texts = {
        "table.json": json.dumps(tables.as_json(spec, request.scale, rows, about), indent=1) + "\n",
        "table.md": tables.as_markdown(spec, request.scale, rows, notes),
        "table.html": tables.as_html(spec, request.scale, rows, notes),
    }
    for name, text in texts.items():
        with atomic_file(folder / name) as path:
            path.write_text(text, encoding="utf-8")
