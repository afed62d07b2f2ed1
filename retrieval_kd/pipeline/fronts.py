"""Finished runs as a Pareto table and plot."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file
from retrieval_kd.evaluation.pareto import COSTS, DEFAULT, Runs, as_json, as_markdown, read_runs

log = logging.getLogger(__name__)

NOTE = "No measured point beats one of the front at both; intervals are over queries, of each point alone."


def write_front(
    folders: Sequence[Path], measure: str | None = None, costs: Sequence[str] = (), place: Path | None = None
) -> str:
    """The table as text; in ``place`` also as files, with the plot where matplotlib is installed.

    Args:
        folders: of runs, or folders that hold such.
        measure: ``<collection>/<split> <measure>``; the first of the first run where it is not said.
        costs: keys of ``metrics.json``'s cost; by default FLOPS and P99 as far as the runs have them.
        place: where files go.
    """
    for cost in costs:
        if cost not in COSTS:
            raise UserError(f"costs={cost}: there are {', '.join(COSTS)}")
    runs = read_runs(folders, measure, costs or DEFAULT)
    shown = [cost for cost in costs or DEFAULT if any(cost in point.costs for point in runs.points)]
    if not shown:
        raise UserError(f"none of the {len(runs.points)} points has {' or '.join(costs or DEFAULT)}")
    notes = [f"{runs.cell.rsplit(' ', 1)[0]}, {runs.queries:,} queries; {hardware_in_words(runs)}.", NOTE]
    text = as_markdown(runs.points, shown, runs.cell.rsplit(" ", 1)[1], notes)
    if place is not None:
        _write(place, runs, shown, text)
    return text


def hardware_in_words(runs: Runs) -> str:
    """One line of it."""
    known = runs.hardware
    processor = known.get("processor") or known.get("machine", "")
    return ", ".join(str(part) for part in (processor, f"{known.get('cores')} cores", known.get("accelerator")) if part)


def _write(place: Path, runs: Runs, costs: Sequence[str], text: str) -> None:
    about = {"queries": runs.queries, "hardware": runs.hardware}
    content = {
        "pareto.md": text,
        "pareto.json": json.dumps(as_json(runs.points, costs, runs.cell, about), indent=1) + "\n",
    }
    for name, written in content.items():
        with atomic_file(place / name) as path:
            path.write_text(written, encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        log.info("no plot: matplotlib is not installed (pip install retrieval-kd[plots])")
        return
    from retrieval_kd.evaluation.plots import About, pareto_plot

    about_plot = About("Quality against cost", runs.cell, runs.queries, hardware_in_words(runs))
    pareto_plot(runs.points, costs, about_plot, place)
