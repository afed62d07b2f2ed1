"""Pairs on whose order the run that was mined and the score teacher disagree: a judge decides between the two."""

from __future__ import annotations

import numpy as np

from retrieval_kd.data.pairs import ScoredList
from retrieval_kd.pairs.drawn import DrawnPairs, all_pairs


class DisagreementPairs(DrawnPairs):
    """Two passages in one order by the teacher and in the other by the run (the student's, where it was mined from).

    What the run did not list stands behind all that it did; of two such passages the run says nothing, and of made
    ones, which it could not list, it says nothing either.
    """

    def eligible(self, scored: ScoredList, ranked: np.ndarray) -> np.ndarray:
        """Discordant pairs."""
        pairs = all_pairs(len(ranked))
        rank = np.where(scored.rank > 0, scored.rank, np.inf)[ranked]
        pairs = pairs[rank[pairs[:, 0]] > rank[pairs[:, 1]]]
        return pairs[~scored.made[ranked][pairs].any(1)]
