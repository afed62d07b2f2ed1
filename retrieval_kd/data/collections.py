"""A collection as the steps read it: stored passages, the queries of a split, their judgements."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection as Items
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from retrieval_kd.contracts import Passage, Source, UserError
from retrieval_kd.data.files import atomic_file, text_digest
from retrieval_kd.data.judgements import Judgements
from retrieval_kd.data.limit import Absent, chosen_rows, look_through, lots, only_rows
from retrieval_kd.data.limit import Limit as Limit
from retrieval_kd.data.masks import ordinary
from retrieval_kd.data.passages import BLOCK, DuplicateIdError, PassageStore
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
    answers: Mapping[str, Sequence[str]] | None = None  # texts of which a passage must hold one, by query


@runtime_checkable
class Places(Protocol):
    """What a source made of files can add: where in them something stands, to be told with a mistake."""

    def passage_places(self, passage_id: str) -> list[str]:
        """``file:line`` of every passage with an id."""

    def judgement_place(self, split: str, query_id: str, passage_id: str) -> str:
        """``file:line`` of a judgement."""


@runtime_checkable
class Answered(Protocol):
    """What a source of questions can add: their answers, by which any passage can be judged."""

    def answers(self, split: str) -> Mapping[str, Sequence[str]]:
        """Answers by query id."""


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
    passages, absent = _passages(source, store, titles, limit)
    labels = _read_labels(source, split, absent)
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
    answers = source.answers(split) if isinstance(source, Answered) else None
    if answers is not None:
        answers = {query: answers[query] for query in queries}
    return Collection(source.name, split, passages, queries, kept, digest, answers)


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


def _passages(source: Source, store: Path, titles: bool, limit: Limit) -> tuple[PassageStore, Absent]:
    """What ``limit`` keeps, and what tells ids that no passage has."""
    whole = store / "passages" / text_digest("passages", VERSION, source.digest(), str(bool(titles)))
    if limit.passages is None or whole.exists():
        everything = _all_passages(source, whole, titles)
        return _some_passages(source, store, everything, titles, limit), lambda ids: _absent(everything, ids)
    return _straight(source, store, whole, titles, limit)


def _all_passages(source: Source, path: Path, titles: bool) -> PassageStore:
    if path.exists():
        return PassageStore(path)
    return _built(source, path, track(_ordinary(source.passages()), f"{source.name}: storing passages"), titles)


def _built(source: Source, path: Path, passages: Iterable[Passage], titles: bool) -> PassageStore:
    if path.exists():
        return PassageStore(path)
    try:
        return PassageStore.build(path, passages, titles)
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


def _limited_place(source: Source, store: Path, titles: bool, limit: Limit) -> Path:
    key = text_digest("limited passages", VERSION, source.digest(), str(bool(titles)), limit.spelled())
    return store / "passages" / key


def _some_passages(source: Source, store: Path, everything: PassageStore, titles: bool, limit: Limit) -> PassageStore:
    """Part of the stored passages that ``limit`` keeps, in their order."""
    if limit.passages is None or limit.passages >= len(everything):
        return everything
    path = _limited_place(source, store, titles, limit)
    if path.exists():
        return PassageStore(path)
    judged = everything.rows(sorted(_judged_passages(source, lambda ids: _absent(everything, ids), limit)))
    drawn = np.concatenate([lots(everything.ids(rows)) for rows in _blocks(len(everything))])
    rows = chosen_rows(drawn, judged.tolist(), limit.passages)
    return PassageStore.build(path, _stored(everything, rows), titles=False)


def _straight(source: Source, store: Path, whole: Path, titles: bool, limit: Limit) -> tuple[PassageStore, Absent]:
    """The same part out of a source that is not stored: it is read twice, and the rest is never written."""
    path = _limited_place(source, store, titles, limit)
    # Judged ids without a passage; written first, so it is there with the store.
    note = path.with_suffix(".absent.json")
    if not (path.exists() and note.exists()):
        named = {passage for split in source.splits() for judged in _judged(source, split) for passage in judged}
        drawn, rows = look_through(track(source.passages(), f"{source.name}: choosing passages"), named)
        absent = named - rows.keys()
        if limit.passages is None or limit.passages >= len(drawn):
            return _all_passages(source, whole, titles), absent.intersection
        with atomic_file(note) as temporary:
            temporary.write_text(json.dumps(sorted(absent)))
        judged = _judged_passages(source, absent.intersection, limit)
        kept = only_rows(source.passages(), chosen_rows(drawn, [rows[name] for name in judged], limit.passages))
        return _built(
            source, path, track(_ordinary(kept), f"{source.name}: storing passages"), titles
        ), absent.intersection
    return PassageStore(path), set(json.loads(note.read_text())).intersection


def _judged(source: Source, split: str) -> Iterable[Mapping[str, int]]:
    return (source.judgements(split) or {}).values()


def _judged_passages(source: Source, absent: Absent, limit: Limit) -> set[str]:
    passages = set[str]()
    for split in source.splits():
        labels = _read_labels(source, split, absent)
        for query in limit.keep_queries(split, labels.queries):
            passages.update((labels.judgements or {}).get(query, ()))
    return passages


def _absent(passages: PassageStore, ids: Items[str]) -> set[str]:
    named = list(ids)
    return {name for name, row in zip(named, passages.rows(named).tolist(), strict=True) if row < 0}


def _stored(everything: PassageStore, rows: np.ndarray) -> Iterable[Passage]:
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        for name, text in zip(everything.ids(block), everything.texts(block), strict=True):
            yield Passage(name, "", text)  # the title, if wanted, is in the text


def _blocks(count: int) -> Iterable[np.ndarray]:
    return (np.arange(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


class Labels(NamedTuple):
    """Queries and judgements of a split that exist, and the (query, passage) judgements that name something unknown."""

    queries: Mapping[str, str]
    judgements: Judgements | None
    unknown: list[tuple[str, str]]


def _read_labels(source: Source, split: str, absent: Absent) -> Labels:
    """What a split holds; a query that has nothing but unknown passages goes with its judgements."""
    queries, judgements = source.queries(split), source.judgements(split)
    if judgements is None:
        return Labels(queries, None, [])
    missing = absent({passage for judged in judgements.values() for passage in judged})
    kept: Judgements = {}
    unknown: list[tuple[str, str]] = []
    for query, judged in judgements.items():
        left_out = judged.keys() if query not in queries else judged.keys() & missing
        unknown += [(query, passage) for passage in judged if passage in left_out]
        if len(left_out) < len(judged):
            kept[query] = {passage: grade for passage, grade in judged.items() if passage not in left_out}
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
