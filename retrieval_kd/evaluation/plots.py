"""Plots of quality against cost, as PNG and SVG; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file
from retrieval_kd.evaluation.pareto import COSTS, Point, standings

# Of Okabe and Ito's palette, which the colour-blind tell apart; shapes differ too.
FRONT, BEATEN, PUBLISHED = "#0072B2", "#707070", "#D55E00"
PANEL = (6.8, 5.4)  # inches
LABEL_SIZE = 8  # typographic points
BESIDE = 12  # a label that is further away is led to by a line
LEAST_RATIO_FOR_LOG = 5
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "retrieval_kd",  # equal plots are equal files
}


@dataclass(frozen=True)
class About:
    """What a plot says of itself."""

    title: str
    cell: str  # "<collection>/<split> <measure>"
    queries: int
    hardware: str
    note: str = ""


def pareto_plot(points: Sequence[Point], costs: Sequence[str], about: About, folder: Path) -> list[Path]:
    """Write ``pareto.png`` and ``pareto.svg``: a panel for each cost, the front as a line, intervals as bars."""
    matplotlib = _library()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [cost for cost in costs if any(cost in point.costs for point in points)]
    if not shown:
        raise UserError(f"none of the {len(points)} points has a cost to plot: {', '.join(costs)}")
    written = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PANEL[0] * len(shown), PANEL[1] + 1), layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for panel, cost in zip(panels, shown, strict=True):
            _draw(panel, [point for point in points if cost in point.costs], cost)
        panels[0].set_ylabel(about.cell.rsplit(" ", 1)[1])
        bars = "bars: 95 % interval over queries, of each point alone" if any(one.interval for one in points) else ""
        _describe(figure, panels, about, [bars, about.note, _left_out(points, shown)])
        canvas.draw()  # only now is it known where everything lies, and there it stays
        figure.set_layout_engine("none")
        for panel, cost in zip(panels, shown, strict=True):
            _label(panel, [point for point in points if cost in point.costs], cost, canvas.get_renderer())
        forms: dict[str, dict[str, Any]] = {"png": {"dpi": 160}, "svg": {"metadata": {"Date": None}}}
        for suffix, more in forms.items():
            with atomic_file(folder / f"pareto.{suffix}") as path:
                figure.savefig(path, format=suffix, **more)
            written.append(folder / f"pareto.{suffix}")
    return written


def _library() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("plots need matplotlib: pip install retrieval-kd[plots]") from error
    return matplotlib


def _draw(panel: Any, points: Sequence[Point], cost: str) -> None:
    """Markers, bars and the best quality that is to be had for a cost."""
    from matplotlib.ticker import LogLocator

    values = [point.costs[cost] for point in points]
    if min(values) > 0 and max(values) / min(values) >= LEAST_RATIO_FOR_LOG:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
    stands = standings(points, cost)
    front = [one.point for one in stands if one.on_front]
    beaten = [one.point for one in stands if not one.on_front]
    published = [point for point in points if point.source]
    steps = [point.costs[cost] for point in front], [point.quality for point in front]
    panel.step(*steps, where="post", color=FRONT, linewidth=1.5, alpha=0.6, zorder=2)
    kinds: list[tuple[str, Sequence[Point], dict[str, Any]]] = [
        ("front: no measured point beats it", front, {"fmt": "o", "color": FRONT, "markersize": 8}),
        ("beaten by a point of the front", beaten, {"fmt": "s", "color": BEATEN, "markersize": 6}),
        ("published", published, {"fmt": "D", "color": PUBLISHED, "markersize": 7, "markerfacecolor": "white"}),
    ]
    for name, some, looks in kinds:
        if some:
            panel.errorbar(
                [point.costs[cost] for point in some],
                [point.quality for point in some],
                yerr=_bars(some),
                label=name,
                elinewidth=0.8,
                capsize=2,
                zorder=3,
                **looks,
            )
    panel.margins(x=0.12, y=0.08)
    panel.set_xlabel(COSTS[cost].title)
    panel.grid(color="#dddddd", linewidth=0.6, zorder=0)


def _bars(points: Sequence[Point]) -> list[list[float]]:
    """Lengths of the bars below and above."""
    below = [point.quality - point.interval[0] if point.interval else 0.0 for point in points]
    above = [point.interval[1] - point.quality if point.interval else 0.0 for point in points]
    return [[max(0.0, length) for length in below], [max(0.0, length) for length in above]]


def _describe(figure: Any, panels: Sequence[Any], about: About, notes: Sequence[str]) -> None:
    where = about.cell.rsplit(" ", 1)[0]
    said = [about.title, f"{where}, {about.queries:,} queries; {about.hardware}"]
    figure.suptitle("\n".join(fill(line, 75 * len(panels)) for line in said), fontsize=11)
    handles: Mapping[str, Any] = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        title=fill("; ".join(filter(None, notes)), 105 * len(panels)),
        title_fontsize=8,
    )


def _left_out(points: Sequence[Point], costs: Sequence[str]) -> str:
    absent = {cost: [point.name for point in points if cost not in point.costs] for cost in costs}
    return "; ".join(
        f"without {COSTS[cost].title.split(' (')[0]}: {', '.join(names)}" for cost, names in absent.items() if names
    )


# Labels: each is put where it covers least of what is there already; a thin line leads to one that is not beside.


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def shared(self, other: Box) -> float:
        """Area of the overlap."""
        across = min(self.right, other.right) - max(self.left, other.left)
        up = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, across) * max(0.0, up)


def _label(panel: Any, points: Sequence[Point], cost: str, renderer: Any) -> None:
    pixels = panel.figure.dpi / 72  # of a typographic point
    frame = Box(*panel.get_window_extent(renderer).extents)
    taken = [box for point in points for box in _covered(panel, point, cost, pixels)]
    taken += _line_boxes(panel, points, cost)
    for point in sorted(points, key=lambda point: (bool(point.source), -point.quality)):
        at = point.costs[cost], point.quality
        size = _size(panel, point.name, renderer)
        x, y = panel.transData.transform(at)
        boxes = {}
        for right, up in _places(size[0] / pixels, size[1] / pixels):
            left, bottom = x + right * pixels, y + up * pixels
            boxes[right, up] = Box(left, bottom, left + size[0], bottom + size[1])
        place = min(boxes, key=lambda place: _badness(boxes[place], taken, frame) + _distance(place, size[0] / pixels))
        taken.append(boxes[place])
        looks = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 5}
        panel.annotate(
            point.name,
            at,
            xytext=place,
            textcoords="offset points",
            fontsize=LABEL_SIZE,
            color=PUBLISHED if point.source else "black",
            bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            arrowprops=looks if _distance(place, size[0] / pixels) > BESIDE else None,
            annotation_clip=False,
            zorder=5,
        )


def _size(panel: Any, text: str, renderer: Any) -> tuple[float, float]:
    drawn = panel.text(0.5, 0.5, text, transform=panel.transAxes, fontsize=LABEL_SIZE)
    extent = drawn.get_window_extent(renderer)
    drawn.remove()
    return extent.width, extent.height


def _covered(panel: Any, point: Point, cost: str, pixels: float) -> Iterator[Box]:
    """A point's marker and its bar."""
    x, y = panel.transData.transform((point.costs[cost], point.quality))
    reach = 5 * pixels
    yield Box(x - reach, y - reach, x + reach, y + reach)
    for edge in point.interval or ():
        end = panel.transData.transform((point.costs[cost], edge))[1]
        yield Box(x - 1, min(y, end), x + 1, max(y, end))


