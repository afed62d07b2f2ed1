"""Log-odds of preferences on arrays: from probabilities, from two scores, from a judge that read both orders."""

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


def both_orders(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Log-odds of i over j: ``forward`` with i read first, ``backward`` those of j over i with j read first.

    Half their difference: a preference for whatever stands first adds the same to both, and cancels.
    """
    return (forward - backward) / 2


def order_bias(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """What standing first is worth, in log-odds: half the sum of the two."""
    return (forward + backward) / 2
