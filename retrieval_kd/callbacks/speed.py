"""How fast training goes: queries and passages a second, and the seconds that were training and nothing else."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl

from retrieval_kd.contracts import Batch


class Speed(pl.Callback):
    """Counts what goes through the training step; ``seconds`` leaves validation and checkpoints out."""

    def __init__(self) -> None:
        self.queries = 0
        self.passages = 0
        self.seconds = 0.0
        self._started = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Stop the clock and count."""
        self.seconds += time.perf_counter() - self._started
        self.queries += len(batch.query_ids)
        self.passages += len(batch.passage_ids)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must remember."""
        return {"queries": self.queries, "passages": self.passages, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.queries, self.passages = state_dict["queries"], state_dict["passages"]
        self.seconds = state_dict["seconds"]
