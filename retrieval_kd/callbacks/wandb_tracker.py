"""Weights & Biases: one run for a whole job, with or without a server that answers, however the job ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from retrieval_kd.contracts import UserError

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
NOT_SENDING = ("offline", "dryrun", "disabled")
FAILED = 1  # exit code of a run whose job did not come to its end


@dataclass(frozen=True)
class About:
    """What a run says of its job."""

    name: str | None = None
    identity: str | None = None  # of what is computed: a job that goes on has the run that it had
    tags: Sequence[str] = ()
    config: Mapping[str, Any] | None = None


class WandbTracker(WandbLogger):
    """Lightning's logger over the job's run; a training after another, as in stages, goes on counting steps.

    Which group the run belongs to is said by ``WANDB_RUN_GROUP``, as a sweep does for its jobs.

    Args:
        project: Where runs are put.
        save_dir: Folder that holds ``wandb/``.
        offline: Whether nothing is sent.
        entity: Account or team; None: wandb's default.
        tags: Words to find the run by.
        timeout: Seconds that a server has to answer.
        about: The job; of a training alone nothing is known.
    """

    steps: ClassVar[dict[str, int]] = {}  # that the runs which are open have; a run takes no attributes of others

    def __init__(
        self,
        project: str,
        save_dir: str,
        offline: bool,
        entity: str | None,
        tags: Sequence[str],
        timeout: float,
        about: About | None = None,
    ) -> None:
        about = about or About()
        self._arguments: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "dir": save_dir,
            "tags": [*tags, *about.tags],
            "name": about.name,
            "id": about.identity,
            "config": dict(about.config or {}),
        }
        self._timeout = timeout
        run = self._opened(offline) if getattr(rank_zero_only, "rank", 0) in (0, None) else None
        super().__init__(project=project, save_dir=save_dir, offline=offline, experiment=run)
        self._before = self.steps.get(run.id, 0) if run is not None else 0
        self._silent = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send numbers; a tracker that fails is told of once, and training goes on."""
        if self._silent:
            return
        step = None if step is None else step + self._before
        with self._spared("nothing more is logged there, training goes on"):
            super().log_metrics(metrics, step)
            if step is not None:
                self.steps[self.experiment.id] = step + 1

    def record(self, figures: Mapping[str, Any]) -> None:
        """What the job came to, as the run's summary."""
        with self._spared("measures and costs are not there"):
            self.experiment.summary.update(dict(figures))

    def close(self, code: int) -> None:
        """End the run; one that cannot be sent in time stays on disk."""
        with self._spared("wandb sync sends the run later"):
            self.steps.pop(self.experiment.id, None)
            self.experiment.finish(exit_code=code)

    @contextmanager
    def _spared(self, consequence: str) -> Iterator[None]:
        """A tracker that fails costs its own lines, not the job."""
        try:
            yield
        except Exception as error:
            self._silent = True
            log.warning("logger=wandb: %s; %s", _one_line(error), consequence)

    def _opened(self, offline: bool) -> Any:
        """The run that is open already, or a new one; on disk where no server answers."""
        wandb = _library()
        if wandb.run is not None:
            return wandb.run
        offline = offline or os.environ.get("WANDB_MODE") in NOT_SENDING
        if not offline:
            check_account(wandb)
        try:
            return self._begun(offline)
        except Exception as error:  # the library has many kinds, some of them its own transport's
            if offline:
                raise UserError(f"logger=wandb: {_one_line(error)}; logger=csv needs nothing") from error
            log.warning(
                "logger=wandb: %s; the run stays in %s/wandb, and wandb sync sends it later",
                _one_line(error),
                self._arguments["dir"],
            )
            self._arguments["id"] = None  # which the attempt that failed may hold
            return self._begun(offline=True)

    def _begun(self, offline: bool) -> Any:
        wandb = _library()
        settings = wandb.Settings(
            init_timeout=self._timeout,
            finish_timeout=self._timeout,
            console="off",  # log lines are not taken away from the terminal
            silent=True,
        )
        mode = "offline" if offline else "online"
        os.makedirs(self._arguments["dir"], exist_ok=True)
        # Offline runs cannot be resumed; wandb sync puts those of one identity together.
        run = wandb.init(mode=mode, resume=None if offline else "allow", settings=settings, **self._arguments)
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run


def check_account(wandb: Any) -> None:
    """Refuse to send without an account, before the work; nothing is asked of a server yet."""
    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        raise UserError(f"offline=false: {_one_line(error)}") from error
    if not known:
        raise UserError("offline=false needs an account: wandb login, or a key in WANDB_API_KEY")


def _library() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("logger=wandb needs wandb: pip install retrieval-kd[wandb]; logger=csv does not") from error
    return wandb


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
