"""Small charts as inline SVG, for pages that load nothing: lines and points on two axes, with names escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retrieval_kd.evaluation import markup

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 34
LINE = 11  # pixels of a line of text
MOST_POINTS = 80  # of a line; more are averaged, for they would lie on the same pixels
# Of Okabe and Ito's palette, which the colour-blind tell apart; dashes differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888")
DASHES = ("", "6 3", "2 2")


@dataclass(frozen=True)
class Series:
    """A line, or points with names of their own."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0  # which colour and dash
    labels: Sequence[str] = ()  # of points, which are then drawn instead of a line


@dataclass(frozen=True)
class Axes:
    """What stands beside a chart."""

    title: str
    x: str = "step"
    y: str = ""
    log_x: bool = False


def looks(style: int) -> tuple[str, str]:
    """A colour and a dash."""
    return COLOURS[style % len(COLOURS)], DASHES[style // len(COLOURS) % len(DASHES)]


def key(styles: Mapping[str, int]) -> str:
    """Which colour is whose, for the charts that share it."""
    parts = []
    for name, style in styles.items():
        colour, dash = looks(style)
        background = f"background: {colour}" if not dash else f"border-top: .25em dashed {colour}; height: 0"
        parts.append(markup.tag("span", f'<i style="{background}"></i>', markup.text(name), cls="key"))
    return markup.tag("p", *parts)


def chart(axes: Axes, series: Sequence[Series]) -> str:
    """A figure with its caption."""
    xs = [value for one in series for value in one.x]
    ys = [value for one in series for value in one.y]
    if not xs:
        return ""
    across, up = Scale.of(xs, LEFT, WIDTH - RIGHT, axes.log_x), Scale.of(ys, HEIGHT - BOTTOM, TOP, False)
    parts = [*_grid(across, up), _word(WIDTH / 2, HEIGHT - 4, axes.x, "middle")]
    names: list[tuple[float, float, float]] = []
    for one in series:
        parts += _points(one, across, up, names) if one.labels else [_line(one, across, up)]
    drawn = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">{"".join(parts)}</svg>'
    title = f"{axes.title}, {axes.y}" if axes.y else axes.title
    return markup.tag("figure", markup.tag("figcaption", markup.text(title)), drawn)


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, log: bool) -> Scale:
        """With a little room around the values."""
        log = log and min(values) > 0
        low, high = (math.log10(min(values)), math.log10(max(values))) if log else (min(values), max(values))
        room = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
        return cls(low - room, high + room, start, end, log)

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        place = math.log10(value) if self.log else value
        return self.start + (place - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside, three to seven."""
        if self.log:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            found = [step * 10.0**power for power in powers for step in (1, 2, 5)]
            found = [value for value in found if self.low <= math.log10(value) <= self.high]
            return found if len(found) <= 7 else found[:: math.ceil(len(found) / 7)]
        rough = (self.high - self.low) / 4
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """At most ``MOST_POINTS`` points: means of neighbours."""
    steps, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(steps) <= MOST_POINTS:
        return steps, values
    starts = np.linspace(0, len(steps), MOST_POINTS, endpoint=False).astype(int)
    counts = np.diff(starts, append=len(steps))
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def _grid(across: Scale, up: Scale) -> list[str]:
    parts = []
    for value in up.ticks():
        y = up(value)
        parts.append(f'<path d="M{LEFT} {y:.0f}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".15"/>')
        parts.append(_word(LEFT - 6, y + 3, _number(value), "end"))
    for value in across.ticks():
        x = across(value)
        parts.append(f'<path d="M{x:.0f} {TOP}V{HEIGHT - BOTTOM}" stroke="currentColor" stroke-opacity=".15"/>')
        parts.append(_word(x, HEIGHT - BOTTOM + 14, _number(value), "middle"))
    return parts


def _number(value: float) -> str:
    if value and abs(value) >= 1e5:
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    return f"{round(value, 10):g}"


def _word(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{markup.text(said)}</text>'


def _line(one: Series, across: Scale, up: Scale) -> str:
    colour, dash = looks(one.style)
    x, y = thinned(one.x, one.y)
    path = "L".join(f"{across(a):.0f} {up(b):.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    name = f"<title>{markup.text(one.name)}</title>"
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.4"{dashed}>{name}</path>'


def _points(one: Series, across: Scale, up: Scale, names: list[tuple[float, float, float]]) -> list[str]:
    """Points with their names beside them, moved up where names would lie on each other."""
    colour, _ = looks(one.style)
    parts = []
    for a, b, label in zip(one.x, one.y, one.labels, strict=True):
        x, y = across(a), up(b)
        parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="{colour}"/>')
        right = x < (LEFT + WIDTH) / 2
        start = x + 7 if right else x - 7 - 6 * len(label)
        line = y + 3
        while any(
            abs(line - taken) < LINE and begin < start + 6 * len(label) and start < end for taken, begin, end in names
        ):
            line -= LINE
        names.append((line, start, start + 6 * len(label)))
        parts.append(_word(x + (7 if right else -7), line, label, "start" if right else "end"))
    return parts
