"""Curves of a training's log, as PNG and SVG beside it; matplotlib is imported when they are drawn."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval_kd.data.files import atomic_file
from retrieval_kd.evaluation.plots import STYLE

NAME = "diagnostics"
PANEL = (5.6, 3.4)  # inches
COLUMNS = 2
LEAST_POINTS = 2
# Of Okabe and Ito's palette, which the colour-blind tell apart; styles of lines differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")

THRESHOLD = "train/filter_threshold"  # of several members each on its own scale

Curve = list[tuple[int, float]]
Panel = tuple[str, str, str]
# Title, what columns of the log begin with, and the label of the axis; a column stands in the first panel that fits.
PANELS = (
    ("Teacher's entropy", "diagnostics/teacher_entropy", "nats"),
    ("Teacher's scores by role", "diagnostics/teacher_score_", "mean score"),
    ("Student and teacher, list by list", "diagnostics/kendall_tau", "Kendall's tau"),
    ("Gradient at the representations", "diagnostics/gradient_share_", "share of the norms"),
    ("Pacing", "train/pacing_", ""),
    ("Threshold of the filter", THRESHOLD, "score"),
    ("Queries that the filter left no negative of their own", "train/filter_emptied", "in a batch"),
    ("Own negatives that the filter dropped", "train/filter_", "share"),
    ("Validation", "validation/", ""),
    ("Losses", "train/", ""),
)


def draw_training(log: Path, folder: Path) -> list[Path]:
    """Write ``diagnostics.png`` and ``.svg`` from a log; nothing where there is too little in it, or no matplotlib."""
    panels = panels_of(read_curves(log)) if log.exists() else {}
    if not panels or importlib.util.find_spec("matplotlib") is None:
        return []
    matplotlib: Any = importlib.import_module("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(panels) / COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PANEL[0] * COLUMNS, PANEL[1] * rows), layout="constrained")
        FigureCanvasAgg(figure)
        places = figure.subplots(rows, COLUMNS, squeeze=False).flatten().tolist()
        for place, ((title, prefix, label), curves) in zip(places, panels.items(), strict=False):
            _draw(place, title, label, {name.removeprefix(prefix): curve for name, curve in curves.items()})
        for place in places[len(panels) :]:
            place.remove()
        forms: dict[str, dict[str, Any]] = {"png": {"dpi": 110}, "svg": {"metadata": {"Date": None}}}
        for suffix, more in forms.items():
            with atomic_file(folder / f"{NAME}.{suffix}") as path:
                figure.savefig(path, format=suffix, **more)
    return [folder / f"{NAME}.{suffix}" for suffix in forms]


def read_curves(log: Path) -> dict[str, Curve]:
    """Each column of a log as steps and values, where it has any."""
    with log.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    header = rows.pop(0) if rows else []
    whole = [row for row in rows if len(row) == len(header)]
    steps = [int(row[header.index("step")]) for row in whole]
    curves: dict[str, Curve] = {}
    for number, name in enumerate(header if whole else ()):
        if "/" in name:
            found = zip(steps, (row[number] for row in whole), strict=True)
            curves[name] = [(step, value) for step, cell in found if cell and math.isfinite(value := float(cell))]
    return {name: curve for name, curve in curves.items() if len(curve) >= LEAST_POINTS}


def panels_of(curves: Mapping[str, Curve]) -> dict[Panel, dict[str, Curve]]:
    """What stands in which panel, in their order; those without a curve are left out."""
    found: dict[Panel, dict[str, Curve]] = {}
    for panel in PANELS:
        for name, curve in curves.items():
            if next((one for one in PANELS if name.startswith(one[1])), None) == panel:
                found.setdefault(_of_member(panel, name), {})[name] = curve
    return found


def _of_member(panel: Panel, name: str) -> Panel:
    """A panel of its own for each threshold."""
    title, prefix, label = panel
    member = name.removeprefix(f"{prefix}_") if prefix == THRESHOLD != name else ""
    return (f"{title}: {member}", name, label) if member else panel


def _draw(panel: Any, title: str, label: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    for number, (name, curve) in enumerate(curves.items()):
        steps, values = zip(*curve, strict=True)
        looks = {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number // len(COLOURS) % len(STYLES)]}
        panel.plot(
            steps, values, label=name.strip("_").replace("_", " ") or "found passages alone", linewidth=1.4, **looks
        )
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("step")
    panel.set_ylabel(label or (next(iter(curves)) if len(curves) == 1 else ""))
    panel.grid(color="#dddddd", linewidth=0.6)
    if len(curves) > 1:
        panel.legend(frameon=False, fontsize=8)
