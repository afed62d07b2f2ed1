"""What sparse representations cost to search: overlapping terms per pair, terms per text, bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from retrieval_kd.functional.sparsity import term_shares

ROWS = 1 << 20  # texts whose lengths are read at once
CELLS = 1 << 20  # terms of queries that are looked up at once


@dataclass(frozen=True)
class Terms:
    """How many terms the texts of one side have."""

    texts: int
    mean: float
    median: float
    most: int
    empty: int  # texts without any: as passages they are never found, as queries they find nothing


@dataclass(frozen=True)
class Sparsity:
    """Both sides together."""

    flops: float  # terms that a query and a passage share, mean over all pairs; times passages: postings per query
    flops_p99: float  # of the queries: the dear ones decide the P99 of an exact scan
    passages: Terms
    queries: Terms
    index_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Everything, for result files."""
        return asdict(self)

    def columns(self) -> dict[str, float]:
        """What a table shows beside quality."""
        return {
            "flops": round(self.flops, 4),
            "passage_terms_mean": round(self.passages.mean, 2),
            "passage_terms_median": self.passages.median,
            "query_terms_mean": round(self.queries.mean, 2),
            "query_terms_median": self.queries.median,
            "index_bytes": self.index_bytes,
        }


def measure(
    passages: Mapping[str, np.ndarray],
    queries: Mapping[str, np.ndarray],
    vocabulary: int,
    index_bytes: int | None = None,
) -> Sparsity:
    """Costs of stored passages (``terms``, ``weights``, ``offsets``) and padded queries (``terms``, ``lengths``).

    Args:
        passages: flat arrays, which may be memory maps larger than memory; a text's terms are distinct.
        queries: [Q, K], the first ``lengths`` entries of a row are its terms.
        vocabulary: number of terms that there are.
        index_bytes: what the engine holds, if that is not the stored arrays themselves.
    """
    count = len(passages["offsets"]) - 1
    if count < 1 or not len(queries["lengths"]):
        raise ValueError(f"{count} passages and {len(queries['lengths'])} queries to compare")
    if passages["offsets"][-1] != len(passages["terms"]):
        raise ValueError(f"offsets end at {passages['offsets'][-1]}, there are {len(passages['terms'])} terms")
    overlaps = shared_terms(queries, term_shares(passages["terms"], count, vocabulary))
    return Sparsity(
        flops=float(overlaps.mean()),
        flops_p99=float(np.quantile(overlaps, 0.99, method="inverted_cdf")),
        passages=_terms(np.diff(passages["offsets"][start : start + ROWS + 1]) for start in range(0, count, ROWS)),
        queries=_terms([np.asarray(queries["lengths"])]),
        index_bytes=sum(array.nbytes for array in passages.values()) if index_bytes is None else index_bytes,
    )


def shared_terms(queries: Mapping[str, np.ndarray], shares: np.ndarray) -> np.ndarray:
    """Mean number of terms that each padded query shares with a passage, float64 [Q].

    ``shares`` [V] says which share of the passages holds a term.
    """
    terms, lengths = np.asarray(queries["terms"]), np.asarray(queries["lengths"])
    found = np.empty(len(terms))
    step = max(1, CELLS // max(1, terms.shape[1]))
    for start in range(0, len(terms), step):
        part = slice(start, start + step)
        active = np.arange(terms.shape[1]) < lengths[part, None]
        found[part] = np.where(active, shares[terms[part]], 0).sum(1)
    return found


def _terms(lengths: Iterator[np.ndarray] | list[np.ndarray]) -> Terms:
    """From a histogram, which is no larger than the longest text, however many there are."""
    histogram = np.zeros(1, np.int64)
    for part in lengths:
        counts = np.bincount(part)
        histogram = np.pad(histogram, (0, max(0, len(counts) - len(histogram))))
        histogram[: len(counts)] += counts
    texts = int(histogram.sum())
    middle = np.searchsorted(histogram.cumsum(), [(texts - 1) // 2, texts // 2], side="right")
    return Terms(
        texts=texts,
        mean=float(histogram @ np.arange(len(histogram))) / texts,
        median=float(middle.mean()),
        most=int(np.flatnonzero(histogram)[-1]),
        empty=int(histogram[0]),
    )
