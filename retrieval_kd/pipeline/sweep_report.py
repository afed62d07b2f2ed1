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


def write_report(folder: SweepFolder, measure: str | None, direction: str, again: bool = True) -> str | None:
    """The table as text, and ``sweep.md``, ``sweep.json`` and plots; None where no job left measures.

    Args:
        folder: of the sweep.
        measure: that orders the table; one that no job has gives way to the first, and the table says so.
        direction: which of its values are good.
        again: Whether the same command runs failed jobs again.
    """
    outcomes = folder.outcomes()
    ran = [job for job in map(_read, outcomes) if job is not None and job.values]
    if not ran:
        return None
    absent = all(_cell(job, measure) is None for job in ran)
    swept = gather(ran, None if absent else measure, direction)
    failed = [one for one in outcomes if one.code]
    notes = [f"sweep.measure={measure}: no job has it."] if absent else []
    text = as_markdown(swept, f"sweep {folder.path.name}", [*notes, *_notes(failed, again)])
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
    """What a search goes by; None where the job failed, or has no such measure."""
    ran = _read(outcome)
    cell = None if ran is None else _cell(ran, measure)
    if ran is not None and cell is None and measure is not None:
        log.warning("job %d has no %s", outcome.number, measure)
    return None if ran is None or cell is None else ran.values[cell]


def _cell(ran: Ran, measure: str | None) -> str | None:
    try:
        return find_cell(tuple(ran.values), measure)
    except UserError:
        return None


def _read(outcome: Outcome) -> Ran | None:
    if outcome.code or outcome.folder is None:
        return None
    path = Path(outcome.folder) / METRICS
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    collections = found.get("collections", {})
    means = [label for label, one in collections.items() if "mean_of" in one]
    values = {
        f"{label} {measure}": value
        for label in dict.fromkeys([*means[-1:], *collections])  # the mean over all of them is what counts
        for measure, value in collections[label]["measures"].items()
    }
    said = dict(one.lstrip("+").split("=", 1) for one in outcome.overrides if "=" in one)
    return Ran(outcome.number, said, outcome.folder, values, found.get("cost", {}))


def _notes(failed: Sequence[Outcome], again: bool) -> list[str]:
    if not failed:
        return []
    jobs = "; ".join(f"job {one.number} ({' '.join(one.overrides)}): {one.error}" for one in failed)
    then = "the same command runs them again" if again else "a search does not run them again, more sweep.trials go on"
    return ["", f"{len(failed)} failed, {then}: {jobs}"]


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
