"""What penalties on activations share: weights of the two sides, the ramp, and what is averaged together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import TARGET_ROLES, Representations, Role, Signals, UserError, has_role
from retrieval_kd.functional.ramps import quadratic
from retrieval_kd.functional.sparsity import flops, flops_by_position

ACTIVATIONS = "activations"


class Penalty(nn.Module):
    """A FLOPS penalty; subclasses say what of the activations it is taken of.

    ``reduction`` is one of the two published ones. ``pooled``: one mean over the batch's passages, each counted once,
    as SPLADE and sentence-transformers do. ``by_position``: a mean for each position of the lists, summed, as the
    OpenSearch tuning code does. For lists of n passages a weight of the second is worth about n of the first.

    Args:
        passage_weight: Of the passages' penalty, once the ramp is over.
        query_weight: Of the queries'; 0 where a query's weights are not computed by the encoder.
        ramp: Share of the training over which the weights rise, as the square of progress.
        reduction: pooled | by_position.
    """

    def __init__(self, passage_weight: float, query_weight: float, ramp: float, reduction: str) -> None:
        super().__init__()
        for name, value in (("passage_weight", passage_weight), ("query_weight", query_weight)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"regularizer.{name} must be a number >= 0, got {value}")
        if not 0 <= ramp <= 1:
            raise ValueError(f"regularizer.ramp is a share of the training, from 0 to 1, got {ramp}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"regularizer.reduction is {' or '.join(REDUCTIONS)}, got {reduction}")
        self.passage_weight = passage_weight
        self.query_weight = query_weight
        self.ramp = ramp
        self.reduce = REDUCTIONS[reduction]

    @property
    def advice(self) -> str:
        """What to change when nothing is left of the representations."""
        return (
            f"lower regularizer.passage_weight ({self.passage_weight:g} now) or lengthen regularizer.ramp"
            f" ({self.ramp:g} of the training now)"
        )

    def of_passages(self, activations: Tensor) -> Tensor:
        """What is penalised of passages [P, V]."""
        return activations

    def of_queries(self, activations: Tensor) -> Tensor:
        """What is penalised of queries [Q, V]."""
        return activations

    def forward(
        self, queries: Representations, passages: Representations, progress: float, signals: Signals | None = None
    ) -> Tensor:
        """A scalar; ``signals`` tells positions in lists, which only ``by_position`` needs."""
        penalty = self.reduce(self.of_passages(activations_of(passages)), signals) * self.passage_weight
        if self.query_weight:
            penalty = penalty + flops(self.of_queries(activations_of(queries))) * self.query_weight
        return penalty * quadratic(progress, self.ramp)

    def step(self, queries: Representations, passages: Representations, progress: float) -> None:
        """Nothing to update."""


def activations_of(representations: Representations) -> Tensor:
    """[N, V]."""
    if ACTIVATIONS not in representations:
        gives = ", ".join(sorted(representations)) or "nothing"
        raise UserError(f"regularizer: it penalises {ACTIVATIONS}, and the student gives {gives}; student=sparse fits")
    return representations[ACTIVATIONS]


def list_positions(role: Tensor) -> tuple[Tensor, Tensor]:
    """Columns [n] and list positions [n] of every listed passage of every query, from roles [Q, P].

    A target stands first. The others follow in an order that is fixed but unrelated to that of the columns, which is
    the collection's: neighbours there are alike, and positions must not sort them.
    """
    listed = role != Role.NONE
    target = has_role(role, TARGET_ROLES)
    places = torch.arange(role.numel(), device=role.device).reshape(role.shape)
    scattered = (places + 1) * 2_654_435_761 % (1 << 32)  # Knuth's multiplicative hash
    order = scattered.masked_fill(target, -1).masked_fill(~listed, 1 << 32)
    return listed.nonzero()[:, 1], order.argsort(1).argsort(1)[listed]


def _pooled(activations: Tensor, signals: Signals | None) -> Tensor:
    return flops(activations)


def _by_position(activations: Tensor, signals: Signals | None) -> Tensor:
    if signals is None:
        raise UserError("regularizer.reduction=by_position needs the lists of the batch; pooled does without")
    columns, positions = list_positions(signals.role)
    return flops_by_position(activations[columns], positions)


REDUCTIONS: dict[str, Callable[[Tensor, Signals | None], Tensor]] = {"pooled": _pooled, "by_position": _by_position}
