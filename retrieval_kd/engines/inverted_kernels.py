"""The search over posting lists, compiled by numba: bounds of all passages block by block, scores of the few best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from retrieval_kd.engines.posting_kernels import BLOCK, RANKS, Passages, Postings, compiled, inner
from retrieval_kd.engines.score_kernels import Query, fetch, score

POSTPONED = 0.5  # of the k-th best score: columns that cannot give more than this are read for few passages only
FULL = 1 << 30  # what the sum of a query's bounds is scaled to, in whole numbers
FINE = 19  # bounds are tallied without so many of their bits
RUN = 64  # passages that are looked at together
ROOM = 2 * BLOCK  # for what was found and is not yet scored
LAST_ROW = (1 << 32) - 1


class Scratch(NamedTuple):
    """What a thread works in."""

    sums: np.ndarray  # int32 [BLOCK] zero between blocks
    places: np.ndarray  # int64 [BLOCK]
    partial: np.ndarray  # int32 [BLOCK] bounds of the passages at ``places``
    tally: np.ndarray  # int32 [FULL >> FINE, and some] how many bounds of each size were found
    rows: np.ndarray  # int64 [ROOM] what was found
    bounds: np.ndarray  # int32 [ROOM]
    keys: np.ndarray  # int64 [k + ROOM] score and row of what is among the best so far, best first
    scores: np.ndarray  # float32 [2 (k + ROOM)] the same memory: every second is the score of a key
    lower: np.ndarray  # uint32 [2 (k + ROOM)] the same memory: every second is LAST_ROW - row
    order: np.ndarray  # int64 [blocks] in which blocks are searched


def scratch(k: int, blocks: int) -> Scratch:
    """What a thread needs for searches of k passages; made here, since numba takes seconds to compile it."""
    keys = np.empty(k + ROOM, np.int64)
    return Scratch(
        sums=np.zeros(BLOCK, np.int32),
        places=np.empty(BLOCK, np.int64),
        partial=np.empty(BLOCK, np.int32),
        tally=np.zeros((FULL >> FINE) + 2, np.int32),
        rows=np.empty(ROOM, np.int64),
        bounds=np.empty(ROOM, np.int32),
        keys=keys,
        scores=keys.view(np.float32),
        lower=keys.view(np.uint32),
        order=np.empty(blocks, np.int64),
    )


# ---- sorting


@inner
def sort_down(keys: np.ndarray) -> None:
    """Shell's: numba takes four seconds to compile numpy's, for lists that are short."""
    gap = len(keys) // 2
    while gap > 0:
        for start in range(gap, len(keys)):
            key, place = keys[start], start
            while place >= gap and keys[place - gap] < key:
                keys[place] = keys[place - gap]
                place -= gap
            keys[place] = key
        gap = 1 if gap == 2 else gap * 5 // 11


# ---- search


@inner
def prepared(postings: Postings, terms: np.ndarray, weights: np.ndarray, marks: np.ndarray) -> Query:
    """A query for these postings, its terms marked; terms that they lack are left out."""
    blocks, size, total = postings.blocks, 0, 0.0
    known, used = np.empty(len(terms), np.int64), np.empty(len(terms), np.float32)
    for i in range(len(terms)):
        first = np.int64(terms[i]) * blocks
        if terms[i] < len(marks) and postings.starts[first] < postings.starts[first + blocks]:
            known[size], used[size] = terms[i], weights[i]
            marks[terms[i]] = 1
            total += 255.0 * weights[i] * postings.steps[terms[i]]
            size += 1
    unit = FULL / total if size else 0.0
    parts, order, slack = np.empty(size, np.int32), np.empty(size, np.int64), 0
    for i in range(size):
        # Rounded up, and one more: times a code that is above what float32 rounds away while a score is added up.
        parts[i] = int(np.ceil(np.float64(used[i]) * postings.steps[known[i]] * unit)) + 1
        slack += parts[i] + 1024
        order[i] = ((FULL - np.int64(parts[i])) << 32) | i
    sort_down(order)
    for i in range(size):
        order[i] &= LAST_ROW
    later, met = np.empty(size, np.int64), np.empty(size + 1, np.int64)
    return Query(known[:size], used[:size], parts, order, later, marks, met, unit, slack)


@compiled
def search(
    postings: Postings,
    passages: Passages,
    queries: tuple[np.ndarray, ...],
    floors: np.ndarray,
    scratch: Scratch,
    rows: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Fill ``rows`` and ``scores`` [Q, k] with the best passages that score more than 0 and at least their floor.

    ``queries`` are the padded terms, weights and lengths.
    """
    terms, weights, lengths = queries
    k = rows.shape[1]
    marks = np.zeros(len(postings.steps), np.uint8)
    for number in range(len(lengths)):
        length = lengths[number]
        query = prepared(postings, terms[number, :length], weights[number, :length], marks)
        if len(query.terms):
            for i in range(_search_one(postings, passages, query, (k, floors[number]), scratch)):
                rows[number, i] = LAST_ROW - (scratch.keys[i] & LAST_ROW)
                scores[number, i] = scratch.scores[2 * i + 1]
        marks[query.terms] = 0


