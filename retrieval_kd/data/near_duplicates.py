"""Groups of texts that say nearly the same: MinHash signatures, banded look-up, a check, union-find."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from xxhash import xxh3_64_intdigest

from retrieval_kd.data.files import text_digest

WORD = re.compile(r"\w+")
SIGNATURE = 126
# 42 bands of 3 rows propose a pair of Jaccard .5 with probability .996, of .6 with .99996, of .7 with 1 - 4e-8.
ROWS_PER_BAND = 3
SEED = 20_261_121
FACTOR = np.uint64(0x9E3779B97F4A7C15)
PAIRS_AT_A_TIME = 200_000


def near_duplicate_groups(texts: Sequence[str], threshold: float = 0.5, words: int = 3) -> np.ndarray:
    """Group number of every text: the row of the group's first text, int64 [N].

    Two texts are near-duplicates when the Jaccard similarity of their sets of ``words``-word shingles, estimated from
    126 minimum hashes (standard error .045 at most), reaches ``threshold``; a group is everything that near-duplicates
    connect. The outcome depends on the texts alone; a text without a word is a near-duplicate of none.
    """
    if not len(texts):
        return np.empty(0, np.int64)
    signatures = _signatures(*_shingles(texts, words))
    # Equal signatures first become one row: a thousand copies would otherwise propose half a million pairs.
    _, first, inverse = np.unique(signatures, axis=0, return_index=True, return_inverse=True)
    parents = list(range(len(texts)))
    for row, representative in enumerate(first[inverse.reshape(-1)].tolist()):
        _unite(parents, row, representative)
    for left, right in _proposed(signatures[first]):
        alike = (signatures[first[left]] == signatures[first[right]]).mean(1) >= threshold
        for a, b in zip(first[left[alike]].tolist(), first[right[alike]].tolist(), strict=True):
            _unite(parents, a, b)
    return np.fromiter((_root(parents, row) for row in range(len(texts))), np.int64, len(texts))


def joined_groups(*groupings: np.ndarray) -> np.ndarray:
    """Coarsest groups in which whatever one of the groupings holds together stays together."""
    parents = groupings[0].tolist()
    for groups in groupings[1:]:
        for row, first in enumerate(groups.tolist()):
            _unite(parents, row, first)
    return np.fromiter((_root(parents, row) for row in range(len(parents))), np.int64, len(parents))


def splits_of_groups(groups: np.ndarray, texts: Sequence[str], shares: Mapping[str, float], rest: str) -> list[str]:
    """Split of every text, one for each group, by a hash: about ``shares`` of the groups, else ``rest``."""
    least: dict[int, str] = {}
    for group, text in zip(groups.tolist(), texts, strict=True):
        digest = text_digest(text)
        least[group] = min(least.get(group, digest), digest)
    names = [*shares, rest]
    edges = np.cumsum([*shares.values()])
    # Digested again: the least of many digests is a small number.
    positions = {group: int(text_digest(digest)[:12], 16) / 16**12 for group, digest in least.items()}
    return [names[np.searchsorted(edges, positions[group], side="right")] for group in groups.tolist()]


def _shingles(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all runs of ``size`` words, uint64 [S], and where each text's begin, int64 [N].

    A text shorter than ``size`` is one run, filled up with zeros; one without a word is a run of its own row number.
    """
    known: dict[str, int] = {}
    numbers: list[int] = []
    lengths = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        found = WORD.findall(text.lower()) or [f"\0{row}"]
        for word in found:
            if word not in known:
                known[word] = xxh3_64_intdigest(word.encode())
        numbers.extend([known[word] for word in found])
        numbers.extend([0] * (size - len(found)))
        lengths[row] = max(len(found), size)
    words = np.array(numbers, np.uint64)
    hashes = np.zeros(len(words) - size + 1, np.uint64)
    for offset in range(size):
        hashes = _mix(hashes * FACTOR + words[offset : offset + len(hashes)])
    # Runs that reach into the next text go.
    ends = np.cumsum(lengths)
    inside = np.arange(len(hashes)) + size <= np.repeat(ends, lengths)[: len(hashes)]
    return hashes[inside], np.concatenate(([0], np.cumsum(lengths - size + 1)[:-1]))


def _mix(values: np.ndarray) -> np.ndarray:
    """Spread every bit over all others (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _signatures(shingles: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Minimum of each text's shingles under 126 hash functions, uint32 [N, 126]."""
    generator = np.random.Generator(np.random.PCG64(SEED))
    factors = generator.integers(0, 2**63, SIGNATURE, np.uint64) * np.uint64(2) + np.uint64(1)
    shifts = generator.integers(0, 2**63, SIGNATURE, np.uint64)
    signatures = np.empty((len(starts), SIGNATURE), np.uint32)
    for column in range(SIGNATURE):
        values = (shingles * factors[column] + shifts[column]) >> np.uint64(32)
        signatures[:, column] = np.minimum.reduceat(values.astype(np.uint32), starts)
    return signatures


def _proposed(signatures: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows that agree on all of some band, in portions."""
    for begin in range(0, SIGNATURE, ROWS_PER_BAND):
        keys = np.zeros(len(signatures), np.uint64)
        for column in range(begin, begin + ROWS_PER_BAND):
            keys = _mix(keys * FACTOR + signatures[:, column].astype(np.uint64))
        order = np.argsort(keys, kind="stable")
        _, counts = np.unique(keys[order], return_counts=True)
        # A row pairs with every later row of its bucket: ``after`` of them.
        ends = np.repeat(np.cumsum(counts), counts)
        after = ends - np.arange(len(order)) - 1
        for portion in _portions(after):
            left = np.repeat(portion, after[portion])
            within = np.arange(len(left)) - np.repeat(np.cumsum(after[portion]) - after[portion], after[portion])
            yield order[left], order[left + 1 + within]


def _portions(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Positions with a size above zero, cut so that a portion's sizes sum to about PAIRS_AT_A_TIME."""
    positions = np.flatnonzero(sizes)
    if len(positions):
        portion = np.cumsum(sizes[positions]) // PAIRS_AT_A_TIME
        yield from np.split(positions, np.flatnonzero(np.diff(portion)) + 1)


def _root(parents: list[int], row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


def _unite(parents: list[int], left: int, right: int) -> None:
    """The smaller row becomes the root, so that a group's number is its first row."""
    a, b = sorted((_root(parents, left), _root(parents, right)))
    parents[b] = a
