"""Ranked lists and their TREC files, the currency between search, mining, teachers and evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from retrieval_kd.contracts import Hits, PassageTexts, UserError
from retrieval_kd.data.files import atomic_file


class Run:
    """For each query its passages, best first: by score descending, equal scores by id descending as in trec_eval.

    Query i owns the entries ``offsets[i]:offsets[i + 1]`` of ``passage_ids`` and ``scores``. What is given in another
    order is sorted on the way in. Arrays are not to be written to.
    """

    def __init__(
        self, query_ids: Sequence[str], offsets: np.ndarray, passage_ids: np.ndarray, scores: np.ndarray
    ) -> None:
        self.query_ids = list(query_ids)
        self.offsets = np.asarray(offsets, dtype=np.int64)  # [Q + 1]
        scores = np.asarray(scores, dtype=np.float32) + np.float32(0)  # a copy in which -0 is 0
        if len(self.offsets) != len(self.query_ids) + 1 or not self.offsets[-1] == len(passage_ids) == len(scores):
            raise ValueError("offsets, passage ids and scores do not fit each other")
        if len(self._rows) != len(self.query_ids):
            raise ValueError("a query id occurs twice")
        self._refuse_nan(scores)
        self.passage_ids, self.scores = _sorted(self._owners, np.asarray(passage_ids, dtype=object), scores)

    @classmethod
    def from_hits(cls, query_ids: Sequence[str], hits: Hits, passages: PassageTexts) -> Run:
        """What an engine found, rows -1 left out."""
        found = hits.rows >= 0
        rows, inverse = np.unique(hits.rows[found], return_inverse=True)
        ids = _objects(passages.ids(rows))  # each id is one object, however often it was found
        return cls(query_ids, _offsets(found.sum(1)), ids[inverse], hits.scores[found])

    @classmethod
    def from_dict(cls, lists: Mapping[str, Mapping[str, float]]) -> Run:
        """Scores by query id and passage id."""
        ids = _objects(list(chain.from_iterable(lists.values())))
        scores = np.fromiter(chain.from_iterable(scores.values() for scores in lists.values()), np.float32, len(ids))
        return cls(list(lists), _offsets([len(scores) for scores in lists.values()]), ids, scores)

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a TREC run; lines may come in any order, queries keep the order in which they first appear."""
        if not path.is_file():
            raise UserError(f"{path}: there is no such run file")
        lines = _read_regular(path)
        run = cls(*lines.by_query()) if lines else None
        # Whatever is not plainly right goes to the patient reader, which takes any blanks and names faulty lines.
        if run is None or any(len(set(ids.tolist())) < len(ids) for _, ids, _ in run):
            run = cls(*_read_patiently(path).by_query())
        return run

    def write(self, path: Path, tag: str) -> None:
        """Write a TREC run that reads back exactly; queries without passages have no line in such a file."""
        _refuse_blanks([tag], "run tag")
        _refuse_blanks(self.query_ids, "query id")
        depth = int(np.diff(self.offsets).max(initial=0))
        # Nine significant digits name every float32. A line's constant parts are made once, not once per query.
        lines = [f" Q0 %s {rank} %.9g {tag.replace('%', '%%')}\n" for rank in range(1, depth + 1)]
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
            for query_id, ids, scores in self:
                texts = ids.tolist()
                _refuse_blanks(texts, f"passage id of query {query_id}")
                name = query_id.replace("%", "%%")
                template = "".join([name + line for line in lines[: len(texts)]])
                stream.write(template % tuple(chain.from_iterable(zip(texts, scores.tolist(), strict=True))))

    def __len__(self) -> int:
        return len(self.query_ids)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Query id, its passage ids, its scores."""
        bounds = self.offsets.tolist()
        for query_id, start, end in zip(self.query_ids, bounds, bounds[1:], strict=False):
            yield query_id, self.passage_ids[start:end], self.scores[start:end]

    def __contains__(self, query_id: str) -> bool:
        return query_id in self._rows

    def __getitem__(self, query_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Passage ids and scores of one query."""
        row = self._rows[query_id]
        entries = slice(self.offsets[row], self.offsets[row + 1])
        return self.passage_ids[entries], self.scores[entries]

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Scores by query id and passage id."""
        return {query: dict(zip(ids.tolist(), scores.tolist(), strict=True)) for query, ids, scores in self}

    def depth(self, k: int) -> Run:
        """The first k passages of every query."""
        ranks = np.arange(len(self.scores)) - self.offsets[self._owners]
        return self._keep(ranks < k)

    def without_identical_ids(self) -> Run:
        """Leave out a passage whose id is its query's, as BEIR does: such a query is itself a passage."""
        same = self.passage_ids == _objects(self.query_ids)[self._owners]
        return self._keep(~same) if same.any() else self

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {query_id: row for row, query_id in enumerate(self.query_ids)}

    @property
    def _owners(self) -> np.ndarray:
        """[N] the query of every entry."""
        return np.repeat(np.arange(len(self.query_ids)), np.diff(self.offsets))

    def _keep(self, kept: np.ndarray) -> Run:
        counts = np.bincount(self._owners[kept], minlength=len(self.query_ids))
        return Run(self.query_ids, _offsets(counts), self.passage_ids[kept], self.scores[kept])

    def _refuse_nan(self, scores: np.ndarray) -> None:
        entries = np.flatnonzero(np.isnan(scores))
        if len(entries):
            query_id = self.query_ids[self._owners[entries[0]]]
            raise UserError(f"query {query_id}: {len(entries)} scores of the run are NaN, the first of them here")


