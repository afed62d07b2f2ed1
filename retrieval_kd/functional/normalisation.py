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

    The published code divides by (maximum - minimum + 1e-6), so that no list gives 0 / 0; its values are lower by less
    than 1e-6 / (maximum - minimum). Here the division is exact.
    """
    values = np.asarray(scores, dtype=np.float64)
    low, width = _range(values, reference)
    return _scaled(values, low, width, width)


def z_score(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Shift and scale so that the reference items have mean 0 and standard deviation 1 (theirs, divided by n).

    Equal and absent reference items are treated as ``min_max`` treats them: 0, and NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    usable = _usable(values, reference)
    low, width = _range(values, reference)
    count = np.maximum(usable.sum(-1, keepdims=True), 1)
    # Measured from the minimum: squares of large scores that lie close together would drown their differences.
    above = np.where(usable, values - np.where(width >= 0, low, 0.0), 0.0)
    mean = above.sum(-1, keepdims=True) / count
    deviation = np.sqrt((np.where(usable, above - mean, 0.0) ** 2).sum(-1, keepdims=True) / count)
    return _scaled(values, low + mean, width, deviation)


def unchanged(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Raw scores: their scale decides how much a member counts."""
    return np.asarray(scores, dtype=np.float32)


NORMALISATIONS: dict[str, Normalisation] = {"min_max": min_max, "z_score": z_score, "none": unchanged}


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the first dimension [M, ...] with weights [M]; NaN where any member of weight > 0 has no score."""
    used = weights > 0
    shares = weights[used] / weights[used].sum()
    return np.tensordot(shares, np.asarray(values, dtype=np.float64)[used], 1).astype(np.float32)


def _usable(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return np.broadcast_to(reference, values.shape) & ~np.isnan(values)


def _range(values: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and maximum - minimum of the reference items, [..., 1]; infinite and -infinite where there is none."""
    usable = _usable(values, reference)
    low = values.min(-1, keepdims=True, where=usable, initial=np.inf)
    return low, values.max(-1, keepdims=True, where=usable, initial=-np.inf) - low


def _scaled(values: np.ndarray, origin: np.ndarray, width: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """(values - origin) / unit; 0 in a list whose ``width`` is 0, NaN in one whose is negative (no reference item)."""
    with np.errstate(invalid="ignore"):
        # NaN - origin is NaN, and stays it when multiplied by 0.
        result = (values - np.where(width >= 0, origin, np.nan)) * np.where(width > 0, 1.0, 0.0)
        result /= np.where(width > 0, unit, 1.0)
    return result.astype(np.float32)
