"""Texts without repetition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def distinct(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Each text once, in the order in which they first come, and where each of the given ones is among them, int64."""
    places: dict[str, int] = {}
    rows = np.array([places.setdefault(text, len(places)) for text in texts], np.int64)
    return list(places), rows
