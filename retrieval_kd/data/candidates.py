"""Candidates: for each query a list of passages with their roles and where they came from; columns, kept as Parquet."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_kd.contracts import Role, UserError
from retrieval_kd.data.files import atomic_file

COLUMNS = ("query_id", "passage_id", "role", "rank", "source", "round", "relevance")
NUMBERS = ("rank", "round", "relevance")
ROLES = {role.name.lower(): role for role in Role if role != Role.NONE}


class Candidate(NamedTuple):
    """One passage of a query's list."""

    passage_id: str
    role: Role
    rank: int  # in the run that it was mined from, from 1; 0 where it came from no run
    source: str
    round: int
    relevance: int  # judged; 0 where nobody judged


class CandidateList(NamedTuple):
    """The list of one query."""

    query_id: str
    passage_ids: list[str]
    role: np.ndarray  # [n] int8
    rank: np.ndarray  # [n] int32
    source: list[str]
    round: np.ndarray  # [n] int32
    relevance: np.ndarray  # [n] int32

    def candidates(self) -> list[Candidate]:
        """The list row by row."""
        roles, ranks, rounds = map(Role, self.role.tolist()), self.rank.tolist(), self.round.tolist()
        rows = zip(self.passage_ids, roles, ranks, self.source, rounds, self.relevance.tolist(), strict=True)
        return [Candidate(*row) for row in rows]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Lists of all queries in flat columns; query q has rows ``offsets[q]`` to ``offsets[q + 1]``.

    A query may have an empty list in memory; a file holds only queries with candidates.
    """

    query_ids: list[str]
    offsets: np.ndarray  # [Q + 1] int64
    passage_ids: list[str]
    role: np.ndarray  # int8
    rank: np.ndarray  # int32
    source: list[str]
    round: np.ndarray  # int32
    relevance: np.ndarray  # int32

    def __post_init__(self) -> None:
        rows = len(self.passage_ids)
        if any(len(getattr(self, name)) != rows for name in ("role", *NUMBERS, "source")):
            raise ValueError("columns of candidates differ in length")
        if len(self.offsets) != len(self.query_ids) + 1 or self.offsets[0] != 0 or self.offsets[-1] != rows:
            raise ValueError(f"offsets do not split {rows} rows into {len(self.query_ids)} lists")
        if (np.diff(self.offsets) < 0).any():
            raise ValueError("offsets must not fall")
        if not np.isin(self.role, [int(role) for role in ROLES.values()]).all():
            raise ValueError("a candidate has a role that is none")
        if len(set(self.query_ids)) != len(self.query_ids):
            raise ValueError("a query has two lists")

    def __len__(self) -> int:
        return len(self.passage_ids)

    @classmethod
    def from_lists(cls, lists: Iterable[tuple[str, Sequence[Candidate]]]) -> Candidates:
        """Columns of (query id, candidates) as they come."""
        query_ids: list[str] = []
        passage_ids: list[str] = []
        source: list[str] = []
        ends, role = array("q", [0]), array("b")
        rank, round_, relevance = array("i"), array("i"), array("i")
        columns: tuple[Any, ...] = (passage_ids, role, rank, source, round_, relevance)
        for query_id, found in lists:
            for column, values in zip(columns, zip(*found, strict=True), strict=bool(found)):
                column.extend(values)
            query_ids.append(query_id)
            ends.append(len(passage_ids))
        rank_, rounds, relevances = (np.array(column, np.int32) for column in (rank, round_, relevance))
        return cls(query_ids, np.array(ends), passage_ids, np.array(role, np.int8), rank_, source, rounds, relevances)

    def lists(self) -> Iterator[CandidateList]:
        """One query after another."""
        for query_id, first, last in zip(self.query_ids, self.offsets[:-1], self.offsets[1:], strict=True):
            part = slice(first, last)
            yield CandidateList(
                query_id,
                self.passage_ids[part],
                self.role[part],
                self.rank[part],
                self.source[part],
                self.round[part],
                self.relevance[part],
            )

    def keep(self, mask: np.ndarray) -> Candidates:
        """The rows where ``mask`` [n] is true; a query that loses all of its own keeps an empty list."""
        rows = np.flatnonzero(mask)
        ends = np.concatenate([[0], np.cumsum(mask)])[self.offsets]
        return Candidates(
            self.query_ids,
            ends.astype(np.int64),
            [self.passage_ids[row] for row in rows.tolist()],
            self.role[rows],
            self.rank[rows],
            [self.source[row] for row in rows.tolist()],
            self.round[rows],
            self.relevance[rows],
        )

    def row_query_ids(self) -> list[str]:
        """The query id of every row, for work on flat pairs."""
        sizes = np.diff(self.offsets).tolist()
        return [query_id for query_id, size in zip(self.query_ids, sizes, strict=True) for _ in range(size)]

    def count_by_role(self) -> dict[Role, int]:
        """Rows of each role that occurs."""
        roles, counts = np.unique(self.role, return_counts=True)
        return {Role(role): count for role, count in zip(roles.tolist(), counts.tolist(), strict=True)}

    def write(self, path: Path) -> None:
        """Write Parquet, ids and names as dictionaries."""
        rows = np.repeat(np.arange(len(self.query_ids), dtype=np.int32), np.diff(self.offsets))
        names = [role.lower() for role in Role.__members__ if role != "NONE"]
        table = pa.table(
            {
                "query_id": pa.DictionaryArray.from_arrays(rows, pa.array(self.query_ids, pa.string())),
                "passage_id": pa.array(self.passage_ids, pa.string()).dictionary_encode(),
                "role": pa.DictionaryArray.from_arrays(self.role, pa.array(names)),
                "rank": self.rank,
                "source": pa.array(self.source, pa.string()).dictionary_encode(),
                "round": self.round,
                "relevance": self.relevance,
            }
        )
        with atomic_file(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> Candidates:
        """Read and check a file; queries in the order of their first rows, whether or not these stand together."""
        table = _table(path)
        query_codes, query_ids = _encoded(table, "query_id")
        role_codes, role_names = _encoded(table, "role")
        unknown = sorted(set(role_names) - set(ROLES))
        if unknown:
            raise UserError(f"{path}: unknown role {unknown[0]!r} in column role; roles are {', '.join(ROLES)}")
        order = np.argsort(query_codes, kind="stable")
        passage_codes, passage_names = _encoded(table, "passage_id")
        source_codes, source_names = _encoded(table, "source")
        _refuse_repetition(path, query_codes, passage_codes, query_ids, passage_names)
        rank, round_, relevance = (table.column(name).to_numpy().astype(np.int32)[order] for name in NUMBERS)
        sizes = np.bincount(query_codes, minlength=len(query_ids))
        return cls(
            query_ids,
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            [passage_names[code] for code in passage_codes[order].tolist()],
            np.array([ROLES[name] for name in role_names], np.int8)[role_codes[order]],
            rank,
            [source_names[code] for code in source_codes[order].tolist()],
            round_,
            relevance,
        )


def _table(path: Path) -> pa.Table:
    """The seven columns of a file, checked for presence, type and gaps."""
    try:
        present = pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a Parquet file of candidates ({str(error).splitlines()[0]})") from error
    missing = [name for name in COLUMNS if name not in present.names]
    if missing:
        raise UserError(f"{path}: no column {missing[0]}; candidates have {', '.join(COLUMNS)}")
    for name in NUMBERS:
        if not pa.types.is_integer(present.field(name).type):
            raise UserError(f"{path}: column {name} must hold whole numbers, not {present.field(name).type}")
    table = pq.read_table(path, columns=list(COLUMNS), read_dictionary=["query_id", "passage_id", "role", "source"])
    for name in COLUMNS:
        if table.column(name).null_count:
            raise UserError(f"{path}: column {name} has {table.column(name).null_count} empty values")
    return table


def _encoded(table: pa.Table, name: str) -> tuple[np.ndarray, list[str]]:
    """Codes and names of a column of strings, names in the order of their first rows."""
    column = table.column(name).cast(pa.string()).dictionary_encode().combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return array.indices.to_numpy().astype(np.int64), array.dictionary.to_pylist()


def _refuse_repetition(
    path: Path, queries: np.ndarray, passages: np.ndarray, query_ids: list[str], passage_ids: list[str]
) -> None:
    keys = queries * max(len(passage_ids), 1) + passages
    unique, first = np.unique(keys, return_index=True)
    if len(unique) < len(keys):
        row = int(np.setdiff1d(np.arange(len(keys)), first)[0])
        raise UserError(
            f"{path}: row {row + 1} repeats passage {passage_ids[passages[row]]!r} "
            f"for query {query_ids[queries[row]]!r}"
        )
