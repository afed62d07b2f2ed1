"""Take candidates from a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_kd.contracts import DARK_ROLES, ScoreTeacher, UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.runs import Run
from retrieval_kd.data.training_set import combine_scores
from retrieval_kd.pipeline.steps.lists import CANDIDATES as CANDIDATES
from retrieval_kd.pipeline.steps.scoring import member_scores
from retrieval_kd.pipeline.steps.searching import RUN

if TYPE_CHECKING:
    from retrieval_kd.data.collections import Collection
    from retrieval_kd.negatives.hard import HardNegatives
    from retrieval_kd.pipeline.entries import Entry

log = logging.getLogger(__name__)


def mine(
    folder: Path,
    collection: Collection,
    run: Path,
    negatives: HardNegatives,
    score: Callable[[Candidates], np.ndarray] | None,
    mining_round: int = 0,
) -> dict[str, Any]:
    """Candidates of every query, and where every retrieved passage went."""
    found = _of_split(Run.read(run / RUN), collection)
    candidates, statistics = negatives.mine(found, collection.judgements, collection.passages, score, mining_round)
    candidates.write(folder / CANDIDATES)
    (folder / "statistics.json").write_text(json.dumps(statistics.as_dict(), indent=1))
    for line in statistics.lines():
        log.info("mine: %s", line)
    return {"candidates": len(candidates), "queries": len(candidates.query_ids)}


def _of_split(run: Run, collection: Collection) -> Run:
    """The lists of the split's queries: somebody's run may hold those of other splits too."""
    rows = [row for row, query_id in enumerate(run.query_ids) if query_id in collection.queries]
    if not rows:
        raise UserError(f"negatives.source: the run has no query of {collection.name}/{collection.split}")
    if len(rows) == len(run):
        return run
    parts = [np.arange(run.offsets[row], run.offsets[row + 1]) for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    kept = np.concatenate(parts)
    return Run([run.query_ids[row] for row in rows], offsets, run.passage_ids[kept], run.scores[kept])


def copy_run(folder: Path, source: Path) -> dict[str, Any]:
    """Take a run file of the user's into the store, checked."""
    run = Run.read(source)
    run.write(folder / RUN, source.stem)
    return {"queries": len(run)}


def teacher_scores(
    teacher: Callable[[], ScoreTeacher], entry: Entry, store: Path
) -> Callable[[Candidates], np.ndarray]:
    """The teacher's scores of candidates, for a margin to the positive's."""

    def score(candidates: Candidates) -> np.ndarray:
        built, collection = teacher(), entry.collection
        members = member_scores(built, store, collection.queries, candidates, collection.passages)
        return combine_scores(candidates, members, built, np.isin(candidates.role, DARK_ROLES))

    return score
