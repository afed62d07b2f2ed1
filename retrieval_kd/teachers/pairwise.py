"""A judge of pairs on top of a score teacher."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval_kd.contracts import ScoreTeacher, UserError

ORDERS = ("one", "both")


class Pairwise:
    """Scores are those of ``base``, preferences those of ``judge``, on pairs that are drawn by the scores.

    Args:
        base: Any score teacher.
        judge: A ``PairScorer``, a ``ScoreJudge``, or a file of pairs.
        orders: ``one`` reads each pair with the passage of the higher score first, as PairDistill does; ``both`` reads
            it the other way round too, so that what standing first is worth cancels, at twice the calls.
    """

    def __init__(self, base: ScoreTeacher, judge: Any, orders: str) -> None:
        check_orders(orders)
        self.base = base
        self.members = base.members
        self.judge = judge
        self.both_orders = orders == "both"

    def combine(self, members: np.ndarray, dark: np.ndarray) -> np.ndarray:
        """As the base does."""
        return self.base.combine(members, dark)


def check_orders(orders: str) -> None:
    """Refuse what is neither."""
    if orders not in ORDERS:
        raise UserError(f"teacher.orders is {' or '.join(ORDERS)}, got {orders}")
