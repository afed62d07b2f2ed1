"""The search over posting lists, compiled by numba: bounds of all passages block by block, scores of the few best."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from retrieval_kd.engines.posting_kernels import BLOCK, RANKS, Passages, Postings, compiled

POSTPONED = 0.5  # of the k-th best score: columns that cannot give more than this are read for few passages only
FULL = 1 << 30  # what the sum of a query's bounds is scaled to, in whole numbers
FINE = 19  # bounds are tallied without so many of their bits
RUN = 64  # passages that are looked at together
ROOM = 2 * BLOCK  # for what was found and is not yet scored
LAST_ROW = (1 << 32) - 1


class Query(NamedTuple):
    """The terms of a query that occur, with what one step of their codes adds to a passage's bound."""

    terms: np.ndarray  # int64 [n] ascending: the order in which a score is added up
    weights: np.ndarray  # float32 [n]
    parts: np.ndarray  # int32 [n]
    order: np.ndarray  # int64 [n] by what the term can add at most, ascending
    later: np.ndarray  # int64 [n] room for those that are postponed
    marks: np.ndarray  # uint8 [V] 1 at these terms
    unit: float  # bound / score
    slack: int  # a bound exceeds its score by no more


class Scratch(NamedTuple):
    """What a thread works in."""

    sums: np.ndarray  # int32 [BLOCK] zero between blocks
    places: np.ndarray  # int64 [BLOCK]
    partial: np.ndarray  # int32 [BLOCK] bounds of the passages at ``places``
    tally: np.ndarray  # int32 [FULL >> FINE, and some] how many bounds of each size were found
    rows: np.ndarray  # int64 [ROOM] what was found
    bounds: np.ndarray  # int32 [ROOM]
    keys: np.ndarray  # int64 [k + ROOM] score and row of what is among the best so far, best first


# ---- scores


@compiled
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


@compiled
def score(passages: Passages, query: Query, row: int) -> Any:
    """The inner product of a query and a passage: products in float32, added in the order of terms."""
    total, i = np.float32(0), 0
    for at in range(passages.offsets[row], passages.offsets[row + 1]):
        term = passages.terms[at]
        if query.marks[term]:
            while query.terms[i] < term:
                i += 1
            total += query.weights[i] * _impact(passages, at, term)
    return total


# ---- search


@compiled
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
    parts, slack = np.empty(size, np.int64), 0
    for i in range(size):
        # Rounded up, and one more: times a code that is above what float32 rounds away while a score is added up.
        parts[i] = int(np.ceil(np.float64(used[i]) * postings.steps[known[i]] * unit)) + 1
        slack += parts[i] + 1024
    later = np.empty(size, np.int64)
    return Query(known[:size], used[:size], parts.astype(np.int32), np.argsort(parts), later, marks, unit, slack)


