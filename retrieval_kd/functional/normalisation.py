"""Bringing the scores of one list to a common scale, so that teachers of different kinds can be averaged.

A normalisation takes raw scores [..., n] and a mask ``reference`` [..., n] of the items that set the scale (the
passages that were found, not those that were made), and returns float32 [..., n]; NaN (no score) stays NaN.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Normalisation(Protocol):
    """A rule for one list; lists may be stacked in leading dimensions."""

    def __call__(self, scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Raw scores [..., n], mask of the items that set the scale [..., n] -> float32 [..., n]."""


def min_max(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Map the reference items' minimum to 0 and maximum to 1; other items are mapped alike and may leave [0, 1].

    A list whose reference items are all equal says nothing about their order: all its items become 0. A list without
    any scored reference item has no scale: all its items become NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    usable = np.broadcast_to(reference, values.shape) & ~np.isnan(values)
    low = values.min(-1, keepdims=True, where=usable, initial=np.inf)
    width = values.max(-1, keepdims=True, where=usable, initial=-np.inf) - low  # -inf without a reference item
    with np.errstate(invalid="ignore"):
        # NaN - low is NaN, and stays it when multiplied by 0.
        result = (values - np.where(width >= 0, low, np.nan)) * np.where(width > 0, 1.0, 0.0)
        result /= np.where(width > 0, width, 1.0)
    return result.astype(np.float32)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the first dimension [M, ...] with weights [M]; NaN where any member of weight > 0 has no score."""
    used = weights > 0
    shares = weights[used] / weights[used].sum()
    return np.tensordot(shares, np.asarray(values, dtype=np.float64)[used], 1).astype(np.float32)
