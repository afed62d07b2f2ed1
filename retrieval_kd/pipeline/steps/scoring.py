"""Ask the teacher's members about candidates, through the stores, and tell what the teacher is worth."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_kd.contracts import DARK_ROLES, PassageTexts, ScoreTeacher, VectorScorer
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.score_store import ScoreStore
from retrieval_kd.data.training_set import Signalled, combine_scores
from retrieval_kd.data.vector_store import VectorStore
from retrieval_kd.pipeline.steps.lists import read_lists

if TYPE_CHECKING:
    from retrieval_kd.data.collections import Collection

log = logging.getLogger(__name__)

SCORES = "scores.npy"
REPORT = "report.json"


def member_scores(
    teacher: ScoreTeacher, store: Path, queries: Mapping[str, str], candidates: Candidates, passages: PassageTexts
) -> np.ndarray:
    """Raw scores [M, n] of every candidate; what a store holds is not asked again."""
    query_texts = [queries[query_id] for query_id in candidates.row_query_ids()]
    passage_texts = passages.texts(passages.rows(candidates.passage_ids))
    scores = []
    for member in teacher.members.values():
        if isinstance(member, VectorScorer):
            scores.append(VectorStore(store / "vectors").score(member, query_texts, passage_texts))
        elif not member.stored:
            scores.append(member.score(query_texts, passage_texts))
        else:
            scores.append(ScoreStore(store / "scores").score_missing(member, query_texts, passage_texts))
    return np.stack(scores)


def score(folder: Path, collection: Collection, listed: Path, teacher: ScoreTeacher, store: Path) -> dict[str, Any]:
    """Raw member scores, aligned with the candidates file."""
    candidates, passages = read_lists(listed, collection)
    scores = member_scores(teacher, store, collection.queries, candidates, passages)
    np.save(folder / SCORES, scores)
    members = {name: str(member.kind) for name, member in teacher.members.items()}
    return {"candidates": len(candidates), "queries": len(candidates.query_ids), "members": members}


def signalled(scored: Path, candidates: Candidates, teacher: ScoreTeacher) -> Signalled:
    """Stored member scores and the teacher's combination of them."""
    members = np.load(scored / SCORES)
    dark = np.isin(candidates.role, DARK_ROLES)
    return Signalled(combine_scores(candidates, members, teacher, dark), members)
