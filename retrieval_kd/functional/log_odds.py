"""Log-odds of preferences on arrays."""

from __future__ import annotations

import numpy as np

CERTAIN = 1e-6  # a probability is kept this far from 0 and 1: log-odds within 13.8


def from_probability(probability: np.ndarray) -> np.ndarray:
    """Log p / (1 - p); refuses what is not within 0 and 1 with a ValueError that says where."""
    values = np.asarray(probability, np.float64)
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(wrong):
        raise ValueError(f"entry {wrong[0] + 1} is {values[wrong[0]]:g}, a probability is within 0 and 1")
    kept = np.clip(values, CERTAIN, 1 - CERTAIN)
    return np.log(kept / (1 - kept)).astype(np.float32)