@compiled
def search(
    postings: Postings,
    passages: Passages,
    queries: tuple[np.ndarray, ...],
    floors: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Fill ``rows`` and ``scores`` [Q, k] with the best passages that score more than 0 and at least their floor.

    ``queries`` are the padded terms, weights and lengths.
    """
    terms, weights, lengths = queries
    k = rows.shape[1]
    scratch = Scratch(
        np.zeros(BLOCK, np.int32),
        np.empty(BLOCK, np.int64),
        np.empty(BLOCK, np.int32),
        np.zeros((FULL >> FINE) + 2, np.int32),
        np.empty(ROOM, np.int64),
        np.empty(ROOM, np.int32),
        np.empty(k + ROOM, np.int64),
    )
    found = scratch.keys.view(np.float32)  # the upper half of a key is its score
    marks = np.zeros(len(postings.steps), np.uint8)
    for number in range(len(lengths)):
        length = lengths[number]
        query = prepared(postings, terms[number, :length], weights[number, :length], marks)
        if len(query.terms):
            for i in range(_search_one(postings, passages, query, (k, floors[number]), scratch)):
                rows[number, i] = LAST_ROW - (scratch.keys[i] & LAST_ROW)
                scores[number, i] = found[2 * i + 1]
        marks[query.terms] = 0


@compiled
def _search_one(
    postings: Postings, passages: Passages, query: Query, wanted: tuple[int, float], scratch: Scratch
) -> int:
    """How many of ``scratch.keys`` are the best passages; ``wanted`` are how many, and the least score."""
    k, floor = wanted
    bounds = _block_bounds(postings, query)
    scratch.tally[:] = 0
    least, found, settled, size, above = max(int(floor * query.unit), _sure_bound(postings, query, k), 1), 0, 0, 0, 0
    for block in np.argsort(-bounds):
        if bounds[block] < least:
            break
        count = _candidates(postings, query, block, least, scratch)
        if found + count > ROOM:
            settled = _settle(passages, query, scratch, (k, least, found, settled))
            found = 0
            if settled == k:  # a later one must reach the k-th best score itself
                least = max(least, int(scratch.keys.view(np.float32)[2 * k - 1] * query.unit))
        before, found = found, _take(postings.hidden, block * BLOCK, scratch, (count, found, least))
        # As many as are wanted have a bound of ``size`` or more: so much less the slack is a score that they all reach.
        for i in range(before, found):
            above += scratch.bounds[i] >> FINE >= size
        while above - scratch.tally[size] >= k:
            above -= scratch.tally[size]
            size += 1
        least = max(least, (size << FINE) - query.slack)
    return _settle(passages, query, scratch, (k, least, found, settled))


@compiled
def _sure_bound(postings: Postings, query: Query, k: int) -> int:
    """What k passages reach by one term alone, the term that gives most; 0 where that is not known."""
    best = 0
    for i in range(len(RANKS)):
        if k <= RANKS[i] and len(postings.hidden) == 0:
            for j in range(len(query.terms)):
                best = max(best, int(query.parts[j]) * int(postings.ranked[i, query.terms[j]]))
            return best - query.slack
    return best


@compiled
def _block_bounds(postings: Postings, query: Query) -> np.ndarray:
    """What a passage of each block can have at most."""
    bounds = np.zeros(postings.blocks, np.int64)
    for i in range(len(query.terms)):
        first = query.terms[i] * postings.blocks
        for block in range(postings.blocks):
            bounds[block] += query.parts[i] * np.int64(postings.peaks[first + block])
    return bounds


@compiled
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


@compiled
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


@compiled
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


@compiled
def _add_cell(sums: np.ndarray, postings: Postings, cell: int, part: np.int32) -> None:
    packed = postings.packed
    for at in range(postings.starts[cell], postings.starts[cell + 1]):
        sums[packed[at] >> np.uint32(8)] += part * np.int32(packed[at] & np.uint32(255))


@compiled
def _add_column(sums: np.ndarray, column: np.ndarray, part: np.int32) -> None:
    for place in range(BLOCK):
        sums[place] += part * np.int32(column[place])


@compiled
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


@compiled
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


@compiled
def _settle(passages: Passages, query: Query, scratch: Scratch, state: tuple[int, int, int, int]) -> int:
    """Score what was found and still can be among the best, sort it among the best so far, and keep k of all.

    ``state`` are k, the least bound, and the numbers of what was found and of the best so far.
    """
    k, least, found, settled = state
    keys, single = scratch.keys, np.empty(1, np.float32)
    for i in range(found):
        if scratch.bounds[i] >= least:
            single[0] = score(passages, query, scratch.rows[i])
            if single[0] > 0:
                # Positive floats are ordered as their bits are. Of equal scores the lower row comes first.
                keys[settled] = (np.int64(single.view(np.int32)[0]) << 32) | (LAST_ROW - scratch.rows[i])
                settled += 1
    keys[:settled] = np.sort(keys[:settled])[::-1]
    return min(settled, k)


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
        query = Query(known, weights[number], none.astype(np.int32), none, none, marks, 0.0, 0)
        marks[known] = 1
        for i in range(rows.shape[1]):
            row = rows[number, i] - first_row
            if 0 <= row < len(passages.offsets) - 1:
                scores[number, i] = score(passages, query, row)
        marks[known] = 0
