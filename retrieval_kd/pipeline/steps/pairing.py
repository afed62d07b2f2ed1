"""Draw pairs of candidates, have them judged, through the store, and tell what the judge is worth."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_kd.callbacks.pair_report import JudgedPairs, PairReport, pair_report
from retrieval_kd.contracts import DARK_ROLES, PairTeacher, PassageTexts, Role, ScoreJudge, UserError, has_role
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.pairs import BACKWARD, FORWARD, Pairs, PairSampler, ScoredList, place
from retrieval_kd.data.score_store import ScoreStore
from retrieval_kd.pipeline.steps.lists import read_lists
from retrieval_kd.pipeline.steps.scoring import signalled
from retrieval_kd.teachers.pair_file import PairFile

if TYPE_CHECKING:
    from retrieval_kd.data.collections import Collection

log = logging.getLogger(__name__)

PAIRS = "pairs.parquet"
PAIR_REPORT = "pair_report.json"
JUDGED_QUERIES, JUDGED_OTHERS = 100, 5  # held-out pairs that show what a judge is worth: at most 1,000 calls

Draw = Callable[[Candidates, np.ndarray], np.ndarray]
"""Candidates and the teacher's scores [n] of them -> rows [K, 2] of both passages of each pair."""


def pair(
    folder: Path, collection: Collection, found: Sequence[Path], teacher: PairTeacher, draw: Draw, store: Path
) -> dict[str, Any]:
    """Judged pairs of the candidates in ``found``: where they were listed, and where they were scored."""
    listed, scored = found
    candidates, passages = read_lists(listed, collection)
    scores = signalled(scored, candidates, teacher).scores
    if isinstance(teacher.judge, PairFile):
        pairs, calls = teacher.judge.of(set(candidates.query_ids)), 0
        place(pairs, candidates, str(teacher.judge.path))  # refuses ids that are in no list, by the file's name
    else:
        rows = draw(candidates, scores)
        pairs, calls = _judged(rows, candidates, scores, teacher, _Asked(collection, passages, store))
    pairs.write(folder / PAIRS)
    report = _report(pairs, candidates, scores)
    (folder / PAIR_REPORT).write_text(json.dumps(report_fields(report), indent=1))
    for line in report.lines():
        log.info(line)
    return {"pairs": report.pairs, "queries": report.queries, "teacher_calls": calls}


def read_report(folder: Path) -> PairReport:
    """The report of a finished step."""
    values: dict[str, Any] = json.loads((folder / PAIR_REPORT).read_text())
    del values["warnings"]
    known: dict[str, Any] = {name: np.nan if value is None else value for name, value in values.items()}
    return PairReport(**known)


def drawn_by(sampler: PairSampler) -> Draw:
    """Every query's pairs as a sampler draws them."""

    def draw(candidates: Candidates, scores: np.ndarray) -> np.ndarray:
        found, made = [np.empty((0, 2), np.int64)], has_role(candidates.role, DARK_ROLES)
        for query_id, first, last in _bounds(candidates):
            scored = ScoredList(scores[first:last], candidates.rank[first:last], made[first:last])
            found.append(first + sampler.draw(query_id, scored))
        rows = np.concatenate(found)
        if not len(rows):
            raise UserError("pairs: no query has two passages that make a pair; raise pairs.top, or negatives.pool")
        return rows

    return draw


def judged_pairs(candidates: Candidates, scores: np.ndarray) -> np.ndarray:
    """Of some queries, a judged positive beside the others that the score teacher ranks highest."""
    found = [np.empty((0, 2), np.int64)]
    for _, first, last in _bounds(candidates):
        if len(found) > JUDGED_QUERIES:
            break
        rows = np.arange(first, last)[np.argsort(-scores[first:last], kind="stable")]
        rows = rows[~np.isnan(scores[rows]) & ~np.isin(candidates.role[rows], DARK_ROLES)]
        positive = candidates.role[rows] == Role.POSITIVE
        others = rows[~positive][:JUDGED_OTHERS]
        if positive.any() and len(others):
            one = rows[positive][0]
            pairs = np.stack([np.full(len(others), one), others], 1)
            swapped = scores[others] > scores[one]
            found.append(np.where(swapped[:, None], pairs[:, ::-1], pairs))  # the higher score first, as in training
    return np.concatenate(found)


