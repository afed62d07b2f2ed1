"""Pairs whose scores hardly differ: the score teacher is least sure of their order."""

from __future__ import annotations

import numpy as np

from retrieval_kd.contracts import UserError
from retrieval_kd.data.pairs import ScoredList
from retrieval_kd.pairs.drawn import DrawnPairs, all_pairs


class ClosestPairs(DrawnPairs):
    """Drawn among the ``among`` times ``per_query`` pairs of the smallest difference of teacher scores."""

    def __init__(self, per_query: int, top: int, seed: int, among: int) -> None:
        super().__init__(per_query, top, seed)
        if among < 1:
            raise UserError(f"pairs.among must be at least 1, not {among}")
        self.among = among

    def eligible(self, scored: ScoredList, ranked: np.ndarray) -> np.ndarray:
        """The closest ones."""
        pairs = all_pairs(len(ranked))
        scores = scored.scores[ranked]
        order = np.argsort(scores[pairs[:, 0]] - scores[pairs[:, 1]], kind="stable")
        return pairs[order[: self.among * self.per_query]]
