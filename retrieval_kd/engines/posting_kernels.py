"""Posting lists, compiled by numba. Import it when a search is wanted: numba takes a second.

Passages are numbered in blocks of ``BLOCK``; a cell is the postings of one term in one block. Every impact has two
forms: a code of eight bits that never understates it, for finding the passages that could be among the k best, and the
impact itself, for their scores. Where a term stands in a large part of a block, its codes are kept as a column too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit

BLOCK = 8192  # passages: their sums (32 KB) stay in the nearest cache
DENSE = BLOCK // 16  # postings from which on a cell has a column, which adds up without jumping about
RANKS = (10, 100, 1000)

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile on the first call, keep the result on disk, let other threads run meanwhile."""
    result: Any = njit(nogil=True, cache=True)(function)
    return cast(Function, result)


def inner(function: Function) -> Function:
    """The same for what only compiled functions call: without the way in from Python it compiles faster.

    Python must not call it, which ends the process.
    """
    without: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    result: Any = njit(nogil=True, cache=True, **without)(function)
    return cast(Function, result)


class Postings(NamedTuple):
    """Passages by term; cell ``term * blocks + block`` owns the postings ``starts[cell]:starts[cell + 1]``."""

    starts: np.ndarray  # int64 [V * blocks + 1]
    packed: np.ndarray  # uint32 [T] the passage's place in its block, shifted by 8, and its impact's code
    steps: np.ndarray  # float32 [V] the largest impact / 255: an impact is at most its code times this
    peaks: np.ndarray  # uint8 [V * blocks] the largest code of the cell
    column: np.ndarray  # int32 [V * blocks] the cell's row of ``columns``, or -1
    columns: np.ndarray  # uint8 [C, BLOCK] codes of all passages of a block
    ranked: np.ndarray  # uint8 [RANKS, V] the code of a term's 10th, 100th and 1000th largest impact, or 0
    hidden: np.ndarray  # bool [N] not to be found, or nothing where all can be
    blocks: int


class Passages(NamedTuple):
    """Terms by passage, for the scores of what is found: row i owns the entries ``offsets[i]:offsets[i + 1]``.

    Impacts are in one of three arrays, the others are empty.
    """

    terms: np.ndarray  # int32 [T] ascending within a row
    offsets: np.ndarray  # int64 [N + 1]
    floats: np.ndarray  # float32 [T]
    halves: np.ndarray  # uint16 [T] the bits of float16, which numba does not know on a CPU
    codes: np.ndarray  # uint8 [T]
    steps: np.ndarray  # float32 [V] what codes count


@compiled
def first_wrong(terms: np.ndarray, weights: np.ndarray, offsets: np.ndarray, vocabulary: int) -> tuple[int, int]:
    """The first row that is no representation, and what is wrong: a term (0), a weight (1), the terms' order (2)."""
    for row in range(len(offsets) - 1):
        before = -1
        for entry in range(offsets[row], offsets[row + 1]):
            if terms[entry] >= vocabulary:
                return row, 0
            if not 0 < weights[entry] < np.inf:
                return row, 1
            if terms[entry] <= before:
                return row, 2
            before = int(terms[entry])
    return -1, 0


@compiled
def first_wrong_query(terms: np.ndarray, weights: np.ndarray, lengths: np.ndarray, vocabulary: int) -> tuple[int, int]:
    """As ``first_wrong``, of padded representations."""
    for row in range(len(lengths)):
        if lengths[row] > terms.shape[1]:
            return row, 2
        one = np.array([0, lengths[row]])
        wrong, reason = first_wrong(terms[row], weights[row], one, vocabulary)
        if wrong >= 0:
            return row, reason
    return -1, 0


@compiled
def measure(
    terms: np.ndarray,
    weights: np.ndarray,
    offsets: np.ndarray,
    first_row: int,
    counts: np.ndarray,
    largest: np.ndarray,
) -> None:
    """Count the postings of each cell [V, blocks], and find the largest weight of each term [V]."""
    for row in range(len(offsets) - 1):
        for entry in range(offsets[row], offsets[row + 1]):
            counts[terms[entry], (first_row + row) // BLOCK] += 1
            largest[terms[entry]] = max(largest[terms[entry]], weights[entry])


@compiled
def place(terms: np.ndarray, codes: np.ndarray, offsets: np.ndarray, first_row: int, postings: Postings) -> None:
    """Write the entries of some rows to their cells: a counting sort, so that the rows of a cell ascend.

    ``starts`` hold where the next posting of each cell goes.
    """
    for row in range(len(offsets) - 1):
        block, place = (first_row + row) // BLOCK, (first_row + row) % BLOCK
        for entry in range(offsets[row], offsets[row + 1]):
            cell = np.int64(terms[entry]) * postings.blocks + block
            at = postings.starts[cell]
            postings.starts[cell] = at + 1
            postings.packed[at] = (place << 8) | int(codes[entry])
            postings.peaks[cell] = max(postings.peaks[cell], codes[entry])


@compiled
def coded(terms: np.ndarray, weights: np.ndarray, steps: np.ndarray, up: bool) -> np.ndarray:
    """Weights in steps of their terms, uint8, at least 1, rounded up or to the nearest."""
    result = np.empty(len(weights), np.uint8)
    for entry in range(len(weights)):
        ratio = weights[entry] / steps[terms[entry]]
        result[entry] = min(max(np.ceil(ratio) if up else np.floor(ratio + np.float32(0.5)), 1), 255)
    return result


@compiled
def columns(starts: np.ndarray, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``Postings.column`` and ``Postings.columns``."""
    column = np.full(len(starts) - 1, -1, np.int32)
    number = 0
    for cell in range(len(column)):
        if starts[cell + 1] - starts[cell] >= DENSE:
            column[cell] = number
            number += 1
    result = np.zeros((number, BLOCK), np.uint8)
    for cell in range(len(column)):
        if column[cell] >= 0:
            for at in range(starts[cell], starts[cell + 1]):
                result[column[cell], packed[at] >> 8] = packed[at] & 255
    return column, result


@compiled
def ranked(starts: np.ndarray, packed: np.ndarray, blocks: int) -> np.ndarray:
    """``Postings.ranked``."""
    result = np.zeros((len(RANKS), (len(starts) - 1) // blocks), np.uint8)
    for term in range(result.shape[1]):
        first, last = starts[term * blocks], starts[(term + 1) * blocks]
        if last - first >= RANKS[0]:
            tally = np.zeros(256, np.int64)
            for at in range(first, last):
                tally[packed[at] & 255] += 1
            code, above = 256, 0
            for i in range(len(RANKS)):
                while code > 0 and above < RANKS[i]:
                    code -= 1
                    above += tally[code]
                result[i, term] = code
    return result
