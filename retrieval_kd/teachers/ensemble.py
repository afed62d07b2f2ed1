"""Several score teachers as one: each list's scores are normalised per member, then averaged."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np

from retrieval_kd.contracts import Scorer, UserError, VectorScorer
from retrieval_kd.data.in_batch_scores import refuse_stored_pairs
from retrieval_kd.functional.normalisation import NORMALISATIONS, weighted_mean

UNSCORED = ("exclude", "refuse")


class Ensemble:
    """Weighted mean of normalised member scores, times a scale (https://arxiv.org/abs/2411.04403).

    The scale of a list is set by the passages that were found; made (dark) passages are mapped with the same minimum
    and maximum. An item that any member of positive weight left unscored (NaN) has no teacher score: NaN, never a mean
    over fewer members, which would compare items on different scales. What the caller does with NaN is its decision.
    A member whose scores of a list are all equal says nothing about that list: it adds 0 to each item.

    Args:
        members: Scorers by name; order fixes the rows of ``combine``.
        weights: By member name, not negative, any sum > 0; equal when absent.
        normalise: min_max | z_score | none, of each member's list; see ``functional.normalisation``.
        scale: Of the mean: with a temperature of 1, the paper takes 10 in pre-training and 30 in fine-tuning.
        unscored: A list that a member scored no item of: ``exclude`` gives it no teacher scores, ``refuse`` stops.
        in_batch: A query's list is every passage of its batch; see ``data.in_batch_scores``.
    """

    def __init__(
        self,
        members: Mapping[str, Scorer | VectorScorer],
        weights: Mapping[str, float] | None = None,
        normalise: str = "min_max",
        scale: float = 1.0,
        unscored: str = "exclude",
        in_batch: bool = False,
    ) -> None:
        if not members:
            raise UserError("teacher.members: an ensemble needs at least one member")
        if normalise not in NORMALISATIONS:
            raise UserError(f"teacher.normalise is one of {', '.join(NORMALISATIONS)}, got {normalise}")
        if not 0 < scale < float("inf"):
            raise UserError(f"teacher.scale must be a number > 0, got {scale}")
        if unscored not in UNSCORED:
            raise UserError(f"teacher.unscored is {' or '.join(UNSCORED)}, got {unscored}")
        self.members: dict[str, Scorer | VectorScorer] = dict(members)
        self.weights = _checked_weights(list(members), weights)
        self.normalise = NORMALISATIONS[normalise]
        self.scale = scale
        self.unscored = unscored
        self.in_batch = in_batch
        if in_batch:
            refuse_stored_pairs(self.members)

    def combine(self, members: np.ndarray, dark: np.ndarray) -> np.ndarray:
        """Raw scores [M, n] of one list, ``dark`` [n] -> [n]; lists may be stacked: [M, ..., n], [..., n]."""
        found = ~np.asarray(dark, dtype=bool)
        if self.unscored == "refuse":
            self._refuse_unscored(members, found)
        return np.float32(self.scale) * weighted_mean(self.normalise(members, found), self.weights)

    def _refuse_unscored(self, members: np.ndarray, found: np.ndarray) -> None:
        asked = np.broadcast_to(found, members.shape[1:])
        silent = asked.any(-1) & ~(~np.isnan(members) & asked).any(-1)  # [M, ...]
        for name, weight, lists in zip(self.members, self.weights, silent, strict=True):
            if weight > 0 and lists.any():
                which = f"{lists.sum()} of {lists.size} lists" if lists.ndim else f"a list of {asked.sum()} passages"
                raise UserError(
                    f"teacher.members.{name} has no score for {which};"
                    f" teacher.unscored=exclude would leave out what a member does not know"
                )


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
