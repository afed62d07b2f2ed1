"""One page about a table or runs: tables, curves, scores by role, quality against cost, queries, configurations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file
from retrieval_kd.evaluation import markup
from retrieval_kd.evaluation.charts import Axes, Series, chart, key
from retrieval_kd.evaluation.curves import PANELS, read_curves
from retrieval_kd.evaluation.pareto import COSTS, Point, standings
from retrieval_kd.evaluation.table_forms import html_parts
from retrieval_kd.pipeline.report_queries import query_parts
from retrieval_kd.pipeline.report_rows import RESOLVED, Report, Reported, read
from retrieval_kd.pipeline.report_scores import histograms

NAME = "report.html"
LOG = "log.csv"
COSTS_SHOWN = ("flops", "latency_p50_ms", "latency_p99_ms", "index_bytes")


def write_report(folders: Sequence[Path], target: Path | None = None) -> Path:
    """Write the page about a table's folder, or about folders of runs; returns where it is."""
    report = read(folders)
    if target is not None and target.is_dir():
        raise UserError(f"output={target} is a folder; name a file, such as {target / NAME}")
    where = target or (_table_folder(folders[0]) if len(folders) == 1 else Path("outputs")) / NAME
    with atomic_file(where) as path:
        path.write_text(as_page(report), encoding="utf-8")
    return where


def _table_folder(folder: Path) -> Path:
    from retrieval_kd.pipeline.table import OUTPUTS

    return folder if folder.is_dir() else OUTPUTS / folder


def as_page(report: Report) -> str:
    """The whole file."""
    sections = {
        "tables": ("Table", html_parts(report.shown)),
        "curves": ("Training", list(_curves(report.rows))),
        "scores": ("Teacher's scores by role", list(_scores(report.rows))),
        "pareto": ("Quality against cost", list(_fronts(report))),
        "queries": ("Wins and losses", list(query_parts(report))),
        "configurations": ("Configurations", list(_configurations(report.rows))),
    }
    body = [
        markup.tag("nav", *(_link(name, title) for name, (title, parts) in sections.items() if parts)),
        *(
            markup.tag("section", markup.tag("h2", markup.text(title)), *parts, id_=name)
            for name, (title, parts) in sections.items()
            if parts
        ),
    ]
    return markup.page(report.shown.title or "Report", body)


def _link(name: str, title: str) -> str:
    return markup.tag("a", markup.text(title), href=f"#{name}") + " "


# ---- sections


def _curves(rows: Sequence[Reported]) -> Iterator[str]:
    """A chart for each column of the logs, a line for each seed of each row."""
    logs = [
        (style, row, folder) for style, row in enumerate(rows) for folder in row.folders if (folder / LOG).is_file()
    ]
    found: dict[str, list[Series]] = {}
    for style, row, folder in logs:
        for name, curve in read_curves(folder / LOG).items():
            steps, values = zip(*curve, strict=True)
            found.setdefault(name, []).append(Series(f"{row.name}, {folder.name}", steps, values, style))
    if not found:
        return
    yield key({row.name: style for style, row, _ in logs})
    for title, prefix, label in PANELS:
        inside = {name: found.pop(name) for name in list(found) if name.startswith(prefix)}
        if inside:
            yield markup.tag("h3", markup.text(title))
            yield from (chart(Axes(name, y=label), series) for name, series in inside.items())


def _scores(rows: Sequence[Reported]) -> Iterator[str]:
    """A histogram for each member of each teacher, a line for each role; rows with the same scores share it."""
    found = histograms(rows)
    if not found.drawn:
        if found.gone:
            yield markup.tag("p", markup.text(f"The store has them no longer: {', '.join(found.gone)}."), cls="soft")
        return
    yield key({role: style for style, role in enumerate(found.roles)})
    for names, axes, series in found.drawn:
        yield markup.tag("div", chart(axes, series), markup.tag("p", markup.text(", ".join(names)), cls="soft"))


def _fronts(report: Report) -> Iterator[str]:
    """Where at least two rows have a cost, those that no other beats at both."""
    for cost in COSTS_SHOWN:
        points = [
            Point(row.name, row.quality, {cost: float(row.cost[cost])})
            for row in report.rows
            if row.quality is not None and isinstance(row.cost.get(cost), int | float)
        ]
        if len({point.costs[cost] for point in points}) < 2:
            continue
        stands = standings(points, cost)
        front = [one.point for one in stands if one.on_front]
        beaten = [one.point for one in stands if not one.on_front]
        steps = [(point.costs[cost], point.quality) for point in front]
        line = Series("front", [x for x, _ in steps], [y for _, y in steps], 0)
        series = [line] if len(front) > 1 else []
        for style, some in ((0, front), (6, beaten)):
            xs, ys = [point.costs[cost] for point in some], [point.quality for point in some]
            series.append(Series("points", xs, ys, style, [point.name for point in some]))
        low, high = min(point.costs[cost] for point in points), max(point.costs[cost] for point in points)
        measure = report.cell.rsplit(" ", 1)[1]
        yield chart(Axes(f"{measure} against {COSTS[cost].title}", COSTS[cost].title, log_x=high > 5 * low), series)


def _configurations(rows: Sequence[Reported]) -> Iterator[str]:
    """The whole of each, folded; of several seeds the first."""
    for row in rows:
        versions = ", ".join(f"{name} {version}" for name, version in row.manifest["versions"].items())
        hardware = ", ".join(str(value) for value in row.manifest["hardware"].values())
        about = f"commit {row.manifest['commit'] or 'unknown'}; {hardware}; {versions}; in {row.folders[0]}"
        content = (row.folders[0] / RESOLVED).read_text(encoding="utf-8")
        yield markup.details(row.name, markup.tag("p", markup.text(about)), markup.code(content.splitlines()))