@inner
def _search_one(
    postings: Postings, passages: Passages, query: Query, wanted: tuple[int, float], scratch: Scratch
) -> int:
    """How many of ``scratch.keys`` are the best passages; ``wanted`` are how many, and the least score."""
    k, floor = wanted
    bounds = _block_bounds(postings, query)
    scratch.tally[:] = 0
    least, found, settled, size, above = max(int(floor * query.unit), _sure_bound(postings, query, k), 1), 0, 0, 0, 0
    for block in range(postings.blocks):
        scratch.order[block] = (bounds[block] << 32) | block
    sort_down(scratch.order)
    for number in scratch.order:
        block = number & LAST_ROW
        if bounds[block] < least:
            break
        count = _candidates(postings, query, block, least, scratch)
        if found + count > ROOM:
            settled = _settle(passages, query, scratch, (k, least, found, settled))
            found = 0
            if settled == k:  # a later one must reach the k-th best score itself
                least = max(least, int(scratch.scores[2 * k - 1] * query.unit))
        before, found = found, _take(postings.hidden, block * BLOCK, scratch, (count, found, least))
        # As many as are wanted have a bound of ``size`` or more: so much less the slack is a score that they all reach.
        for i in range(before, found):
            above += scratch.bounds[i] >> FINE >= size
        while above - scratch.tally[size] >= k:
            above -= scratch.tally[size]
            size += 1
        least = max(least, (size << FINE) - query.slack)
    return _settle(passages, query, scratch, (k, least, found, settled))


@inner
def _sure_bound(postings: Postings, query: Query, k: int) -> int:
    """What k passages reach by one term alone, the term that gives most; 0 where that is not known."""
    best = 0
    for i in range(len(RANKS)):
        if k <= RANKS[i] and len(postings.hidden) == 0:
            for j in range(len(query.terms)):
                best = max(best, int(query.parts[j]) * int(postings.ranked[i, query.terms[j]]))
            return best - query.slack
    return best


@inner
def _block_bounds(postings: Postings, query: Query) -> np.ndarray:
    """What a passage of each block can have at most."""
    bounds = np.zeros(postings.blocks, np.int64)
    for i in range(len(query.terms)):
        first = query.terms[i] * postings.blocks
        for block in range(postings.blocks):
            bounds[block] += query.parts[i] * np.int64(postings.peaks[first + block])
    return bounds


@inner
def _take(hidden: np.ndarray, first: int, scratch: Scratch, state: tuple[int, int, int]) -> int:
    """Add a block's candidates to what was found.

    ``state`` are the number of candidates, of what was found so far, and the least bound.
    """
    count, found, least = state
    for i in range(count):
        row, bound = first + scratch.places[i], scratch.partial[i]
        if bound >= least and not (len(hidden) and hidden[row]):
            scratch.rows[found], scratch.bounds[found] = row, bound
            scratch.tally[bound >> FINE] += 1
            found += 1
    return found


