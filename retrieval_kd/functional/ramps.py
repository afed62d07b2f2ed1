"""Schedules of a weight: plain functions of the training's progress, so without state."""

from __future__ import annotations


def quadratic(progress: float, share: float) -> float:
    """Rise from 0 as the square of progress, to 1 at this share of the training; 1 throughout for a share of 0."""
    return min(1.0, progress / share) ** 2 if share > 0 else 1.0


def geometric(progress: float, share: float, start: float, end: float) -> float:
    """Go from ``start`` to ``end``, both above 0, by equal factors in equal times, until this share of the training."""
    done = min(1.0, progress / share) if share > 0 else 1.0
    return float(start ** (1 - done) * end**done)


def linear(progress: float, share: float, start: float, end: float) -> float:
    """Go from ``start`` to ``end`` by equal steps in equal times, until this share of the training."""
    done = min(1.0, progress / share) if share > 0 else 1.0
    return start * (1 - done) + end * done
