"""The queries on which a row wins and loses most against its control, with what both of them found."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from retrieval_kd.contracts import UserError
from retrieval_kd.data.collections import Collection
from retrieval_kd.data.runs import Run
from retrieval_kd.evaluation import markup
from retrieval_kd.evaluation.significance import SAME
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.entries import entries
from retrieval_kd.pipeline.report_rows import Report, Reported

log = logging.getLogger(__name__)

MOST = 3  # wins, and losses, that are shown of a row
FIRST = 3  # passages of a list
LONGEST = 400  # characters of a text


def query_parts(report: Report) -> Iterator[str]:
    """A block for each row that has a control, those that fold."""
    label = report.cell.rsplit(" ", 1)[0]
    compared = [(row, control) for row in report.rows if (control := report.row(row.control)) is not None]
    if not compared:
        return
    if not any(_path(row, label).is_file() for pair in compared for row in pair):
        return  # a mean over collections has no lists of its own
    texts = Texts.of(compared[0][0], label)
    if texts.collection is None:
        yield markup.tag("p", "The texts are not on this machine, their ids are.", cls="soft")
    both = {row.name: row for pair in compared for row in pair}.values()
    runs = {row.name: _run(row, label) for row in both}
    measured = {row.name: row.values(report.cell) for row in both}
    for row, control in compared:
        values, baseline = measured[row.name], measured[control.name]
        differences = {query: values[query] - baseline[query] for query in values if query in baseline}
        ordered = sorted(differences, key=lambda query: (-differences[query], query))
        wins = [query for query in ordered[:MOST] if differences[query] > SAME]
        losses = [query for query in ordered[: -MOST - 1 : -1] if differences[query] < -SAME]
        lines = []
        for query in (*wins, *losses):
            told = f"{differences[query]:+.3f} ({baseline[query]:.3f} to {values[query]:.3f})"
            found = [texts.listed(query, runs[one.name]) for one in (control, row)]
            lines.append(_line([markup.text(told), texts.asked(query), texts.relevant(query), *found]))
        if lines:
            header = [report.cell, "query", "judged", control.name, row.name]
            head = markup.tag("thead", markup.tag("tr", *(markup.tag("th", markup.text(cell)) for cell in header)))
            table = markup.tag("table", head, markup.tag("tbody", *lines), cls="texts")
            yield markup.details(f"{row.name} against {control.name}", markup.tag("div", table, cls="wide"))


def _line(cells: Sequence[str]) -> str:
    return markup.tag("tr", *(markup.tag("td", cell) for cell in cells))


def _path(row: Reported, label: str) -> Path:
    return row.folders[0] / "runs" / f"{'.'.join(label.rsplit('/', 1))}.trec"


def _run(row: Reported, label: str) -> Mapping[str, list[str]]:
    """The first passages of each query, of the first seed."""
    path = _path(row, label)
    if not path.is_file():
        return {}
    return {query: ids[:FIRST].tolist() for query, ids, _ in Run.read(path)}


@dataclass(frozen=True)
class Texts:
    """Looks texts up, cut and escaped; ids stand for what is not here."""

    collection: Collection | None

    @classmethod
    def of(cls, row: Reported, label: str) -> Texts:
        """Those of the collection that a row was evaluated on, if its store still has them."""
        if not (Path(row.resolved["store"]) / "passages").is_dir():
            return cls(None)
        try:
            found = [one for one in entries(compose(row.resolved["overrides"])).evaluate if one.label == label]
            return cls(found[0].collection if found else None)
        except (UserError, OSError) as error:
            log.warning("no texts in the report: %s", error)
            return cls(None)

    @cached_property
    def _judgements(self) -> Mapping[str, Mapping[str, int]]:
        return (self.collection.judgements if self.collection else None) or {}

    def asked(self, query: str) -> str:
        """A query's text."""
        known = self.collection.queries.get(query) if self.collection else None
        return markup.text(_cut(known if known is not None else query))

    def relevant(self, query: str) -> str:
        """The passages that are judged relevant, the first ones."""
        judged = [passage for passage, grade in self._judgements.get(query, {}).items() if grade > 0]
        return "".join(self._passage(passage, "") for passage in judged[: FIRST - 1])

    def listed(self, query: str, run: Mapping[str, list[str]]) -> str:
        """The first passages of a list, with their ranks; those that are judged relevant are marked."""
        judged = self._judgements.get(query, {})
        found = enumerate(run.get(query, ()), 1)
        return "".join(self._passage(passage, f"{rank}. ", judged.get(passage, 0) > 0) for rank, passage in found)

    def _passage(self, passage: str, before: str, judged: bool = False) -> str:
        name = markup.tag("b", markup.text(before + passage), cls="judged" if judged else "")
        return markup.tag("div", name, " ", markup.text(_cut(self._text(passage))), cls="passage")

    def _text(self, passage: str) -> str:
        if self.collection is None:
            return ""
        rows = self.collection.passages.rows([passage])
        return self.collection.passages.texts(rows)[0] if rows[0] >= 0 else ""


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST].rstrip() + " …"
