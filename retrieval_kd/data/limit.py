"""A fixed part of a source: which queries and passages stay, and how that part is stored without storing the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.passages import BLOCK, passage_keys


@dataclass(frozen=True)
class Limit:
    """A fixed part of a source, the same on every machine and for every order of the files.

    ``queries``: at most so many of every split, or a number by split (a split that is not named keeps all).
    ``passages``: at most so many, one set for all splits: first those that are judged for the kept queries of any
    split, which all stay even if they are more, then others. Who stays is decided by a hash of the id, so a larger
    limit keeps all that a smaller one keeps.
    """

    queries: int | Mapping[str, int] | None = None
    passages: int | None = None

    @classmethod
    def of(cls, value: Limit | Mapping[str, Any] | None) -> Limit:
        """Read a limit as configs write it: ``{queries: N, passages: M}``, each may be left out or null."""
        if value is None or isinstance(value, Limit):
            return value or cls()
        allowed = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or set(value) - set(allowed):
            raise UserError(f"data.limit: {{queries: N, passages: M}} expected, found {value!r}")
        queries, passages = value.get("queries"), value.get("passages")
        numbers = [*queries.values()] if isinstance(queries, Mapping) else [queries]
        if any(type(number) is not int or number < 1 for number in (*numbers, passages) if number is not None):
            raise UserError(f"data.limit: whole numbers from 1 expected, found {value!r}")
        return cls(dict(queries) if isinstance(queries, Mapping) else queries, passages)

    def of_split(self, split: str) -> int | None:
        """How many queries of a split may stay; None for all."""
        return self.queries.get(split) if isinstance(self.queries, Mapping) else self.queries

    def keep_queries(self, split: str, queries: Mapping[str, str]) -> dict[str, str]:
        """The queries that stay, in their order."""
        limit = self.of_split(split)
        if limit is None or limit >= len(queries):
            return dict(queries)
        ids = list(queries)
        kept = np.sort(np.argsort(lots(ids), kind="stable")[:limit])
        return {ids[place]: queries[ids[place]] for place in kept}

    def spelled(self) -> str:
        """The same text for the same limit."""
        return json.dumps([self.queries, self.passages], sort_keys=True)


def lots(ids: list[str]) -> np.ndarray:
    """int64 [N] lots that ids draw; the salt keeps them apart from keys that are used elsewhere."""
    return passage_keys([f"lot:{name}" for name in ids])


def chosen_rows(drawn: np.ndarray, first: Collection[int], limit: int) -> np.ndarray:
    """Rows in their order: all of ``first``, then those that drew the least lots [N], until there are ``limit``."""
    drawn = drawn.copy()
    drawn[list(first)] = -1  # before all others
    count = max(limit, int((drawn < 0).sum()))
    return np.sort(np.argsort(drawn, kind="stable")[:count])


def look_through(passages: Iterable[Passage], wanted: Collection[str]) -> tuple[np.ndarray, dict[str, int]]:
    """The lots [N] of all passages, and the rows of those that are wanted: 8 bytes a passage, and no text is kept."""
    drawn, rows, start = [np.empty(0, np.int64)], dict[str, int](), 0
    for block in _blocks(passages):
        ids = [passage.id for passage in block]
        drawn.append(lots(ids))
        rows |= {name: row for row, name in enumerate(ids, start) if name in wanted}
        start += len(ids)
    return np.concatenate(drawn), rows


def only_rows(passages: Iterable[Passage], rows: np.ndarray) -> Iterator[Passage]:
    """The passages of some rows, which rise; what follows the last of them is not read."""
    stream, at = iter(passages), 0
    for row in rows.tolist():
        yield next(islice(stream, row - at, None))
        at = row + 1


def _blocks(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    stream = iter(passages)
    while block := list(islice(stream, BLOCK)):
        yield block


Absent = Callable[[Collection[str]], set[str]]
"""Tells which of some passage ids no passage has."""
