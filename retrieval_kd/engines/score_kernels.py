"""Scores of single passages, compiled by numba: the inner products that a brute-force search would have."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from retrieval_kd.engines.posting_kernels import Passages, compiled, inner

LINE = 16  # terms in a line of memory


class Query(NamedTuple):
    """The terms of a query that occur, with what one step of their codes adds to a passage's bound."""

    terms: np.ndarray  # int64 [n] ascending: the order in which a score is added up
    weights: np.ndarray  # float32 [n]
    parts: np.ndarray  # int32 [n]
    order: np.ndarray  # int64 [n] by what the term can add at most, ascending
    later: np.ndarray  # int64 [n] room for those that are postponed
    marks: np.ndarray  # uint8 [V] 1 at these terms
    met: np.ndarray  # int64 [n + 1] room for where a passage has them
    unit: float  # bound / score
    slack: int  # a bound exceeds its score by no more


@inner
def _impact(passages: Passages, at: int, term: int) -> Any:
    """An impact as a score takes it, float32."""
    if len(passages.floats):
        return passages.floats[at]
    if len(passages.halves):
        return _of_half(passages.halves[at])
    return passages.steps[term] * np.float32(passages.codes[at])


@compiled
def _of_half(bits: np.uint16) -> Any:
    """The float32 of a float16 that is positive and finite."""
    exponent = np.int32(bits) >> 10
    fraction = np.float32(np.int32(bits) & 1023)
    if exponent == 0:
        return np.float32(fraction * np.float32(2.0**-24))
    return np.float32((fraction + np.float32(1024)) * np.float32(2.0 ** (exponent - 25)))


@inner
def fetch(passages: Passages, rows: np.ndarray) -> int:
    """Read a little of every line of memory that the terms of some passages are in: a sum that says nothing.

    Scores read passages that lie anywhere, one behind the other. Here those reads do not wait for each other.
    """
    total = 0
    for row in rows:
        for at in range(passages.offsets[row], passages.offsets[row + 1], LINE):
            total += passages.terms[at]
    return total


@inner
def score(passages: Passages, query: Query, row: int) -> Any:
    """The inner product of a query and a passage: products in float32, added in the order of terms."""
    first, met, marks, size = passages.offsets[row], query.met, query.marks, np.uint32(0)
    terms = passages.terms[first : passages.offsets[row + 1]]
    for place in range(len(terms)):
        met[size] = place  # without a branch, which few terms would take and no processor foresees
        size += np.uint32(marks[np.uint32(terms[place])])
    total, i = np.float32(0), 0
    for place in met[:size]:
        term = terms[place]
        while query.terms[i] < term:
            i += 1
        total += query.weights[i] * _impact(passages, first + place, term)
    return total


@compiled
def rescore(
    passages: Passages,
    queries: tuple[np.ndarray, ...],
    first_row: int,
    vocabulary: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Scores [Q, n] of those of the given rows that these passages have, all of whose terms are in ``vocabulary``."""
    terms, weights, lengths = queries
    marks, none = np.zeros(vocabulary, np.uint8), np.empty(0, np.int64)
    for number in range(len(lengths)):
        known = terms[number, : lengths[number]].astype(np.int64)
        known = known[: np.searchsorted(known, vocabulary)]
        met = np.empty(len(known) + 1, np.int64)
        query = Query(known, weights[number], none.astype(np.int32), none, none, marks, met, 0.0, 0)
        marks[known] = 1
        for i in range(rows.shape[1]):
            row = rows[number, i] - first_row
            if 0 <= row < len(passages.offsets) - 1:
                scores[number, i] = score(passages, query, row)
        marks[known] = 0
