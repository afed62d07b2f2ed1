"""Measure runs, and let the teacher rerank."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_kd.contracts import Role, ScoreTeacher, UserError
from retrieval_kd.data.candidates import Candidate, Candidates
from retrieval_kd.data.progress import track
from retrieval_kd.data.runs import Run
from retrieval_kd.data.training_set import combine_scores
from retrieval_kd.evaluation.answers import judged_by_answers
from retrieval_kd.evaluation.measures import asks_answers, cutoff, measure, prepare
from retrieval_kd.evaluation.per_query import write_per_query
from retrieval_kd.pipeline.steps.scoring import member_scores
from retrieval_kd.pipeline.steps.searching import RUN

if TYPE_CHECKING:
    from retrieval_kd.data.collections import Collection
    from retrieval_kd.pipeline.entries import Entry

log = logging.getLogger(__name__)

METRICS = "metrics.json"
PER_QUERY = "per_query.parquet"


def evaluate(folder: Path, entry: Entry, run: Path, settings: Mapping[str, Any], store: Path) -> dict[str, Any]:
    """Measures of a run against the judgements of its split."""
    prepare(store / "numba")
    collection = entry.collection
    names, keep = settings["measures"], not settings["ignore_identical_ids"]
    found = Run.read(run / RUN)
    asked = [name for name in names if asks_answers(name)]
    parts = []
    if collection.judgements is not None and len(asked) < len(names):
        rest = [name for name in names if name not in asked]
        parts.append(measure(found, collection.judgements, rest, keep_identical_ids=keep))
    if asked and collection.answers is not None:
        judged = _by_answers(entry, collection, found, max(map(cutoff, asked)) if all(map(cutoff, asked)) else None)
        parts.append(measure(found, judged, asked, keep_identical_ids=keep))
    if not parts:
        raise UserError(f"{entry.label} has no judgements to evaluate against; search alone writes the run")
    values = {name: values for part in parts for name, values in part.values.items()}
    measured = replace(parts[0], values={name: values[name] for name in names if name in values})
    if measured.missing:
        log.warning("evaluate: %d judged queries have no result in the run and count 0", measured.missing)
    means = {name: round(value, 6) for name, value in measured.means().items()}
    (folder / METRICS).write_text(json.dumps({"queries": len(measured.query_ids), "measures": means}, indent=1))
    write_per_query(folder / PER_QUERY, {(entry.name, entry.split): measured})
    return {"missing": measured.missing}


def _by_answers(entry: Entry, collection: Collection, run: Run, depth: int | None) -> dict[str, dict[str, int]]:
    """Which listed passages hold an answer; titles do not count, so texts are read without them."""
    answers = collection.answers or {}
    if collection.judgements is not None:
        answers = {query: answers[query] for query in collection.judgements}
    deep = max(map(len, (ids for _, ids, _ in run)), default=0) if depth is None else depth + 1
    wanted = {passage for query, ids, _ in run if query in answers for passage in ids[:deep].tolist()}
    passages = track(entry.source.passages(), f"{entry.label}: reading what was found")
    texts = {passage.id: passage.text for passage in passages if passage.id in wanted}
    return judged_by_answers(run, answers, texts, deep)


def rerank(folder: Path, collection: Collection, run: Path, teacher: ScoreTeacher, store: Path) -> dict[str, Any]:
    """The teacher's order of the passages that a run lists."""
    found = Run.read(run / RUN)
    lists = (
        (query_id, [Candidate(passage_id, Role.HARD, rank, "run", 0, 0) for rank, passage_id in enumerate(ids, 1)])
        for query_id, ids, _ in found
    )
    candidates = Candidates.from_lists(lists)
    members = member_scores(teacher, store, collection.queries, candidates, collection.passages)
    scores = combine_scores(candidates, members, teacher, np.zeros(len(candidates), dtype=bool))
    Run(candidates.query_ids, candidates.offsets, np.array(candidates.passage_ids, dtype=object), scores).write(
        folder / RUN, "teacher"
    )
    return {"teacher_calls": len(candidates)}
