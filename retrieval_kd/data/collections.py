"""A collection as the steps read it: stored passages, the queries of a split, their judgements."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from retrieval_kd.contracts import Passage, Source, UserError
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.judgements import Judgements
from retrieval_kd.data.masks import ordinary
from retrieval_kd.data.passages import BLOCK, DuplicateIdError, PassageStore, passage_keys
from retrieval_kd.data.progress import track

log = logging.getLogger(__name__)

VERSION = "1"  # of what is chosen and kept: another one gives every collection another digest
NONE = "none"
FIRST_CASES = 3


@dataclass(frozen=True)
class Collection:
    """One split over its passages; ``digest`` names everything that decides the content."""

    name: str
    split: str
    passages: PassageStore
    queries: dict[str, str]
    judgements: Judgements | None
    digest: str


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
        kept = np.sort(np.argsort(_lots(ids), kind="stable")[:limit])
        return {ids[place]: queries[ids[place]] for place in kept}

    def spelled(self) -> str:
        """The same text for the same limit."""
        return json.dumps([self.queries, self.passages], sort_keys=True)


@runtime_checkable
class Places(Protocol):
    """What a source made of files can add: where in them something stands, to be told with a mistake."""

    def passage_places(self, passage_id: str) -> list[str]:
        """``file:line`` of every passage with an id."""

    def judgement_place(self, split: str, query_id: str, passage_id: str) -> str:
        """``file:line`` of a judgement."""


def open_collection(
    source: Source,
    split: str,
    store: Path,
    titles: bool = True,
    limit: Limit | Mapping[str, Any] | None = None,
    judgements: str | None = None,
    unknown: Literal["error", "skip"] = "error",
) -> Collection:
    """Open one split of a source; its passages are stored under ``store`` / passages the first time.

    Args:
        source: where queries, passages and judgements come from.
        split: one of the source's splits.
        store: folder of derived files; deleting it loses time, nothing else.
        titles: whether a passage's text begins with its title.
        limit: see ``Limit``.
        judgements: None takes the source's, ``none`` leaves the collection without (the queries stay).
        unknown: whether a judgement for a query or passage that does not exist is an error, or is left out and counted.
    """
    limit = Limit.of(limit)
    digest = collection_digest(source, split, titles, limit, judgements, unknown)
    everything = _all_passages(source, store, titles)
    labels = _read_labels(source, split, everything)
    if judgements == NONE:
        labels = Labels(source.queries(split), None, [])
    elif labels.unknown:
        _tell_unknown(source, split, labels.unknown, fatal=unknown == "error")
    queries = limit.keep_queries(split, labels.queries)
    if not queries:
        raise UserError(f"{source.name}/{split}: the split has no queries")
    kept = labels.judgements
    if kept is not None:
        kept = {query: kept[query] for query in queries if query in kept}
    passages = _some_passages(source, store, everything, limit)
    return Collection(source.name, split, passages, queries, kept, digest)


def passages_digest(source: Source, titles: bool, limit: Limit | Mapping[str, Any] | None) -> str:
    """Digest of the passages alone: the splits of a collection share indexes and representations."""
    limit = Limit.of(limit)
    # Queries decide which passages are judged, and with it which of them a limited collection keeps.
    kept = "all" if limit.passages is None else limit.spelled()
    return text_digest("passages", VERSION, source.digest(), str(bool(titles)), kept)


def collection_digest(
    source: Source,
    split: str,
    titles: bool = True,
    limit: Limit | Mapping[str, Any] | None = None,
    judgements: str | None = None,
    unknown: str = "error",
) -> str:
    """Digest of the collection that ``open_collection`` would open, without opening it; says what cannot be opened."""
    if judgements not in (None, NONE):
        raise UserError(f"data.judgements: null (the source's) or 'none' expected, found {judgements!r}")
    if unknown not in ("error", "skip"):
        raise UserError(f"data.unknown: 'error' or 'skip' expected, found {unknown!r}")
    if split not in source.splits():
        raise UserError(f"{source.name}: no split {split!r} (data.split); there is {', '.join(source.splits())}")
    limit = Limit.of(limit)
    strange = set(limit.queries) - set(source.splits()) if isinstance(limit.queries, Mapping) else set()
    if strange:
        raise UserError(
            f"data.limit.queries: {source.name} has no split {min(strange)!r}; {', '.join(source.splits())}"
        )
    # Either both opened the same or one of them failed, so ``unknown`` names no content of its own.
    parts = (source.digest(), split, str(bool(titles)), limit.spelled(), str(judgements))
    return text_digest("collection", VERSION, *parts)


def _all_passages(source: Source, store: Path, titles: bool) -> PassageStore:
    path = store / "passages" / text_digest("passages", VERSION, source.digest(), str(bool(titles)))
    if path.exists():
        return PassageStore(path)
    try:
        return PassageStore.build(path, track(_ordinary(source.passages()), f"{source.name}: storing passages"), titles)
    except DuplicateIdError as error:
        if not isinstance(source, Places):
            raise
        first, second, *_ = source.passage_places(error.passage_id)
        raise UserError(f"{second}: passage id {error.passage_id!r} is given twice, first in {first}") from error


def titles_of(source: Source, ids: Iterable[str]) -> dict[str, str]:
    """Titles of some passages as texts begin with them, of those that have one; in one pass over the source."""
    wanted = frozenset(ids)
    found = {}
    for passage in track(source.passages(), f"{source.name}: titles"):
        title = ordinary(passage.title).strip()
        if title and passage.id in wanted:
            found[passage.id] = title
    return found


def _ordinary(passages: Iterable[Passage]) -> Iterator[Passage]:
    """Passages in which nothing passes for a mark of a hidden part."""
    for passage in passages:
        yield Passage(passage.id, ordinary(passage.title), ordinary(passage.text))


def _some_passages(source: Source, store: Path, everything: PassageStore, limit: Limit) -> PassageStore:
    """Part of the passages that ``limit`` keeps, in their order."""
    if limit.passages is None or limit.passages >= len(everything):
        return everything
    key = text_digest("limited passages", VERSION, everything.digest, source.digest(), limit.spelled())
    path = store / "passages" / key
    if path.exists():
        return PassageStore(path)
    judged = everything.rows(sorted(_judged_passages(source, everything, limit)))
    lots = np.concatenate([_lots(everything.ids(rows)) for rows in _blocks(len(everything))])
    lots[judged] = -1  # before all others
    count = max(limit.passages, int((lots < 0).sum()))
    rows = np.sort(np.argsort(lots, kind="stable")[:count])
    return PassageStore.build(path, _stored(everything, rows), titles=False)


def _judged_passages(source: Source, everything: PassageStore, limit: Limit) -> set[str]:
    passages = set[str]()
    for split in source.splits():
        labels = _read_labels(source, split, everything)
        for query in limit.keep_queries(split, labels.queries):
            passages.update((labels.judgements or {}).get(query, ()))
    return passages


def _stored(everything: PassageStore, rows: np.ndarray) -> Iterable[Passage]:
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        for name, text in zip(everything.ids(block), everything.texts(block), strict=True):
            yield Passage(name, "", text)  # the title, if wanted, is in the text


def _blocks(count: int) -> Iterable[np.ndarray]:
    return (np.arange(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def _lots(ids: list[str]) -> np.ndarray:
    """int64 [N] lots that ids draw; the salt keeps them apart from keys that are used elsewhere."""
    return passage_keys([f"lot:{name}" for name in ids])


class Labels(NamedTuple):
    """Queries and judgements of a split that exist, and the (query, passage) judgements that name something unknown."""

    queries: Mapping[str, str]
    judgements: Judgements | None
    unknown: list[tuple[str, str]]


def _read_labels(source: Source, split: str, passages: PassageStore) -> Labels:
    """What a split holds; a query that has nothing but unknown passages goes with its judgements."""
    queries, judgements = source.queries(split), source.judgements(split)
    if judgements is None:
        return Labels(queries, None, [])
    named = list({passage for judged in judgements.values() for passage in judged})
    missing = {passage for passage, row in zip(named, passages.rows(named).tolist(), strict=True) if row < 0}
    kept: Judgements = {}
    unknown: list[tuple[str, str]] = []
    for query, judged in judgements.items():
        absent = judged.keys() if query not in queries else judged.keys() & missing
        unknown += [(query, passage) for passage in judged if passage in absent]
        if len(absent) < len(judged):
            kept[query] = {passage: grade for passage, grade in judged.items() if passage not in absent}
    lost = judgements.keys() - kept.keys()
    return Labels({query: text for query, text in queries.items() if query not in lost}, kept, unknown)


def _tell_unknown(source: Source, split: str, unknown: list[tuple[str, str]], fatal: bool) -> None:
    """Say which judgements name an unknown query or passage: the place of the first, the count, the first cases."""
    query, passage = unknown[0]
    which = f"query {query!r}" if query not in source.queries(split) else f"passage {passage!r}"
    cases = ", ".join(" ".join(case) for case in unknown[:FIRST_CASES]) + ", …" * (len(unknown) > FIRST_CASES)
    many = f"{len(unknown)} judgement(s) name an unknown query or passage: {cases}"
    if not fatal:
        log.warning("%s/%s: %s; left out", source.name, split, many)
        return
    place = source.judgement_place(split, query, passage) if isinstance(source, Places) else f"{source.name}/{split}"
    raise UserError(f"{place}: unknown {which}; {many}; data.unknown=skip leaves them out")
