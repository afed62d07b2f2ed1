"""Several score teachers as one: each list's scores are normalised per member, then averaged."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np

from retrieval_kd.contracts import Scorer, UserError, VectorScorer
from retrieval_kd.functional.normalisation import Normalisation, min_max, weighted_mean


class Ensemble:
    """Weighted mean of normalised member scores.

    The scale of a list is set by the passages that were found; made (dark) passages are mapped with the same minimum
    and maximum. An item that any member of positive weight left unscored (NaN) has no teacher score: NaN, never a mean
    over fewer members, which would compare items on different scales. What the caller does with NaN is its decision.

    Args:
        members: Scorers by name; order fixes the rows of ``combine``.
        weights: By member name, not negative, any sum > 0; equal when absent.
        normalise: Applied to each member's list; see ``functional.normalisation``.
    """

    def __init__(
        self,
        members: Mapping[str, Scorer | VectorScorer],
        weights: Mapping[str, float] | None = None,
        normalise: Normalisation = min_max,
    ) -> None:
        if not members:
            raise UserError("teacher.members: an ensemble needs at least one member")
        self.members: dict[str, Scorer | VectorScorer] = dict(members)
        self.weights = _checked_weights(list(members), weights)
        self.normalise = normalise

    def combine(self, members: np.ndarray, dark: np.ndarray) -> np.ndarray:
        """Raw scores [M, n] of one list, ``dark`` [n] -> [n]; lists may be stacked: [M, ..., n], [..., n]."""
        return weighted_mean(self.normalise(members, ~np.asarray(dark, dtype=bool)), self.weights)


def _checked_weights(names: list[str], weights: Mapping[str, float] | None) -> np.ndarray:
    if weights is None:
        return np.ones(len(names))
    for name in weights:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"the members are {', '.join(names)}"
            raise UserError(f"teacher.weights.{name}: there is no such member; {hint}")
    absent = [name for name in names if name not in weights]
    if absent:
        raise UserError(f"teacher.weights: no weight for {', '.join(absent)}; give every member one (0 leaves it out)")
    values = np.array([float(weights[name]) for name in names])
    if not np.isfinite(values).all() or (values < 0).any() or not values.sum() > 0:
        raise UserError(f"teacher.weights: {dict(weights)} must be numbers >= 0 and not all 0")
    return values
