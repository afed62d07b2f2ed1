"""What went through a training, and how long it took."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from retrieval_kd.contracts import Batch


class Speed(pl.Callback):
    """Counts what goes through training; ``seconds`` has everything, from the reading of the first batch on.

    At the end the sums over all processes are written to ``totals``: processes that Lightning starts end with their
    callbacks, and only files of theirs are left.
    """

    def __init__(self, totals: Path | None = None) -> None:
        self.totals = totals
        self.queries = 0
        self.passages = 0
        self.seconds = 0.0
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock: the first batch is read now."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Read the clock and count; it goes on for the next batch."""
        now = time.perf_counter()
        self.seconds += now - self._started
        self._started = now
        self.queries += len(batch.query_ids)
        self.passages += len(batch.passage_ids)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the sums."""
        if self.totals is not None and trainer.is_global_zero:
            sums = {"queries": self.queries * trainer.world_size, "passages": self.passages * trainer.world_size}
            self.totals.write_text(json.dumps({"steps": trainer.global_step, "seconds": self.seconds, **sums}))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must remember."""
        return {"queries": self.queries, "passages": self.passages, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.queries, self.passages = state_dict["queries"], state_dict["passages"]
        self.seconds = state_dict["seconds"]