def _line_boxes(panel: Any, points: Sequence[Point], cost: str) -> Iterator[Box]:
    """The steps of the front."""
    front = [(one.point.costs[cost], one.point.quality) for one in standings(points, cost) if one.on_front]
    corners = [panel.transData.transform(at) for at in front]
    for (left, low), (right, high) in pairwise(corners):
        yield Box(left, low - 1, right, low + 1)
        yield Box(right - 1, low, right + 1, high)


def _places(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Lower left corners of a label around its point, in typographic points; the preferred ones first."""
    for gap in (8.0, 18.0, 30.0, 44.0, 60.0):
        for right in (gap, -gap - width):
            for up in (-height / 2, gap / 2, -height - gap / 2, gap, -height - gap):
                yield right, up
        for right in (-width / 2, -width / 4, -3 * width / 4):
            yield right, gap
            yield right, -height - gap


def _distance(place: tuple[float, float], width: float) -> float:
    """From the point to the nearest place of its label, in typographic points."""
    right, up = place
    across = max(0.0, right, -right - width)
    return math.hypot(across, max(0.0, up, -up - LABEL_SIZE))


def _badness(box: Box, taken: Sequence[Box], frame: Box) -> float:
    """How much a label would hide, or have outside of its panel."""
    outside = box.shared(box) - box.shared(frame)
    return 3 * outside + sum(box.shared(other) for other in taken)
