"""Bring a table up to date: run the rows that are missing, test them against their controls, write all forms."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file
from retrieval_kd.evaluation import tables
from retrieval_kd.evaluation.per_query import read_per_query
from retrieval_kd.evaluation.significance import LEVEL, POWER, PerQuery, corrected, paired
from retrieval_kd.evaluation.table_forms import as_html, as_latex, as_markdown
from retrieval_kd.evaluation.table_spec import RowSpec, TableSpec, at_scale, row_folder
from retrieval_kd.pipeline.beforehand import Work, planned
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.conf_tree import did_you_mean
from retrieval_kd.pipeline.dry_run import TERAFLOPS, DryRun
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.provenance import reconstructions
from retrieval_kd.pipeline.run import MANIFEST, METRICS, holds, lay_out
from retrieval_kd.pipeline.table_files import find, read_table

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
    teraflops: float = TERAFLOPS  # what a dry run takes an accelerator to sustain


def bring(request: Request, say: Callable[[str], None]) -> Path:
    """Run what is missing, ``say`` each row as it is ready, and write the table; returns its folder.

    With ``only``, the other rows stay in the table as far as they are done already.
    """
    path = find(request.name)
    _check_asked(request)
    spec = at_scale(read_table(path), request.scale)
    wanted = _wanted(spec, request)
    folder = OUTPUTS / (path.resolve().parent.name)
    # All of them before the first one runs: a mistake in the last row must not wait for hours.
    configs = {
        row.name: [_config(spec, request, row, seed, path) for seed in _seeds(spec, request)] for row in spec.rows
    }
    if request.dry_run:
        _tell(spec, request, wanted, configs, say)
        return folder
    for row in wanted:
        places = [seed_folder(folder, request.scale, row.name, seed) for seed in _seeds(spec, request)]
        _check_parts(f"{path}: rows.{row.name}", configs[row.name], places)
    rows = []
    for row in spec.rows:
        if row not in wanted and not _done(request, row, configs[row.name], folder, spec):
            continue
        rows.append(_measured(spec, request, row, configs[row.name], folder))
        say(_line(_of_what_was_measured(spec, rows), request.scale, rows[-1]))
    spec = _of_what_was_measured(spec, rows)
    folders = {
        row.spec.name: [seed_folder(folder, request.scale, row.spec.name, seed) for seed in row.seeds] for row in rows
    }
    compare_rows(spec, rows, folders)
    _write(spec, request, rows, folder)
    return folder


def _tell(
    spec: TableSpec,
    request: Request,
    wanted: Sequence[RowSpec],
    configs: Mapping[str, Sequence[DictConfig]],
    say: Callable[[str], None],
) -> None:
    """What would run and what it would cost."""
    dry = DryRun(request.teraflops)
    for row in wanted:
        for line in dry.row(row.name, configs[row.name]):
            say(line)
    for line in dry.together():
        say(line)
    if hours := spec.hours.get(request.scale):
        say(f"all of it took {hours:g} hours on {spec.hardware.get(request.scale, 'hardware that is not told')}")


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


def _check_asked(request: Request) -> None:
    """Refuse what the table says itself."""
    for said in request.overrides:
        if said.partition("=")[0] in ("seed", "scale", "experiment", "output_dir"):
            raise UserError(f"{said}: a table says this of each row itself; its seeds are in table.yaml")


def _overrides(spec: TableSpec, request: Request, row: RowSpec, seed: int) -> list[str]:
    """What makes one seed of a row."""
    said = [*spec.overrides.get("all", ()), *spec.overrides.get(request.scale, ()), *row.overrides]
    return [f"scale={request.scale}", f"experiment={row.experiment}", *said, f"seed={seed}", *request.overrides]


def _config(spec: TableSpec, request: Request, row: RowSpec, seed: int, path: Path) -> DictConfig:
    try:
        cfg = compose(_overrides(spec, request, row, seed))
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


def _measured(
    spec: TableSpec, request: Request, row: RowSpec, configs: Sequence[DictConfig], folder: Path
) -> tables.Row:
    """One row over its seeds; a seed whose results are there is not touched."""
    seeds = _seeds(spec, request)
    values: dict[str, list[float]] = {cell: [] for cell in spec.columns}
    cost: dict[str, Any] = {}
    other, reconstructed = False, dict[str, str]()
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
    commands = tuple(
        shlex.join(["retrieval-kd", "train", *_overrides(spec, request, row, seed), f"output_dir={place}"])
        for seed, place in zip(seeds, (seed_folder(folder, request.scale, row.name, one) for one in seeds), strict=True)
    )
    found_values = {cell: found for cell, found in values.items() if found}
    return tables.Row(row, seeds, found_values, cost, other, reconstructed, commands=commands)


def seed_folder(folder: Path, scale: str, row: str, seed: int) -> Path:
    """Where a row's results lie."""
    return folder / scale / row_folder(row) / f"seed-{seed}"


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
    return f"{row.spec.name:28}  {measured}  {cells[0][header.index('status')]}".rstrip()


