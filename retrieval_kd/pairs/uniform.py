"""Any two of the teacher's best passages."""

from __future__ import annotations

import numpy as np

from retrieval_kd.data.pairs import ScoredList
from retrieval_kd.pairs.drawn import DrawnPairs, all_pairs


class UniformPairs(DrawnPairs):
    """Every two of the first ``top`` are as likely."""

    def eligible(self, scored: ScoredList, ranked: np.ndarray) -> np.ndarray:
        """All."""
        return all_pairs(len(ranked))
