"""What all samplers share: the passages that take part, and a seeded draw among the pairs that one finds eligible."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.pairs import ScoredList


class DrawnPairs(ABC):
    """``per_query`` pairs of a list, fewer where no more are eligible; subclasses say which are.

    Args:
        per_query: Pairs that are drawn.
        top: Passages that take part: so many of the teacher's best, made (dark) ones among them.
        seed: The draw depends on nothing but this and the query id.
    """

    def __init__(self, per_query: int, top: int, seed: int) -> None:
        if per_query < 1:
            raise UserError(f"pairs.per_query must be at least 1, not {per_query}")
        if top < 2:
            raise UserError(f"pairs.top must be at least 2, not {top}: a pair is two passages")
        self.per_query, self.top, self.seed = per_query, top, seed

    def draw(self, query_id: str, scored: ScoredList) -> np.ndarray:
        """Pairs [k, 2] of places in the list; the teacher's better one first, equal scores in the list's order."""
        ranked = np.argsort(-scored.scores, kind="stable")  # NaN, no score, comes last
        ranked = ranked[~np.isnan(scored.scores[ranked])][: self.top]
        eligible = self.eligible(scored, ranked)
        if len(eligible) > self.per_query:
            generator = np.random.default_rng(int(text_digest(str(self.seed), query_id), 16))
            chosen = generator.choice(len(eligible), self.per_query, replace=False, shuffle=False)
            eligible = eligible[np.sort(chosen)]
        return ranked[eligible]

    @abstractmethod
    def eligible(self, scored: ScoredList, ranked: np.ndarray) -> np.ndarray:
        """Pairs [m, 2] of places in ``ranked``, the teacher's order; the lower place first."""


def all_pairs(count: int) -> np.ndarray:
    """Every two of ``count`` places [m, 2], the lower first."""
    return np.stack(np.triu_indices(count, 1), axis=1)
