"""Stops a training whose representations have become empty: no gradient brings them back."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from retrieval_kd.contracts import UserError
from retrieval_kd.students.student import Student


class CollapseGuard(pl.Callback):
    """Watches the passages that the regularizer is given; without activations there is nothing to watch.

    Args:
        limit: Share of a batch's passages without any active term from which a step counts as empty.
        patience: Empty steps in a row after which training stops.
    """

    def __init__(self, limit: float = 0.5, patience: int = 5) -> None:
        self.limit = limit
        self.patience = patience
        self.empty_steps = 0
        self.last_step = 0
        self._share: Tensor | None = None
        self._watch: RemovableHandle | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to watch."""
        assert isinstance(pl_module, Student)
        regularizer = pl_module.training_parts.regularizer if pl_module.training_parts else None
        if isinstance(regularizer, nn.Module):
            self._watch = regularizer.register_forward_hook(self._look)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Count once per optimizer step, and stop when it was often enough."""
        if self._share is None or trainer.global_step == self.last_step:
            return
        self.last_step = trainer.global_step
        share = float(self._share)
        self.empty_steps = self.empty_steps + 1 if share > self.limit else 0
        if self.empty_steps >= self.patience:
            assert isinstance(pl_module, Student)
            regularizer = pl_module.training_parts.regularizer if pl_module.training_parts else None
            raise UserError(
                f"step {self.last_step}: {share:.0%} of the passages have no active term, for {self.empty_steps} steps"
                f" now; training stopped: {getattr(regularizer, 'advice', 'lower optimizer.lr')}"
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop watching, however the training ended."""
        if self._watch is not None:
            self._watch.remove()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must remember."""
        return {"empty_steps": self.empty_steps, "last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.empty_steps, self.last_step = state_dict["empty_steps"], state_dict["last_step"]

    def _look(self, regularizer: nn.Module, given: tuple[Any, ...], penalty: Tensor) -> None:
        activations = given[1].get("activations")
        if activations is not None:
            with torch.no_grad():
                self._share = 1 - (activations > 0).any(1).float().mean()