class _Asked:
    """Texts of queries and of candidates, and the store of what was asked before."""

    def __init__(self, collection: Collection, passages: PassageTexts, store: Path) -> None:
        self.collection = collection
        self.passages = passages
        self.store = ScoreStore(store / "scores")

    def texts(self, candidates: Candidates, rows: np.ndarray) -> list[str]:
        """Passages of candidates by their rows."""
        return self.passages.texts(self.passages.rows([candidates.passage_ids[row] for row in rows.tolist()]))

    def judge(self, judge: Any, queries: list[str], left: list[str], right: list[str], both: bool) -> np.ndarray:
        """Log-odds [1 or 2, K] of left over right, left read first, and then right; both orders in one pass."""
        if both:  # one beside the other: they are as long, and in one group then
            queries = [query for query in queries for _ in range(2)]
            left, right = _interleaved(left, right), _interleaved(right, left)
        if judge.stored:
            raw = self.store.score_missing(judge, queries, left, right)
        else:
            raw = judge.score(queries, left, right)
        return np.stack([raw[0::2], -raw[1::2]]) if both else raw[None]


def _judged(
    rows: np.ndarray, candidates: Candidates, scores: np.ndarray, teacher: PairTeacher, asked: _Asked
) -> tuple[Pairs, int]:
    """What the judge says of pairs, and how many questions these are."""
    left, right = rows.T
    judge = teacher.judge
    if isinstance(judge, ScoreJudge):
        said, calls = judge.prefer(scores[left], scores[right])[None], 0
    else:
        owners = candidates.row_query_ids()
        queries = [asked.collection.queries[owners[row]] for row in left.tolist()]
        texts = [asked.texts(candidates, some) for some in (left, right)]
        said = asked.judge(judge, queries, texts[0], texts[1], teacher.both_orders)
        calls = said.size
    return _as_pairs(rows, candidates, said, judge.fingerprint), calls


def _as_pairs(rows: np.ndarray, candidates: Candidates, said: np.ndarray, name: str) -> Pairs:
    """A row for each order, both of a pair next to each other."""
    orders = [FORWARD, BACKWARD][: len(said)]
    owners = candidates.row_query_ids()
    lines = [row for row in rows.tolist() for _ in orders]
    return Pairs(
        [owners[left] for left, _ in lines],
        [candidates.passage_ids[left] for left, _ in lines],
        [candidates.passage_ids[right] for _, right in lines],
        orders * len(rows),
        said.T.reshape(-1).astype(np.float32),
        [name] * len(lines),
    )


def _report(pairs: Pairs, candidates: Candidates, scores: np.ndarray) -> PairReport:
    """The report on pairs in a file: each by its two orders, rows that repeat one of them averaged."""
    query_rows = {query_id: (first, last) for query_id, first, last in _bounds(candidates)}
    places: dict[str, dict[str, int]] = {}
    said: dict[tuple[int, int], tuple[list[float], list[float]]] = {}
    rows = zip(pairs.query_ids, pairs.passage_i, pairs.passage_j, pairs.order, pairs.log_odds.tolist(), strict=True)
    for query_id, one, other, order, odds in rows:
        if query_id not in places:
            first, last = query_rows[query_id]
            places[query_id] = {passage: row for row, passage in enumerate(candidates.passage_ids[first:last], first)}
        i, j = places[query_id][one], places[query_id][other]
        first_read = order == FORWARD
        if (j, i) in said:
            i, j, odds, first_read = j, i, -odds, not first_read
        said.setdefault((i, j), ([], []))[0 if first_read else 1].append(odds)
    left, right = np.array(list(said), np.int64).reshape(-1, 2).T
    means = [[np.mean(odds) if odds else np.nan for odds in orders] for orders in said.values()]
    forward, backward = np.array(means, float).reshape(-1, 2).T
    grades = np.where(candidates.role == Role.POSITIVE, np.maximum(candidates.relevance, 1), 0.0)
    grades[np.isin(candidates.role, DARK_ROLES)] = np.nan  # nobody judged what was made
    owner = np.repeat(np.arange(len(candidates.query_ids)), np.diff(candidates.offsets))
    both = np.stack([left, right])
    once = np.isnan(forward)  # read in the other order alone: the two trade places
    forward, backward = np.where(once, backward, forward), np.where(once, np.nan, backward)
    return pair_report(JudgedPairs(owner[left], left, right, forward, backward, scores[both], grades[both]))


def _bounds(candidates: Candidates) -> list[tuple[str, int, int]]:
    """Query id, first row, row behind the last."""
    ends = candidates.offsets.tolist()
    return list(zip(candidates.query_ids, ends[:-1], ends[1:], strict=True))


def _interleaved(one: list[str], other: list[str]) -> list[str]:
    return [text for two in zip(one, other, strict=True) for text in two]


def report_fields(report: PairReport) -> dict[str, Any]:
    """What the report's file holds, numbers that are not a number as null."""
    values = vars(report) | {"warnings": report.warnings()}
    return {name: None if isinstance(value, float) and value != value else value for name, value in values.items()}
