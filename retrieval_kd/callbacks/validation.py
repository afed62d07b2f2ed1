"""nDCG on some validation queries while training, for choosing a checkpoint and for stopping early."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor

from retrieval_kd.contracts import Side
from retrieval_kd.data.runs import Run
from retrieval_kd.evaluation.measures import measure
from retrieval_kd.students.student import Student

log = logging.getLogger(__name__)

MEASURE = "ndcg@10"


@dataclass(frozen=True)
class RankingTask:
    """Queries, each with the passages that are to be ranked for it."""

    queries: Mapping[str, str]
    passage_ids: Sequence[str]
    passage_texts: Sequence[str]
    lists: Mapping[str, np.ndarray]  # query id to places in ``passage_ids``
    judgements: Mapping[str, Mapping[str, int]]

    def score(self, student: Student) -> float:
        """Mean nDCG@10 of the student's order of each list."""
        queries = student.encode_texts(list(self.queries.values()), Side.QUERY)
        passages = student.encode_texts(self.passage_texts, Side.PASSAGE)
        ranked: dict[str, dict[str, float]] = {}
        for row, query_id in enumerate(self.queries):
            places = self.lists[query_id]
            one = {name: value[row : row + 1] for name, value in queries.items()}
            some = {name: value[places] for name, value in passages.items()}
            scores: Tensor = student.compare(one, some)[0]
            ranked[query_id] = {self.passage_ids[place]: float(s) for place, s in zip(places, scores, strict=True)}
        return measure(Run.from_dict(ranked), self.judgements, [MEASURE]).means()[MEASURE]


class Validation(pl.Callback):
    """Ranks the validation lists every so many steps; logs ``validation/ndcg@10``, stops when it no longer rises.

    ``checkpoint`` is where the weights of the best validation are kept, the last one included; ``record`` where the
    best value and the seconds are at the end, which processes that Lightning starts do not hand back otherwise.
    """

    def __init__(
        self,
        task: RankingTask,
        every: int,
        patience: int | None,
        checkpoint: Path | None = None,
        record: Path | None = None,
    ) -> None:
        self.record = record
        self.task = task
        self.every = every
        self.patience = patience
        self.checkpoint = checkpoint
        self.best = -1.0
        self.without_gain = 0
        self.last_step = 0
        self.seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Validate after each ``every`` optimizer steps and at the last one."""
        step = trainer.global_step
        due = step % self.every == 0 or step >= trainer.estimated_stepping_batches
        if not due or step == self.last_step:
            return
        self.last_step = step
        assert isinstance(pl_module, Student)
        started = time.perf_counter()
        value = self.task.score(pl_module)
        self.seconds += time.perf_counter() - started
        pl_module.log(f"validation/{MEASURE}", value, sync_dist=True)
        log.info("step %d: validation %s %.4f", step, MEASURE, value)
        self.without_gain = 0 if value > self.best else self.without_gain + 1
        if value > self.best:
            self.best = value
            if self.checkpoint is not None:
                trainer.save_checkpoint(self.checkpoint, weights_only=True)
        if self.patience is not None and self.without_gain >= self.patience:
            log.info("no gain in %d validations: training stops", self.without_gain)
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was found."""
        if self.record is not None and trainer.is_global_zero:
            self.record.write_text(json.dumps({"best": self.best, "seconds": self.seconds}))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must remember."""
        names = ("best", "without_gain", "last_step", "seconds")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where it stopped."""
        for name, value in state_dict.items():
            setattr(self, name, value)
