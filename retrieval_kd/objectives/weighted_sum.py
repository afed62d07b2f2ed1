"""A sum of named terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Objective, Signal, Signals

TAKEN = ("loss", "penalty")  # the training step logs the whole and the regularizer under these names


class WeightedSum(nn.Module):
    """Terms under the names of the configuration, so that two of one class do not collide in the log.

    Terms that are named in ``own`` take the scores of their own teachers, in this order, for the teacher's.
    """

    def __init__(self, terms: Mapping[str, Objective], weights: Mapping[str, float], own: Sequence[str] = ()) -> None:
        super().__init__()
        if not terms:
            raise ValueError("objective=[] leaves nothing to train: name at least one term")
        self.terms = nn.ModuleDict()
        for name, term in terms.items():
            if name in TAKEN:
                raise ValueError(f"objective.{name}: the name {name} is taken; give the term another one")
            if not isinstance(term, nn.Module):
                raise TypeError(f"objective.{name} is a {type(term).__name__}; a term is an nn.Module")
            self.terms[name] = term
        self.weights = {name: float(weights[name]) for name in terms}
        self.own = tuple(own)
        self.needs = frozenset[Signal]().union(*(getattr(term, "needs", ()) for term in terms.values()))

    def forward(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Each term with its weight on; the loss is their sum."""
        return {
            name: term(evidence, self._told(name, signals), negative, weight) * self.weights[name]
            for name, term in self.terms.items()
        }

    def _told(self, name: str, signals: Signals) -> Signals:
        """What a term's teacher said."""
        if name not in self.own or signals.own is None:
            return signals
        return replace(signals, scores=signals.own[self.own.index(name)])
