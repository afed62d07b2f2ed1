"""A penalty whose weight is found while training: what is given is how sparse the representations shall be."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import Representations, Signals
from retrieval_kd.functional.ramps import geometric
from retrieval_kd.functional.sparsity import active_terms
from retrieval_kd.regularizers.penalty import Penalty, activations_of
from retrieval_kd.regularizers.term_buffers import register_term_buffers

# The controller, tried on toy problems of 64 to 3,000 steps whose weights lay from 1e-3 to 1e4.
FIRST = 0.03  # of a loss of 1, whatever the penalty: it begins small, for too late is mended and too much hardly
LOWEST, HIGHEST = 1e-6, 1e6
GAIN = 4.0  # twice as long as wished: 16 times the weight
LEAD = 3.0  # steps that are looked ahead: momentum answers late
RESET_SHARE, RESET_STEPS = 0.08, 12.0  # an error that stays adds as much again in this share of the training or steps
MOST = 1.5  # error (a factor of 4.5) from which more of it changes nothing
MOST_CHANGE = 0.5  # of the error in a step
MEMORY = 0.5  # of the mean of what is measured, from step to step
QUERY_MEMORY = 0.95  # of the shares of queries that hold each term


class Control(NamedTuple):
    """What the controller remembers, in natural logarithms."""

    weight: float = math.log(FIRST)  # on the penalty, which is divided by its first value
    integral: float = math.log(FIRST)
    measured: float = 0.0
    start: float = 0.0  # measured at the first step
    error: float = 0.0
    progress: float = 0.0
    steps: float = 0.0


class Target(nn.Module):
    """Scales a penalty so that passages come to a mean length, or a query and a passage to an expected overlap.

    The aim moves from what is measured at first to the target, by equal factors in equal times; a proportional and
    integral control of the weight's logarithm follows it. The penalty's own weights matter only beside each other.

    Args:
        penalty: Without a ramp of its own.
        terms: Mean number of active terms of a passage; or
        flops: mean number of terms that a query and a passage share, as evaluation states it.
        ramp: Share of the training after which the target is to be reached; learning rates that fall to zero leave
            nothing to steer with at the end.
    """

    control: Tensor  # as the fields of Control
    first_penalty: Tensor  # [], 0 before the first step with any
    query_share: Tensor  # [V] share of queries that hold a term

    def __init__(self, penalty: Penalty, terms: float | None, flops: float | None, ramp: float) -> None:
        super().__init__()
        if (terms is None) == (flops is None):
            raise ValueError("regularizer.terms or regularizer.flops: one of them is the target, the other is null")
        if not 0 < (terms or flops or 0) < math.inf:
            raise ValueError(f"regularizer: a target must be a number > 0, got {terms if flops is None else flops}")
        if not 0 <= ramp <= 1:
            raise ValueError(f"regularizer.ramp is a share of the training, from 0 to 1, got {ramp}")
        if penalty.ramp:
            raise ValueError(
                f"regularizer.penalty.ramp={penalty.ramp}: under a target it must be 0; regularizer.ramp is how the"
                " target itself is approached"
            )
        self.penalty = penalty
        self.terms = terms
        self.flops = flops
        self.ramp = ramp
        self.register_buffer("control", torch.tensor(Control(), dtype=torch.float64))
        self.register_buffer("first_penalty", torch.zeros(()))
        register_term_buffers(self, "query_share")
        self._penalty = torch.zeros(())

    @property
    def advice(self) -> str:
        """What to change when nothing is left of the representations."""
        key, value = ("terms", self.terms) if self.flops is None else ("flops", self.flops)
        return f"raise regularizer.{key} ({value:g} now) or lengthen regularizer.ramp ({self.ramp:g} of the training)"

    @property
    def figures(self) -> dict[str, float]:
        """For the log: the weight on the penalty, what was measured (a mean of some steps), and the present aim."""
        state = Control(*self.control.tolist())
        weight = math.exp(state.weight) / (float(self.first_penalty) or 1.0)
        return {
            "penalty_weight": weight,
            "target_measured": math.exp(state.measured),
            "target_aim": self._aim(state.start, state.progress),
        }

    def forward(
        self, queries: Representations, passages: Representations, progress: float, signals: Signals | None = None
    ) -> Tensor:
        """A scalar."""
        penalty: Tensor = self.penalty(queries, passages, progress, signals)
        self._penalty = penalty.detach()
        first = torch.where(self.first_penalty > 0, self.first_penalty, self._penalty)
        return penalty * (self.control[0].exp() / first.clamp_min(torch.finfo(torch.float32).tiny)).float()

    def step(self, queries: Representations, passages: Representations, progress: float) -> None:
        """Measure, and set the weight for the next step."""
        self.penalty.step(queries, passages, progress)
        if not self.first_penalty > 0:
            self.first_penalty.copy_(self._penalty)
        state = Control(*self.control.tolist())
        now = math.log(max(self._measure(queries, passages, state.steps), 0.01 * (self.terms or self.flops or 1.0)))
        if not state.steps:
            state = state._replace(measured=now, start=now)
        changed = _next(state, now, self._aim(state.start, progress), progress)
        self.control.copy_(torch.tensor(changed, dtype=torch.float64))

    def _aim(self, start: float, progress: float) -> float:
        return geometric(progress, self.ramp, math.exp(start), self.terms or self.flops or 1.0)

    def _measure(self, queries: Representations, passages: Representations, steps: float) -> float:
        """Of this batch. Its passages are set against the queries of batches before it, which they were not found for.

        A batch's own queries would overlap with their own passages in far more terms than with any others.
        """
        activations = activations_of(passages).detach()
        if self.flops is None:
            return active_terms(activations).mean().item()
        held = (activations_of(queries).detach() > 0).float().mean(0)
        if not len(self.query_share):
            self.query_share = held
        measured = torch.dot(self.query_share, (activations > 0).float().mean(0)).item()
        memory = min(QUERY_MEMORY, steps / (steps + 1))
        self.query_share = memory * self.query_share + (1 - memory) * held
        return measured


def _next(state: Control, now: float, aim: float, progress: float) -> Control:
    """The state after a step in which ``now`` was measured."""
    low, high = math.log(LOWEST), math.log(HIGHEST)
    measured = MEMORY * state.measured + (1 - MEMORY) * now
    error = measured - math.log(aim)
    change = _within(error - state.error, -MOST_CHANGE, MOST_CHANGE) if state.steps else 0.0
    bounded, passed = _within(error, -MOST, MOST), progress - state.progress
    integral = state.integral
    if passed > 0:
        integral += GAIN * bounded * passed / max(RESET_SHARE, RESET_STEPS * passed)
    integral = _within(integral, low, high)
    weight = _within(integral + GAIN * (bounded + LEAD * change), low, high)
    return Control(weight, integral, measured, state.start, error, progress, state.steps + 1)


def _within(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))