def _sorted(owners: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entries in order; engines give scores in order already, so that only ties are looked at."""
    same_query = owners[1:] == owners[:-1]
    if (same_query & (scores[1:] > scores[:-1])).any():
        order = np.lexsort((-scores, owners))
        ids, scores = ids[order], scores[order]
    tied = np.flatnonzero(same_query & (scores[1:] == scores[:-1]))
    if not (ids[tied] < ids[tied + 1]).any():
        return ids, scores
    ids = ids.copy()
    for group in np.split(tied, np.flatnonzero(np.diff(tied) > 1) + 1):
        entries = slice(group[0], group[-1] + 2)
        ids[entries] = sorted(ids[entries], reverse=True)
    return ids, scores


def _refuse_blanks(ids: list[str], what: str) -> None:
    """A TREC file is split at blanks."""
    if len("\n".join(ids).encode().split()) != len(ids):
        wrong = next(
            text for text in ids if len(text.encode().split()) != 1 or text.encode().split()[0] != text.encode()
        )
        raise UserError(f"{what} {wrong!r}: a TREC run cannot hold an id that is empty or has blanks in it")


def _offsets(counts: np.ndarray | list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def _objects(texts: Sequence[str]) -> np.ndarray:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


COLUMNS = ("query", "iteration", "passage", "rank", "score", "tag")


class _Lines(NamedTuple):
    """The lines of a run file."""

    query_ids: list[str]  # in the order of their first lines
    queries: np.ndarray  # [N] int, positions in query_ids
    passage_ids: np.ndarray  # [N] str
    scores: np.ndarray  # [N] float32

    def by_query(self) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """What a run is made of."""
        order = np.argsort(self.queries, kind="stable")
        offsets = _offsets(np.bincount(self.queries, minlength=len(self.query_ids)))
        return self.query_ids, offsets, self.passage_ids[order], self.scores[order]


def _read_regular(path: Path) -> _Lines | None:
    """Read a file whose fields are parted by single blanks; None if anything about it is unusual."""
    with path.open("rb") as stream:
        delimiter = "\t" if b"\t" in stream.readline(1 << 16) else " "
    word = pa.dictionary(pa.int32(), pa.string())
    # Passage ids stay plain: there are millions, few of them twice, and a dictionary of them takes three times as long.
    types = dict.fromkeys(COLUMNS, word) | {"passage": pa.string(), "rank": pa.int64(), "score": pa.float32()}
    try:
        table = csv.read_csv(
            path,
            csv.ReadOptions(column_names=COLUMNS),
            csv.ParseOptions(delimiter=delimiter, quote_char=False),
            csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False),
        )
    except pa.ArrowInvalid:
        return None
    table = table.unify_dictionaries().combine_chunks()
    scores = table["score"].to_numpy()
    if not len(table) or np.isnan(scores).any():
        return None
    words = {name: table[name].chunk(0) for name in COLUMNS if types[name] == word}
    texts = [table["passage"], *(column.dictionary for column in words.values())]
    if any(pc.any(pc.match_substring_regex(text, r"\s|^$")).as_py() for text in texts):
        return None
    query = words["query"]
    return _Lines(query.dictionary.to_pylist(), query.indices.to_numpy(), table["passage"].to_numpy(), scores)


def _read_patiently(path: Path) -> _Lines:
    """Read line by line, parted by any blanks; a fault names its line."""
    queries: dict[str, int] = {}
    first_lines: dict[tuple[int, str], int] = {}
    scores = []
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            fields = line.split()  # of bytes: at ASCII blanks only
            if not fields:
                continue
            query_id, passage_id, score = _fields(fields, f"{path}:{number}")
            first = first_lines.setdefault((queries.setdefault(query_id, len(queries)), passage_id), number)
            if first != number:
                known = f"was ranked for query {query_id} in line {first} already"
                raise UserError(f"{path}:{number}: passage {passage_id} {known}")
            scores.append(score)
    if not scores:
        raise UserError(f"{path}: the run file is empty")
    owners = np.array([query for query, _ in first_lines], dtype=np.int64)
    ids = _objects([passage_id for _, passage_id in first_lines])
    return _Lines(list(queries), owners, ids, np.array(scores, dtype=np.float32))


def _fields(fields: list[bytes], where: str) -> tuple[str, str, float]:
    """Query id, passage id and score of one line."""
    if len(fields) != len(COLUMNS):
        raise UserError(f"{where}: {len(fields)} columns, a TREC run has six: query Q0 passage rank score tag")
    try:
        query_id, passage_id = fields[0].decode(), fields[2].decode()
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8") from None
    try:
        int(fields[3])
        score = float(fields[4])
    except ValueError:
        rank_and_score = b" ".join(fields[3:5]).decode(errors="replace")
        raise UserError(f"{where}: rank and score must be numbers, got {rank_and_score}") from None
    if math.isnan(score):
        raise UserError(f"{where}: the score is NaN")
    return query_id, passage_id, score
