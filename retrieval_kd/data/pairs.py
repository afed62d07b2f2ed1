"""Judged pairs of passages: a Parquet file with a row for each order that a teacher read, and their place in lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_kd.contracts import UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.files import atomic_file
from retrieval_kd.data.pair_forms import Columns, read_pair_lines, read_pair_lists
from retrieval_kd.functional.log_odds import from_probability

COLUMNS = ("query_id", "passage_i", "passage_j", "order", "log_odds", "teacher")
TEXTS = ("query_id", "passage_i", "passage_j", "order", "teacher")
FORWARD, BACKWARD = "ij", "ji"  # which passage the teacher read first
PROBABILITY = "probability"  # a column that may stand for log_odds in a file from elsewhere


class ScoredList(NamedTuple):
    """One query's candidates as the drawing of pairs sees them."""

    scores: np.ndarray  # [n] float32, the teacher's, NaN where none
    rank: np.ndarray  # [n] in the run that they were mined from, from 1; 0 where it did not list them
    made: np.ndarray  # [n] bool, dark passages, which no run could list


class PairSampler(Protocol):
    """Says which two passages of a list a judge compares."""

    def draw(self, query_id: str, scored: ScoredList) -> np.ndarray:
        """int64 [k, 2] places in the list, the one of the higher score first."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows (query, i, j, order): the log-odds of i over j as the teacher gave them when it read them in that order."""

    query_ids: list[str]
    passage_i: list[str]
    passage_j: list[str]
    order: list[str]
    log_odds: np.ndarray  # float32 [K]
    teacher: list[str]

    def __post_init__(self) -> None:
        columns = (self.query_ids, self.passage_i, self.passage_j, self.order, self.log_odds, self.teacher)
        if len({len(column) for column in columns}) != 1:
            raise ValueError("columns of pairs differ in length")

    def __len__(self) -> int:
        return len(self.query_ids)

    def take(self, rows: Sequence[int]) -> Pairs:
        """Some of the rows."""
        texts = (self.query_ids, self.passage_i, self.passage_j, self.order, self.teacher)
        queries, one, other, order, teacher = ([column[row] for row in rows] for column in texts)
        return Pairs(queries, one, other, order, self.log_odds[list(rows)], teacher)

    def write(self, path: Path) -> None:
        """Write Parquet, ids and names as dictionaries."""
        columns = (self.query_ids, self.passage_i, self.passage_j, self.order, self.log_odds, self.teacher)
        table = pa.table(
            {
                name: pa.array(column, pa.string()).dictionary_encode() if name in TEXTS else column
                for name, column in zip(COLUMNS, columns, strict=True)
            }
        )
        with atomic_file(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> Pairs:
        """Read and check a file; ``order`` may be absent (i first) and ``probability`` may stand for the log-odds.

        Parquet, or the forms of PairDistill, see ``pair_forms``.
        """
        reader = _by_look(path)
        table = _table(path) if reader is None else _from_others(path, reader(path))
        count = len(table)
        texts = {name: _strings(table, name, count) for name in TEXTS}
        wrong = sorted(set(texts["order"]) - {FORWARD, BACKWARD})
        if wrong:
            raise UserError(f"{path}: unknown order {wrong[0]!r}; it is {FORWARD} (i was read first) or {BACKWARD}")
        same = next((k for k in range(count) if texts["passage_i"][k] == texts["passage_j"][k]), None)
        if same is not None:
            raise UserError(f"{path}: row {same + 1} pairs passage {texts['passage_i'][same]!r} with itself")
        queries, one, other = texts["query_id"], texts["passage_i"], texts["passage_j"]
        return cls(queries, one, other, texts["order"], _log_odds(path, table), texts["teacher"])


@dataclass(frozen=True, eq=False)
class PlacedPairs:
    """Pairs by their places in the candidates' rows, each once; query q has pairs ``offsets[q]:offsets[q + 1]``."""

    offsets: np.ndarray  # [Q + 1] int64
    left: np.ndarray  # [K] int64, rows of the candidates
    right: np.ndarray  # [K] int64
    log_odds: np.ndarray  # [K] float32, of left over right

    def __len__(self) -> int:
        return len(self.left)


def place(pairs: Pairs, candidates: Candidates, where: str) -> PlacedPairs:
    """Find each pair in its query's list; several rows of a pair, its two orders say, are averaged.

    With both orders, that is half the difference of what the teacher said: a preference for the first place cancels.
    """
    rows = _Rows(candidates)
    number = np.array([rows.query(query_id, where) for query_id in pairs.query_ids], np.int64)
    one, other = (
        np.array([rows.row(*key, where) for key in zip(pairs.query_ids, column, strict=True)], np.int64)
        for column in (pairs.passage_i, pairs.passage_j)
    )
    left, right = np.minimum(one, other), np.maximum(one, other)
    signed = np.where(one == left, pairs.log_odds, -pairs.log_odds).astype(np.float64)
    keys, inverse, count = np.unique(np.stack([left, right]), axis=1, return_inverse=True, return_counts=True)
    mean = np.bincount(inverse.reshape(-1), signed, minlength=keys.shape[1]) / count
    owners = np.zeros(keys.shape[1], np.int64)
    owners[inverse.reshape(-1)] = number
    sizes = np.bincount(owners, minlength=len(candidates.query_ids))
    return PlacedPairs(np.concatenate([[0], np.cumsum(sizes)]), keys[0], keys[1], mean.astype(np.float32))


class _Rows:
    """Where the passages of a list stand among all candidates."""

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self._numbers = {query_id: number for number, query_id in enumerate(candidates.query_ids)}
        self._of: tuple[str, Mapping[str, int]] = ("", {})

    def query(self, query_id: str, where: str) -> int:
        if query_id not in self._numbers:
            raise UserError(f"{where}: query {query_id!r} of a pair has no list of candidates")
        return self._numbers[query_id]

    def row(self, query_id: str, passage_id: str, where: str) -> int:
        if self._of[0] != query_id or not self._of[1]:  # rows of a query stand together: its list is looked at once
            number = self._numbers[query_id]
            first, last = self._candidates.offsets[number : number + 2].tolist()
            ids = self._candidates.passage_ids[first:last]
            self._of = (query_id, {one: row for row, one in enumerate(ids, first)})
        if passage_id not in self._of[1]:
            raise UserError(
                f"{where}: query {query_id!r} has a pair with passage {passage_id!r}, which is not in its list of"
                " candidates; draw the pairs from these candidates"
            )
        return self._of[1][passage_id]


def _by_look(path: Path) -> Callable[[Path], Columns] | None:
    """What reads a file that is not Parquet."""
    if path.name.endswith((".jsonl", ".jsonl.gz", ".json")):
        return read_pair_lists
    return read_pair_lines if path.name.endswith((".tsv", ".tsv.gz", ".txt")) else None


def _from_others(path: Path, columns: Columns) -> pa.Table:
    if not columns["query_id"]:
        raise UserError(f"{path}: it holds no pairs")
    return pa.table(columns)


def _table(path: Path) -> pa.Table:
    """The columns of a file, checked for presence and gaps."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a Parquet file of pairs ({str(error).splitlines()[0]})") from error
    for name in ("query_id", "passage_i", "passage_j"):
        if name not in table.column_names:
            raise UserError(f"{path}: no column {name}; pairs have {', '.join(COLUMNS)}")
    for name in {*COLUMNS, PROBABILITY} & set(table.column_names):
        if table.column(name).null_count:
            raise UserError(f"{path}: column {name} has {table.column(name).null_count} empty values")
    return table


def _strings(table: pa.Table, name: str, count: int) -> list[str]:
    if name not in table.column_names:
        return [FORWARD if name == "order" else "file"] * count
    values: list[str] = table.column(name).cast(pa.string()).to_pylist()
    return values


def _log_odds(path: Path, table: pa.Table) -> np.ndarray:
    given = [name for name in ("log_odds", PROBABILITY) if name in table.column_names]
    if len(given) != 1:
        raise UserError(f"{path}: a column log_odds (of i over j), or else {PROBABILITY}, is needed")
    values = np.asarray(table.column(given[0]).to_numpy(), np.float64)
    if given == [PROBABILITY]:
        try:
            return from_probability(values)
        except ValueError as error:
            raise UserError(f"{path}: column {PROBABILITY}: {error}") from error
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise UserError(f"{path}: row {wrong[0] + 1} of column log_odds is {values[wrong[0]]}, a number is needed")
    return values.astype(np.float32)
