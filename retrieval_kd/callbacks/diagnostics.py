"""What a training learns from, told while it trains: the teacher's entropy, scores by role, agreement, gradient shares.

Everything is computed at the steps that are logged, and at no others. A gradient share is of the gradients of all terms
with respect to queries' and passages' representations, term by term: the encoder is not differentiated for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from retrieval_kd.contracts import DARK_ROLES, Evidence, Role, Signal, Signals, has_role
from retrieval_kd.functional.divergence import masked_log_softmax
from retrieval_kd.functional.rank_correlation import kendall_tau
from retrieval_kd.students.student import Student

ROLES = [role for role in Role if role is not Role.NONE]


class Diagnostics(pl.Callback):
    """Logs ``diagnostics/…`` beside the losses.

    It looks on when the objective and the regularizer are asked; what a filter or a pacing has to tell are its own
    ``figures``, which the training step logs.
    """

    def __init__(self) -> None:
        self._watches: list[RemovableHandle] = []
        self._asked: tuple[Evidence, Signals, Mapping[str, Tensor]] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to watch."""
        assert isinstance(pl_module, Student)
        assert pl_module.training_parts is not None
        objective, regularizer = pl_module.training_parts.objective, pl_module.training_parts.regularizer
        if not isinstance(objective, nn.Module) or not isinstance(regularizer, nn.Module):
            return
        temperature = _temperature(objective)

        def after_objective(_: nn.Module, given: tuple[Any, ...], losses: Mapping[str, Tensor]) -> None:
            if _is_logged(trainer):
                self._asked = (given[0], given[1], losses)

        def after_regularizer(_: nn.Module, given: tuple[Any, ...], penalty: Tensor) -> None:
            if self._asked is None:
                return
            evidence, signals, losses = self._asked
            self._asked = None
            found = gradient_shares({**losses, "penalty": penalty}, evidence) | list_figures(
                evidence.query_passage.detach(), signals, temperature
            )
            figures = {f"diagnostics/{name}": value.float() for name, value in found.items() if not value.isnan()}
            pl_module.log_dict(figures, batch_size=len(signals.role))

        self._watches = [
            objective.register_forward_hook(after_objective),
            regularizer.register_forward_hook(after_regularizer),
        ]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop watching, however the training ended."""
        for watch in self._watches:
            watch.remove()
        self._asked = None


def gradient_shares(losses: Mapping[str, Tensor], evidence: Evidence) -> dict[str, Tensor]:
    """Norm of each term's gradient at the representations, divided by the sum of all terms' norms."""
    inputs = [value for made in (evidence.queries, evidence.passages) for value in made.values() if value.requires_grad]
    norms = {}
    for name, loss in losses.items():
        if loss.requires_grad and inputs:
            gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
            parts = [gradient.float().norm() for gradient in gradients if gradient is not None]
            norms[name] = torch.stack(parts).norm() if parts else loss.new_zeros(())
    whole = sum(norms.values())
    return {f"gradient_share_{name}": norm / whole for name, norm in norms.items()}


@torch.no_grad()
def list_figures(similarities: Tensor, signals: Signals, temperature: float) -> dict[str, Tensor]:
    """What teacher and student say of each query's own list; means over lists, NaN where there is none."""
    scored = ~signals.scores.isnan() & (signals.role != Role.NONE)
    made = has_role(signals.role, DARK_ROLES)
    figures = {
        "kendall_tau": kendall_tau(similarities, signals.scores, scored).nanmean(),
        "teacher_entropy": _entropy(signals.scores / temperature, scored & ~made),
        "teacher_entropy_with_dark": _entropy(signals.scores / temperature, scored).masked_fill(~made.any(), torch.nan),
    }
    for role in ROLES:
        figures[f"teacher_score_{role.name.lower()}"] = signals.scores[scored & (signals.role == role)].mean()
    return figures


def _entropy(scores: Tensor, listed: Tensor) -> Tensor:
    """Mean entropy, in nats, of the softmax over each list of two or more."""
    logarithms = masked_log_softmax(scores.nan_to_num(0.0), listed)
    mass = logarithms.exp().masked_fill(~listed, 0.0)
    entropies = -(mass * logarithms.masked_fill(mass == 0, 0.0)).sum(-1)
    return entropies[listed.sum(-1) > 1].mean()


def _temperature(objective: nn.Module) -> float:
    """That by which the first term of teacher scores divides them."""
    for term in getattr(objective, "terms", nn.ModuleDict()).values():
        temperature: Any = getattr(term, "teacher_temperature", None)
        if Signal.SCORE in getattr(term, "needs", ()) and temperature is not None:
            return float(temperature)
    return 1.0


def _is_logged(trainer: pl.Trainer) -> bool:
    return (trainer.global_step + 1) % getattr(trainer, "log_every_n_steps", 1) == 0
