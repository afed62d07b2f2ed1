"""A teacher with one member: its raw score is the teacher's score."""

from __future__ import annotations

import numpy as np

from retrieval_kd.contracts import Scorer, VectorScorer


class Pointwise:
    """One scorer of (query, passage) pairs as a score teacher."""

    def __init__(self, scorer: Scorer | VectorScorer) -> None:
        self.members: dict[str, Scorer | VectorScorer] = {"teacher": scorer}

    def combine(self, members: np.ndarray, dark: np.ndarray) -> np.ndarray:
        """Scores [1, n] -> [n], as they are."""
        return members[0]
