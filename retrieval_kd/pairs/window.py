"""Pairs of neighbours: what the score teacher ranks close together is where a judge of pairs has something to say."""

from __future__ import annotations

import numpy as np

from retrieval_kd.contracts import UserError
from retrieval_kd.data.pairs import ScoredList
from retrieval_kd.pairs.drawn import DrawnPairs, all_pairs


class WindowPairs(DrawnPairs):
    """Two passages at most ``window`` ranks apart in the teacher's order, as PairDistill draws them."""

    def __init__(self, per_query: int, top: int, seed: int, window: int) -> None:
        super().__init__(per_query, top, seed)
        if window < 1:
            raise UserError(f"pairs.window must be at least 1, not {window}")
        self.window = window

    def eligible(self, scored: ScoredList, ranked: np.ndarray) -> np.ndarray:
        """Neighbours."""
        pairs = all_pairs(len(ranked))
        return pairs[pairs[:, 1] - pairs[:, 0] <= self.window]
