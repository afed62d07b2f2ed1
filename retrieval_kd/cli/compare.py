"""Compare systems query by query, the first with each of the others: paired tests, Holm's correction over all of them.

usage: retrieval-kd compare BASELINE OTHER [OTHER …] [measure=ndcg@10] [test=randomisation|t] [qrels=FILE | data=…]

A system is the output folder of a run, whose per_query.parquet is read, or a TREC run file, which is measured against
qrels=FILE (BEIR or TREC form) or the judgements of data=… data.split=….

  retrieval-kd compare outputs/contrastive/… outputs/plain_kl/…
  retrieval-kd compare bm25.trec dense.trec qrels=qrels/test.tsv measure=mrr@10
  retrieval-kd compare bm25.trec dense.trec data=folder data.path=DIR data.split=test
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_kd.contracts import UserError

if TYPE_CHECKING:
    from retrieval_kd.evaluation.significance import Comparison

PER_QUERY = "per_query.parquet"
SETTINGS = {"measure": "ndcg@10", "test": "randomisation", "qrels": "", "store": "outputs/store"}

Judgements = Mapping[str, Mapping[str, int]]
Values = dict[str, dict[str, float]]  # by collection/split, then by query id


@dataclass(frozen=True)
class Request:
    """A command line, read."""

    systems: Mapping[str, Path]  # by name, the baseline first
    settings: Mapping[str, str]
    data: Sequence[str]  # overrides that name the judgements of run files


def run(arguments: list[str]) -> int:
    """Print a table for every collection that all systems were measured on."""
    request = read(arguments)
    from retrieval_kd.evaluation.measures import check_measures
    from retrieval_kd.evaluation.significance import PairedTest, compare

    check_measures([request.settings["measure"]])
    try:
        test = PairedTest(request.settings["test"])
    except ValueError:
        raise UserError(f"test={request.settings['test']}: {' or '.join(PairedTest)} would fit") from None
    values = measured(request)
    baseline = next(iter(values))
    for label in shared(values):
        others = {name: found[label] for name, found in values.items() if name != baseline}
        print(table(label, request.settings["measure"], compare(values[baseline][label], others, baseline, test)))
    return 0


def read(arguments: Sequence[str]) -> Request:
    """Systems are what has no ``=`` or is there as a file; the first is the baseline."""
    paths, data, settings = [], [], dict(SETTINGS)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or Path(argument).exists():
            paths.append(Path(argument))
        elif key in settings:
            settings[key] = value
        else:
            data.append(argument)
    if len(paths) < 2:
        raise UserError("compare needs two systems or more: output folders or TREC run files, the baseline first")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such output folder or run file")
    short = [path.name for path in paths]
    names = [one if short.count(one) == 1 else str(path) for one, path in zip(short, paths, strict=True)]
    if len(set(names)) < len(names):
        raise UserError(f"{max(names, key=names.count)} is named twice; compare needs different systems")
    return Request(dict(zip(names, paths, strict=True)), settings, data)


def measured(request: Request) -> dict[str, Values]:
    """One measure by system, collection and query."""
    files = [path for path in request.systems.values() if path.is_file()]
    judged = _judgements(request) if files else None
    found: dict[str, Values] = {}
    for name, path in request.systems.items():
        if path.is_dir():
            found[name] = _of_folder(path, request.settings["measure"])
        elif judged is not None:
            found[name] = {judged[0]: _of_run(path, judged[1], request.settings)}
    if not files:
        return found
    for name, values in found.items():  # a file's collection goes by another name than a folder's
        if len(values) != 1:
            raise UserError(f"{request.systems[name]} holds {', '.join(values)}; beside run files, name its runs/ file")
    return {name: {"judged queries": next(iter(values.values()))} for name, values in found.items()}


def shared(values: Mapping[str, Values]) -> list[str]:
    """The collections that all systems were measured on."""
    labels = [label for label in next(iter(values.values())) if all(label in found for found in values.values())]
    if not labels:
        each = "; ".join(f"{name}: {', '.join(found)}" for name, found in values.items())
        raise UserError(f"the systems were not measured on a common collection ({each})")
    return labels


def table(label: str, measure: str, comparisons: Sequence[Comparison]) -> str:
    """Aligned columns, the baseline first."""
    from retrieval_kd.evaluation.significance import POWER

    first = comparisons[0]
    head = ("system", measure, "difference", "95 % interval", "p", "Holm p", "effect", "wins/ties/losses", "detectable")
    rows = [head, (f"{first.baseline} (baseline)", f"{first.means[1]:.4f}", *[""] * 7)]
    rows += [
        (
            one.name,
            f"{one.means[0]:.4f}",
            f"{one.difference:+.4f}",
            f"{one.interval[0]:+.4f} … {one.interval[1]:+.4f}",
            _p(one.p),
            _p(one.p_corrected),
            f"{one.effect_size:+.2f}",
            f"{one.wins}/{one.ties}/{one.losses}",
            f"{one.detectable:.4f}",
        )
        for one in comparisons
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    title = f"{label}, {first.queries:,} queries, {first.test.value} test"
    about = f"detectable: the smallest true difference that these queries would show in {POWER:.0%} of experiments"
    return "\n".join([title, *map(str.rstrip, lines), about])


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"


def _of_folder(folder: Path, measure: str) -> Values:
    import pyarrow.parquet as pq

    from retrieval_kd.evaluation.per_query import read_per_query

    path = folder / PER_QUERY
    if not path.is_file():
        raise UserError(f"{folder} has no {PER_QUERY}; evaluate writes it, or name a TREC run file")
    table = pq.read_table(path, columns=["collection", "split", "measure"], filters=[("measure", "=", measure)])
    if not len(table):
        raise UserError(f"{path}: holds no {measure} of any collection")
    pairs = table.group_by(["collection", "split"]).aggregate([])
    names = sorted(zip(*(pairs[column].to_pylist() for column in ("collection", "split")), strict=True))
    return {f"{name}/{split}": read_per_query(path, name, split, measure) for name, split in names}


def _of_run(path: Path, judgements: Judgements, settings: Mapping[str, str]) -> dict[str, float]:
    from retrieval_kd.data.runs import Run
    from retrieval_kd.evaluation.measures import measure, prepare

    prepare(Path(settings["store"]) / "numba")
    return measure(Run.read(path), judgements, [settings["measure"]]).by_query(settings["measure"])


def _judgements(request: Request) -> tuple[str, Judgements]:
    if request.settings["qrels"]:
        from retrieval_kd.data.judgements import read_judgements

        path = Path(request.settings["qrels"])
        if not path.is_file():
            raise UserError(f"qrels={path}: no such file")
        return path.name, read_judgements(path)
    if not request.data:
        raise UserError("run files are measured against judgements; add qrels=FILE, or data=… data.split=…")
    from retrieval_kd.pipeline.compose import compose
    from retrieval_kd.pipeline.entries import entries

    found = entries(compose([*request.data, f"store={request.settings['store']}"])).evaluate
    if len(found) != 1:
        raise UserError(f"data names {len(found)} collections; run files are compared on one, as data.split=… names it")
    judgements = found[0].collection.judgements
    if not judgements:
        raise UserError(f"{found[0].label} has no judgements to measure run files against")
    return found[0].label, judgements