def compare_rows(spec: TableSpec, rows: Sequence[tables.Row], places: Mapping[str, Sequence[Path]]) -> None:
    """Each row against its control, per column, corrected over the column; ``places`` holds the folders of seeds."""
    by_name = {row.spec.name: row for row in rows}
    for cell in spec.columns:
        pairs = [
            (row, by_name[row.spec.control])
            for row in rows
            if row.spec.control in by_name and cell in row.values and cell in by_name[row.spec.control].values
        ]
        names = dict.fromkeys(one.spec.name for pair in pairs for one in pair)
        values = {name: values_by_query(places[name], cell) for name in names}
        family = [
            paired(values[row.spec.name], values[control.spec.name], (row.spec.name, control.spec.name))
            for row, control in pairs
        ]
        for (row, _), comparison in zip(pairs, corrected(family), strict=True):
            row.against[cell] = comparison


def values_by_query(folders: Sequence[Path], cell: str) -> PerQuery:
    """Values by query, averaged over seeds."""
    label, measure = cell.rsplit(" ", 1)
    collection, split = label.rsplit("/", 1)
    found = [read_per_query(folder / "per_query.parquet", collection, split, measure) for folder in folders]
    return {query: sum(one[query] for one in found) / len(found) for query in found[0]}


def _write(spec: TableSpec, request: Request, rows: Sequence[tables.Row], folder: Path) -> None:
    first = seed_folder(folder, request.scale, rows[0].spec.name, rows[0].seeds[0])
    metrics = json.loads((first / METRICS).read_text())
    queries = {label: found["queries"] for label, found in metrics["collections"].items()}
    manifest = json.loads((first / MANIFEST).read_text())
    about = {
        "seeds": list(spec.seeds[request.scale]),
        "queries": queries,
        "data": manifest["inputs"],
        "hardware": manifest["hardware"],
        "versions": manifest["versions"],
        "commit": manifest["commit"],
    }
    notes = [*_notes(spec, request.scale, rows, queries, manifest), *tables.reconstruction_notes(rows)]
    shown = tables.shown(spec, request.scale, rows, notes)
    content = tables.as_json(spec, request.scale, rows, about) | {"shown": asdict(shown)}
    texts = {
        "table.json": json.dumps(content, indent=1) + "\n",
        "table.md": as_markdown(shown),
        "table.tex": as_latex(shown),
        "table.html": as_html(shown),
    }
    for name, text in texts.items():
        with atomic_file(folder / name) as path:
            path.write_text(text, encoding="utf-8")


def _notes(
    spec: TableSpec, scale: str, rows: Sequence[tables.Row], queries: Mapping[str, int], manifest: Mapping[str, Any]
) -> list[str]:
    seeds = spec.seeds[scale]
    notes = [
        f"Scale {scale}; "
        + ", ".join(f"{label}: {count} queries" for label, count in queries.items())
        + f"; seeds {', '.join(map(str, seeds))}; {os.cpu_count()} cores, {platform.machine()},"
        f" {manifest['hardware']['accelerator']}; commit {(manifest['commit'] or 'unknown')[:12]}.",
        f"Compared on {spec.columns[0]}: paired randomisation test, Holm correction over the table's comparisons,"
        " bootstrap interval of the difference."
        + (" Each query's value is the mean over seeds; ± is the deviation between seeds." if len(seeds) > 1 else ""),
    ]
    least = [row.against[spec.columns[0]].detectable for row in rows if spec.columns[0] in row.against]
    if least:
        between = f"{min(least):.3f}" if len(least) == 1 else f"{min(least):.3f} to {max(least):.3f}, by row"
        notes.append(
            f"The smallest true difference that these queries would show (power {POWER:.0%}, level {LEVEL:g} corrected"
            f" for {len(least)} comparison{'s' * (len(least) > 1)}): {between}."
        )
    if scale in spec.hardware or scale in spec.hours:
        hours = f" in {spec.hours[scale]:g} hours" if scale in spec.hours else ""
        notes.append(f"The expected values were measured on {spec.hardware.get(scale, 'other hardware')}{hours}.")
    return notes