@inner
def _candidates(postings: Postings, query: Query, block: int, least: int, scratch: Scratch) -> int:
    """How many of ``scratch.places`` are passages of the block whose bound is ``least`` or more."""
    postponed, rest = _add_up(postings, query, block, int(POSTPONED * least), scratch.sums)
    count = _collect(scratch, np.int32(max(least - rest, 1)))
    for i in range(postponed - 1, -1, -1):
        cell = query.terms[query.later[i]] * postings.blocks + block
        part = query.parts[query.later[i]]
        rest -= int(part) * int(postings.peaks[cell])
        count = _complete(scratch, count, postings.columns[postings.column[cell]], part, np.int32(least - rest))
    return count


@inner
def _add_up(postings: Postings, query: Query, block: int, most: int, sums: np.ndarray) -> tuple[int, int]:
    """Add a block's postings to ``sums``, columns that together give ``most`` at most excepted.

    Returns how many columns those are, and what they can give.
    """
    postponed, rest = 0, 0
    for i in query.order:
        cell, part = query.terms[i] * postings.blocks + block, query.parts[i]
        number = postings.column[cell]
        peak = int(part) * int(postings.peaks[cell])
        if number < 0:
            _add_cell(sums, postings, cell, part)
        elif rest + peak <= most:
            query.later[postponed] = i
            postponed += 1
            rest += peak
        else:
            _add_column(sums, postings.columns[number], part)
    return postponed, rest


@inner
def _add_cell(sums: np.ndarray, postings: Postings, cell: int, part: np.int32) -> None:
    packed = postings.packed
    for at in range(postings.starts[cell], postings.starts[cell + 1]):
        sums[packed[at] >> np.uint32(8)] += part * np.int32(packed[at] & np.uint32(255))


@inner
def _add_column(sums: np.ndarray, column: np.ndarray, part: np.int32) -> None:
    for place in range(BLOCK):
        sums[place] += part * np.int32(column[place])


@inner
def _collect(scratch: Scratch, least: np.int32) -> int:
    """Move sums from ``least`` on to ``partial`` and ``places``; all sums are zero then."""
    places, partial = scratch.places, scratch.partial
    count = 0
    for start in range(0, BLOCK, RUN):
        sums = scratch.sums[start : start + RUN]
        any_of_them = np.int32(0)
        for i in range(RUN):  # of the forms that this can take, one that becomes vector instructions
            any_of_them |= np.int32(sums[i] >= least)
        if any_of_them:
            for i in range(RUN):
                if sums[i] >= least:
                    places[count], partial[count] = start + i, sums[i]
                    count += 1
    scratch.sums[:] = 0
    return count


@inner
def _complete(scratch: Scratch, count: int, column: np.ndarray, part: np.int32, least: np.int32) -> int:
    """Add a column to the collected sums; keep those from ``least`` on."""
    places, partial = scratch.places, scratch.partial
    kept = 0
    for i in range(count):
        place = places[i]
        bound = np.int32(partial[i] + part * np.int32(column[place]))
        places[kept], partial[kept] = place, bound
        kept += int(bound >= least)
    return kept


@inner
def _settle(passages: Passages, query: Query, scratch: Scratch, state: tuple[int, int, int, int]) -> int:
    """Score what was found and still can be among the best, sort it among the best so far, and keep k of all.

    ``state`` are k, the least bound, and the numbers of what was found and of the best so far.
    """
    k, least, found, settled = state
    rows, scores, kept = scratch.rows, scratch.scores, 0
    for i in range(found):
        rows[kept] = rows[i]
        kept += int(scratch.bounds[i] >= least)
    query.met[0] = fetch(passages, rows[:kept])  # kept somewhere, or the compiler would see that nobody asks
    for row in rows[:kept]:
        # Positive floats are ordered as their bits are. Of equal scores the lower row comes first.
        scores[2 * settled + 1], scratch.lower[2 * settled] = score(passages, query, row), LAST_ROW - row
        settled += int(scores[2 * settled + 1] > 0)
    sort_down(scratch.keys[:settled])
    return min(settled, k)
