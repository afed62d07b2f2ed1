"""How the teacher's raw scores lie, by the role of the passage, out of the store that a run was made in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from retrieval_kd.evaluation.charts import Axes, Series
from retrieval_kd.pipeline.artifacts import RECORD
from retrieval_kd.pipeline.report_rows import Reported
from retrieval_kd.pipeline.steps.lists import CANDIDATES
from retrieval_kd.pipeline.steps.scoring import SCORES

BINS = 40
MOST = 1_000_000  # candidates that are looked at; of more, evenly spread ones


@dataclass
class Histograms:
    """What can be drawn, and the rows whose scores the store has no longer."""

    roles: list[str] = field(default_factory=list)  # a style each
    drawn: list[tuple[list[str], Axes, list[Series]]] = field(default_factory=list)  # with the rows that share it
    gone: list[str] = field(default_factory=list)


def histograms(rows: Sequence[Reported]) -> Histograms:
    """Each artifact of scores once, however many rows learned from it."""
    found = Histograms()
    shared: dict[Path, list[str]] = {}
    for row in rows:
        steps = [step["digest"] for step in row.manifest["steps"] if step["step"] == "score"]
        places = [Path(row.resolved["store"]) / "score" / digest for digest in steps]
        for place in places:
            if (place / SCORES).is_file() and row.name not in shared.setdefault(place, []):
                shared[place].append(row.name)
        if places and not any((place / SCORES).is_file() for place in places):
            found.gone.append(row.name)
    by_name = {row.name: row for row in rows}
    for place, names in shared.items():
        lists = _lists(by_name[names[0]], place)
        for axes, series in _of_members(place, lists, found.roles) if lists is not None else ():
            found.drawn.append((names, axes, series))
    return found


def _lists(row: Reported, scores: Path) -> Path | None:
    """The candidates that scores are aligned with: those with as many rows, made ones before found ones."""
    count = np.load(scores / SCORES, mmap_mode="r").shape[1]
    store = Path(row.resolved["store"])
    for kind in ("darken", "mine"):
        for step in row.manifest["steps"]:
            path = store / kind / step["digest"] / CANDIDATES
            if step["step"] == kind and path.is_file() and pq.read_metadata(path).num_rows == count:
                return path
    return None


def _of_members(place: Path, lists: Path, known: list[str]) -> Iterator[tuple[Axes, list[Series]]]:
    scores = np.load(place / SCORES, mmap_mode="r")
    step = max(1, scores.shape[1] // MOST)
    roles = np.array(pq.ParquetFile(lists).read(columns=["role"])["role"].to_pylist())[::step]
    members = json.loads((place / RECORD).read_text())["members"]
    for (name, kind), values in zip(members.items(), scores, strict=True):
        some = np.asarray(values[::step], dtype=np.float64)
        told = np.isfinite(some)
        if not told.any():
            continue
        edges = np.histogram_bin_edges(some[told], BINS)
        series = []
        for role in np.unique(roles[told]).tolist():
            if role not in known:
                known.append(role)
            counts, _ = np.histogram(some[told & (roles == role)], edges)
            share = counts / max(1, counts.sum())
            # Drawn as steps: an edge, along the bin, to the next.
            x, y = np.repeat(edges, 2)[1:-1], np.repeat(share, 2)
            series.append(Series(f"{role}: {counts.sum():,}", x.tolist(), y.tolist(), known.index(role)))
        yield Axes(f"{name} ({kind}), {int(told.sum()):,} scores", "raw score", "share of the role's"), series
