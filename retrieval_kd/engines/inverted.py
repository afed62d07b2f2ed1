"""Exact search of sparse representations: posting lists by term, with the scores of a brute-force product."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from retrieval_kd.contracts import Hits, UserError
from retrieval_kd.data.progress import track
from retrieval_kd.engines.posting_lists import (
    QUANTISED,
    Arrays,
    Queries,
    as_given,
    checked,
    errors,
    joined,
    nothing,
    ordered,
    posted,
    refuse_wrong,
    score_kernels,
    search_kernels,
)

if TYPE_CHECKING:
    from retrieval_kd.engines.posting_kernels import Passages, Postings

SMALL = 1 << 16  # passages: what is added to a part of fewer is built together with it
QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class TwoPhase:
    """Find candidates by a query's heaviest terms, score them by all; what only light terms would find is missed.

    Args:
        share: A term is heavy from this share of the query's heaviest weight on.
        expansion: Candidates for each passage that is asked for.
        most: Candidates at most.
    """

    share: float = 0.4
    expansion: float = 5.0
    most: int = 10_000

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.expansion < 1 or self.most < 1:
            raise UserError(
                f"engine.two_phase: share is between 0 and 1, expansion and most are at least 1, not {self}"
            )


class QuantisationLoss(NamedTuple):
    """What smaller impacts change, against the weights that they were made of."""

    largest_error: float  # of an impact
    mean_error: float
    found: float  # share of the k best passages that are still found
    ordered: float  # share of the pairs of those that still have the order of their scores


class _Part(NamedTuple):
    """Passages that were built together: rows from ``first`` on."""

    first: int
    given: Arrays
    postings: Postings
    passages: Passages

    @property
    def size(self) -> int:
        return len(self.passages.offsets) - 1


class InvertedIndex:
    """Inner products of sparse queries and passages.

    Only passages that score more than 0 are hits, so a query without terms has none, and a passage without terms is
    never one. Scores are float32 products added up in float32, in the order of terms, whatever was built when and
    however many threads search; equal scores come in the order of rows.

    Args:
        passages: ``terms``, ``weights`` and ``offsets`` of all passages, one after the other; may be memory-mapped.
        quantise: How impacts are kept: none (float32), f16, or u8 (255 steps up to a term's largest impact). Scores
            are those of the kept impacts; ``quantisation_loss`` tells the difference.
        two_phase: Settings of ``TwoPhase``, which is faster and not exact.
        threads: For queries that are searched together.
        vocabulary: The number of terms that there are; a term beyond is then refused, here and in queries.
    """

    def __init__(
        self,
        passages: Arrays,
        quantise: str = "none",
        two_phase: Mapping[str, Any] | None = None,
        threads: int = 1,
        vocabulary: int | None = None,
    ) -> None:
        if quantise not in QUANTISED:
            raise UserError(f"engine.quantise: {quantise!r} is not one of {', '.join(QUANTISED)}")
        self.quantise = quantise
        self.two_phase = None if two_phase is None else _two_phase(two_phase)
        self.threads = threads
        self.vocabulary = vocabulary
        self._parts: list[_Part] = []
        self._hidden: np.ndarray | None = None  # [N]
        self.add(passages)

    @property
    def exact(self) -> bool:
        """Whether hits are those of the products of what was given."""
        return self.quantise == "none" and self.two_phase is None

    def __len__(self) -> int:
        return sum(part.size for part in self._parts)

    @property
    def size_in_bytes(self) -> int:
        """Memory of the posting lists, the passages' own arrays not counted."""
        arrays = (array for part in self._parts for array in part.postings if isinstance(array, np.ndarray))
        return sum(array.nbytes for array in arrays)

    # ---- what is held

    def add(self, passages: Arrays) -> None:
        """Hold further passages, their rows after those that are held; results are as if all had come at once.

        With u8, steps are those of the passages that were built together, so scores may differ by a step.
        """
        first, more, kept = len(self), len(passages["offsets"]) - 1, len(self._parts)
        refuse_wrong(as_given(passages), first, self.vocabulary)
        if self._parts and self._parts[-1].size + more <= SMALL:
            before = self._parts[-1]
            first, passages, kept = before.first, joined(before.given, passages), kept - 1
        built = _Part(first, passages, *posted(passages, self.quantise))  # may be refused: nothing has changed by then
        self._parts[kept:] = [built]
        if self._hidden is not None:
            self._hidden = np.concatenate([self._hidden, np.zeros(more, np.bool_)])

    def remove(self, rows: np.ndarray) -> None:
        """Never find these passages again; the rows of the others stay."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise ValueError(f"rows are between 0 and {len(self) - 1}")
        if self._hidden is None:
            self._hidden = np.zeros(len(self), np.bool_)
        self._hidden[rows] = True

    # ---- search

    def search(self, queries: Arrays, k: int, keep: np.ndarray | None = None) -> Hits:
        """The k passages of highest inner product, equal scores in the order of rows; ``keep`` [N] hides the others.

        ``queries`` are padded: ``terms`` and ``weights`` [Q, n], and ``lengths`` [Q].
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        asked = checked(queries, self.vocabulary)
        if self.two_phase is None:
            return self._best(asked, k, keep)
        candidates = max(k, min(int(k * self.two_phase.expansion), self.two_phase.most))
        rows = self._best(_heaviest(asked, self.two_phase.share), candidates, keep).rows
        return ordered(rows, self.scores(queries, rows), k)

    def scores(self, queries: Arrays, rows: np.ndarray) -> np.ndarray:
        """float32 [Q, n] of given rows [Q, n], as a search would score them; -inf where a row is -1."""
        result = np.full(rows.shape, -np.inf, np.float32)
        asked = checked(queries, self.vocabulary)
        for part in self._parts:
            score_kernels().rescore(part.passages, asked, part.first, len(part.postings.steps), rows, result)
        return result

    def _best(self, queries: Queries, k: int, keep: np.ndarray | None) -> Hits:
        hidden = self._hidden
        if keep is not None:
            hidden = ~keep if hidden is None else hidden | ~keep
        size = len(queries[2])
        if size <= QUERIES_AT_ONCE and self.threads == 1:
            return self._best_of_some(queries, k, hidden)
        starts = range(0, size, max(1, min(QUERIES_AT_ONCE, -(-size // self.threads))))
        parts = [tuple(array[start : start + starts.step] for array in queries) for start in starts]
        with ThreadPoolExecutor(self.threads) as pool:
            tasks = pool.map(lambda part: self._best_of_some(part, k, hidden), parts)
            found = list(track(tasks, "search", len(parts)))
        return Hits(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))

    def _best_of_some(self, queries: tuple[np.ndarray, ...], k: int, hidden: np.ndarray | None) -> Hits:
        hits = nothing(len(queries[2]), k)
        for part in self._parts:
            postings = part.postings
            if hidden is not None:
                postings = postings._replace(hidden=hidden[part.first : part.first + part.size])
            found = nothing(*hits.rows.shape) if part.first else hits
            floors, scratch = np.maximum(hits.scores[:, -1], 0), search_kernels().scratch(k, postings.blocks)
            search_kernels().search(postings, part.passages, queries, floors, scratch, *found)
            if part.first:
                found.rows[found.rows >= 0] += part.first
                found = ordered(np.hstack([hits.rows, found.rows]), np.hstack([hits.scores, found.scores]), k)
            hits = found
        return hits

    # ---- what is lost

    def quantisation_loss(self, queries: Arrays, k: int = 10) -> QuantisationLoss:
        """Compare with impacts in float32, on the k best passages of these queries; builds such an index beside."""
        exact = InvertedIndex(self._parts[0].given)
        for part in self._parts[1:]:
            exact.add(part.given)
        best, ours = exact.search(queries, k), self._best(checked(queries, self.vocabulary), k, None)
        both = sum(len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(best.rows, ours.rows, strict=True))
        found = best.rows >= 0
        pairs = (best.scores[:, :, None] > best.scores[:, None, :]) & (found[:, :, None] & found[:, None, :])
        after = self.scores(queries, best.rows)
        same = (after[:, :, None] > after[:, None, :]) & pairs
        differences = [errors(part.given, part.postings.steps, self.quantise) for part in self._parts]
        impacts = sum(len(part.postings.packed) for part in self._parts)
        return QuantisationLoss(
            largest_error=max(largest for largest, _ in differences),
            mean_error=sum(total for _, total in differences) / max(1, impacts),
            found=both / max(1, int(found.sum())),
            ordered=float(same.sum() / max(1, pairs.sum())),
        )


def _two_phase(settings: Mapping[str, Any]) -> TwoPhase:
    known = [field.name for field in fields(TwoPhase)]
    for name in settings.keys() - set(known):
        raise UserError(f"engine.two_phase.{name} is not known; there are {', '.join(known)}")
    return TwoPhase(**settings)


def _heaviest(queries: Queries, share: float) -> Queries:
    """The queries with those of their terms alone that weigh at least ``share`` of the heaviest."""
    terms, weights, lengths = queries
    weights = np.where(np.arange(terms.shape[1]) < lengths[:, None], weights, 0)
    heavy = (weights > 0) & (weights >= share * weights.max(1, keepdims=True, initial=0))
    order = np.argsort(~heavy, axis=1, kind="stable")
    return np.take_along_axis(terms, order, 1), np.take_along_axis(weights, order, 1), heavy.sum(1)
