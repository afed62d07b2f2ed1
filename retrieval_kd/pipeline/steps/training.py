"""Train a student on scored candidates."""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger

from retrieval_kd.callbacks.collapse import CollapseGuard
from retrieval_kd.callbacks.diagnostics import Diagnostics
from retrieval_kd.callbacks.speed import Speed
from retrieval_kd.callbacks.validation import RankingTask, Validation
from retrieval_kd.contracts import UserError
from retrieval_kd.data.batches import BatchMaker
from retrieval_kd.data.mixture import MixedBatches, MixedMaker
from retrieval_kd.data.sampler import EpochBatches, ResumableLoader
from retrieval_kd.data.training_set import TrainingSet
from retrieval_kd.functional.precision import computes_in_bf16
from retrieval_kd.pipeline.trainer_settings import TrainerSettings
from retrieval_kd.students.student import Student, Training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """What is trained on; of several sets each batch is from one."""

    sets: Sequence[TrainingSet]
    weights: Sequence[float | None]  # shares of the batches; None: as many as each set has
    seed: int

    def loader(self, student: Student, settings: TrainerSettings) -> ResumableLoader:
        """Batches by the student's own tokenizer."""
        makers = [BatchMaker(one, student.tokenizer) for one in self.sets]
        if len(makers) == 1:
            batches = EpochBatches(len(self.sets[0]), settings.batch_size, self.seed)
            return ResumableLoader(batches, makers[0], settings.workers)
        shares = [weight for weight in self.weights if weight is not None]
        mixed = MixedBatches(list(map(len, self.sets)), shares or None, settings.batch_size, self.seed)
        return ResumableLoader(mixed, MixedMaker(makers), settings.workers)


def fit(
    student: Student,
    training: Training,
    data: TrainingData,
    task: RankingTask | None,
    settings: TrainerSettings,
    work: Path,
    make_loggers: Callable[[Path], list[Logger]],
) -> dict[str, Any]:
    """Train ``student`` in place; a killed training goes on from its last checkpoint in ``work``."""
    if settings.validate_every is not None and task is None:
        raise UserError("trainer.validate_every needs a validation split; data.validation names none")
    pl.seed_everything(data.seed, verbose=False)
    student.prepare(training)
    totals = work / "totals.json"
    totals.unlink(missing_ok=True)
    speed = Speed(totals)
    last = _last_checkpoint(work, settings)
    record = work / "validation.json"
    best = work / "best.ckpt" if settings.select == "best" else None
    callbacks: list[pl.Callback] = [speed, CollapseGuard(), last, *([Diagnostics()] if settings.diagnose else [])]
    validation = None
    if settings.validate_every is not None and task is not None:
        validation = Validation(task, settings.validate_every, settings.patience, checkpoint=best, record=record)
        callbacks.append(validation)
    trainer = _trainer(settings, callbacks, make_loggers(work), work)
    loader = data.loader(student, settings)
    resume = work / "last.ckpt"
    if resume.exists():
        log.info("train: going on from %s", resume)
    with quietly():
        trainer.fit(student, loader, ckpt_path=resume if resume.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    found: dict[str, Any] = json.loads(totals.read_text())
    validated = json.loads(record.read_text()) if validation is not None else {"seconds": 0.0}
    found["train_seconds"] = round(found.pop("seconds") - validated["seconds"], 3)
    if validation is not None:
        found["validation"] = validated["best"]
    if best is not None and best.exists():
        _load(student, best)
    return found


def _trainer(settings: TrainerSettings, callbacks: list[pl.Callback], loggers: list[Logger], work: Path) -> pl.Trainer:
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=settings.strategy,
        precision=precision_of(settings),  # type: ignore[arg-type]
        max_epochs=settings.epochs,
        max_steps=-1 if settings.max_steps is None else settings.max_steps,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip,
        callbacks=callbacks,
        logger=loggers,
        log_every_n_steps=settings.log_every,
        default_root_dir=work,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,  # the sampler shares batches out itself, so that shares make one big batch
        num_sanity_val_steps=0,
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Without the advice that Lightning gives on choices which are deliberate here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch.utils.data")
        yield


def precision_of(settings: TrainerSettings) -> str:
    """What the trainer computes in."""
    if settings.precision != "auto":
        return settings.precision
    device = "cuda" if settings.accelerator in ("gpu", "cuda") else settings.accelerator
    return "bf16-mixed" if computes_in_bf16(device) else "32-true"


def _last_checkpoint(work: Path, settings: TrainerSettings) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=work, filename="last", every_n_train_steps=settings.checkpoint_every, enable_version_counter=False
    )


def _load(student: Student, checkpoint: Path) -> None:
    import torch

    state: Mapping[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    student.load_state_dict(state["state_dict"])


@contextmanager
def work_folder(path: Path, devices: int) -> Iterator[Path]:
    """Where a training keeps what it goes on from; one of its own if another command trains the same just now."""
    path.mkdir(exist_ok=True)
    if devices != 1:  # the processes of one training share the folder
        yield path
        return
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as own:
                yield Path(own)
            return
        except OSError as error:  # a file system without locks
            log.debug("%s: %s", path, error)
        yield path
        Path(lock.name).unlink(missing_ok=True)


def clear(work: Path) -> None:
    """Drop what was only there for going on."""
    shutil.rmtree(work, ignore_errors=True)
