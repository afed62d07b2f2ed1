"""Cut texts into groups of like length, so that little of what is computed is padding."""

from __future__ import annotations

import numpy as np


def plan_groups(lengths: np.ndarray, overhead: int) -> list[tuple[int, int]]:
    """Cut points of ascending ``lengths`` that cost least: each group n texts x its longest, plus ``overhead`` tokens.

    Dynamic programming over the distinct lengths, so a batch of hundreds of texts is planned in microseconds.
    """
    if not len(lengths):
        return []
    values, starts = np.unique(lengths, return_index=True)
    edges = np.append(starts, len(lengths))
    best = np.full(len(values) + 1, np.inf)
    best[0] = 0.0
    cut = np.zeros(len(values) + 1, dtype=np.int64)
    for end in range(1, len(values) + 1):
        costs = best[:end] + (edges[end] - edges[:end]) * values[end - 1] + overhead
        cut[end] = np.argmin(costs)
        best[end] = costs[cut[end]]
    groups = []
    end = len(values)
    while end:
        groups.append((int(edges[cut[end]]), int(edges[end])))
        end = int(cut[end])
    return groups[::-1]


def budget_groups(lengths: np.ndarray, budget: int) -> list[tuple[int, int]]:
    """Cut ascending ``lengths`` so that every group, padded to its longest, holds at most ``budget`` tokens."""
    groups = []
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or (end + 1 - start) * int(lengths[end]) > budget:
            groups.append((start, end))
            start = end
    return groups
