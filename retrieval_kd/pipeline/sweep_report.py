"""What a sweep ends with: a table, JSON, and plots in its folder."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file
from retrieval_kd.evaluation.pareto import DEFAULT
from retrieval_kd.evaluation.sweeps import Ran, Swept, as_json, as_markdown, find_cell, gather
from retrieval_kd.pipeline.fronts import write_front
from retrieval_kd.pipeline.sweep_folder import Outcome, SweepFolder

log = logging.getLogger(__name__)

METRICS = "metrics.json"


def write_report(folder: SweepFolder, measure: str | None, direction: str) -> str | None:
    """The table as text, and ``sweep.md``, ``sweep.json`` and plots; None where no job left measures."""
    outcomes = folder.outcomes()
    ran = [job for job in map(_read, outcomes) if job is not None and job.values]
    if not ran:
        return None
    swept = gather(ran, measure, direction)
    failed = [one for one in outcomes if one.code]
    text = as_markdown(swept, f"sweep {folder.path.name}", _notes(failed))
    about = {
        "verb": folder.verb,
        "overrides": list(folder.command),
        "failed": [{"number": one.number, "overrides": list(one.overrides), "error": one.error} for one in failed],
    }
    written = {"sweep.md": text, "sweep.json": json.dumps(about | as_json(swept), indent=1) + "\n"}
    for name, content in written.items():
        with atomic_file(folder.path / name) as path:
            path.write_text(content, encoding="utf-8")
    _draw(folder, swept)
    _front(folder, swept)
    return text


def value_of(outcome: Outcome, measure: str | None) -> float | None:
    """What a search goes by; None where the job failed."""
    ran = _read(outcome)
    return None if ran is None or not ran.values else ran.values[find_cell(tuple(ran.values), measure)]


def _read(outcome: Outcome) -> Ran | None:
    if outcome.code or outcome.folder is None:
        return None
    path = Path(outcome.folder) / METRICS
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    values = {
        f"{label} {measure}": value
        for label, one in found.get("collections", {}).items()
        for measure, value in one["measures"].items()
    }
    said = dict(one.lstrip("+").split("=", 1) for one in outcome.overrides if "=" in one)
    return Ran(outcome.number, said, outcome.folder, values, found.get("cost", {}))


def _notes(failed: Sequence[Outcome]) -> list[str]:
    if not failed:
        return []
    jobs = "; ".join(f"job {one.number} ({' '.join(one.overrides)}): {one.error}" for one in failed)
    return ["", f"{len(failed)} failed, the same command runs them again: {jobs}"]


def _draw(folder: SweepFolder, swept: Swept) -> None:
    measured = sum(bool(setting.values(swept.measure)) for setting in swept.settings)
    if not swept.keys or measured < 2:
        return
    if importlib.util.find_spec("matplotlib") is None:
        log.info("no plot: matplotlib is not installed (pip install retrieval-kd[plots])")
        return
    from retrieval_kd.evaluation.parallel_coordinates import parallel_plot

    several = any(len(setting.jobs) > 1 for setting in swept.settings)
    note = "each line is a setting" + (", its seeds averaged" if several else "") + f"; {swept.measure}"
    parallel_plot(swept, f"sweep {folder.path.name}", note, folder.path)


def _front(folder: SweepFolder, swept: Swept) -> None:
    """Quality against cost, where the students have costs to compare."""
    places = [Path(job.folder) for setting in swept.settings for job in setting.jobs]
    costly = any(
        job.cost.get(cost) is not None for setting in swept.settings for job in setting.jobs for cost in DEFAULT
    )
    if not costly or len(set(places)) < 2:
        return
    try:
        write_front(places, swept.measure, place=folder.path)
    except UserError as error:
        log.info("no table of quality against cost: %s", error)
