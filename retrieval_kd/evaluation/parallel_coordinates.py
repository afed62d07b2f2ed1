"""A sweep as parallel coordinates, PNG and SVG: an axis for each swept key and one for the measure."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file
from retrieval_kd.evaluation.plots import LEAST_RATIO_FOR_LOG, STYLE
from retrieval_kd.evaluation.sweeps import Swept

NAME = "parallel"
AXIS_WIDTH, HEIGHT = 2.2, 4.6  # inches
COLOURS = "viridis"  # which the colour-blind tell apart, and print keeps in order
MOST_TICKS = 8
APART = 0.04  # of two ticks at least, for they are words
FAN = 0.05  # between the outermost lines through one value


@dataclass(frozen=True)
class Axis:
    """Where values stand, from 0 to 1, and what is written beside some of them."""

    title: str
    places: tuple[float, ...]  # of the settings
    ticks: tuple[tuple[float, str], ...]


def axes_of(swept: Swept) -> list[Axis]:
    """An axis for each key, and the measure's as the last."""
    settings = [setting for setting in swept.settings if setting.values(swept.measure)]
    named = zip(swept.keys, swept.titles, strict=True)
    found = [key_axis(title, [setting.said[key] for setting in settings]) for key, title in named]
    values = [setting.mean(swept.measure) for setting in settings]
    return [*found, _scale(swept.measure.rsplit(" ", 1)[1], values, logarithmic=False, form="{:.4g}")]


def key_axis(title: str, values: Sequence[str]) -> Axis:
    """Numbers by their size, by that of their logarithms where they lie far apart; words side by side."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return _words(title, values)
    if not all(map(math.isfinite, numbers)):
        return _words(title, values)
    logarithmic = min(numbers) > 0 and max(numbers) / min(numbers) >= LEAST_RATIO_FOR_LOG
    return _scale(title, numbers, logarithmic, "{:g}")


def _words(title: str, values: Sequence[str]) -> Axis:
    known = list(dict.fromkeys(values))
    places = {word: place / (len(known) - 1) if len(known) > 1 else 0.5 for place, word in enumerate(known)}
    ticks = [(place, fill(word, 22)) for word, place in places.items()]
    return Axis(title, tuple(places[value] for value in values), tuple(ticks))


def _scale(title: str, numbers: Sequence[float], logarithmic: bool, form: str) -> Axis:
    moved = [math.log(number) if logarithmic else number for number in numbers]
    low, high = min(moved), max(moved)
    places = [(value - low) / (high - low) if high > low else 0.5 for value in moved]
    marked = dict(sorted(zip(numbers, places, strict=True)))
    if len(marked) > MOST_TICKS:  # those that are there, evenly chosen
        kept = [round(step * (len(marked) - 1) / (MOST_TICKS - 1)) for step in range(MOST_TICKS)]
        marked = dict(list(marked.items())[place] for place in kept)
    ticks: list[tuple[float, str]] = []
    for number, place in marked.items():
        if not ticks or place - ticks[-1][0] >= APART:
            ticks.append((place, form.format(number)))
    return Axis(title, tuple(places), tuple(ticks))


def parallel_plot(swept: Swept, title: str, note: str, folder: Path) -> list[Path]:
    """Write ``parallel.png`` and ``.svg``."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
    except ImportError as error:
        raise UserError("plots need matplotlib: pip install retrieval-kd[plots]") from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes = axes_of(swept)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(6.0, AXIS_WIDTH * len(axes)), HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        panel = figure.subplots()
        _draw(panel, axes, matplotlib.colormaps[COLOURS])
        figure.suptitle(title, fontsize=11)
        figure.supxlabel(fill(note, 40 * len(axes)), fontsize=8)
        forms: dict[str, dict[str, Any]] = {"png": {"dpi": 140}, "svg": {"metadata": {"Date": None}}}
        for suffix, more in forms.items():
            with atomic_file(folder / f"{NAME}.{suffix}") as path:
                figure.savefig(path, format=suffix, **more)
    return [folder / f"{NAME}.{suffix}" for suffix in forms]


def _fanned(places: Sequence[float], order: Sequence[int]) -> list[float]:
    """Lines through one value side by side, the best on top, so that each can be followed."""
    heights = list(places)
    for place in set(places):
        rows = [row for row in order if places[row] == place]
        for number, row in enumerate(rows):
            heights[row] = place + FAN * ((number + 0.5) / len(rows) - 0.5)
    return heights


def _draw(panel: Any, axes: Sequence[Axis], colours: Any) -> None:
    shades = axes[-1].places
    order = sorted(range(len(shades)), key=lambda row: shades[row])
    heights = [*(_fanned(axis.places, order) for axis in axes[:-1]), axes[-1].places]
    for row in order:  # high values last, on top
        line = [places[row] for places in heights]
        panel.plot(range(len(axes)), line, color=colours(0.95 * shades[row]), linewidth=1.6, alpha=0.8)
    for place, axis in enumerate(axes):
        panel.axvline(place, color="#555555", linewidth=0.8, zorder=1)
        for height, text in axis.ticks:
            panel.annotate(
                text,
                (place, height),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            )
    panel.set_xticks(range(len(axes)), [axis.title for axis in axes])
    panel.set_yticks([])
    panel.set_xlim(-0.1, len(axes) - 0.6)
    panel.spines["left"].set_visible(False)
    panel.spines["bottom"].set_visible(False)
    panel.tick_params(axis="x", length=0)
