"""Bayesian search: optuna draws the jobs of a sweep from what the ones before came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.grid import Batches, Grid, compose_values
from retrieval_kd.pipeline.sweep_space import Job, Space, list_values

STUDY = "study.log"
NAME = "search"


@dataclass(frozen=True)
class Search(Grid):
    """Trials of a study that is kept in the sweep's folder; each is drawn by the seed, its number and those before."""

    trials: int
    parallel: int
    startup: int
    seed: int

    known_before: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("trials", "parallel"):
            if getattr(self, name) < 1:
                raise UserError(f"sweep.{name}={getattr(self, name)}: at least 1 is needed")

    def prepare(self, space: Space) -> int:
        """Refuse what cannot be searched; as many trials as are asked for."""
        _library()
        if not space.swept:
            raise UserError("sweep=search has nothing to search: give intervals or choices, optimizer.lr=interval(a,b)")
        for override in space.swept.values():
            distribution(override)
        compose_values(space)
        return self.trials

    def batches(self, space: Space, folder: Path) -> Batches:
        """What a killed search had begun comes first, then new trials."""
        optuna = _library()
        study = self._study(folder)
        told = optuna.trial.TrialState
        begun = study.get_trials(deepcopy=False, states=(told.RUNNING,))
        while begun or len(study.trials) < self.trials:
            if not begun:
                fresh = min(self.parallel, self.trials - len(study.trials))
                begun = [self._ask(study, space) for _ in range(fresh)]
            values = yield [_job(space, trial) for trial in begun]
            for trial in begun:
                value = values.get(trial.number)
                state = told.FAIL if value is None else told.COMPLETE
                study.tell(trial.number, value, state=state)
            begun = []

    def _study(self, folder: Path) -> Any:
        optuna = _library()
        path = folder / STUDY
        _repair(path)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        return optuna.create_study(storage=storage, study_name=NAME, direction=self.direction, load_if_exists=True)

    def _ask(self, study: Any, space: Space) -> Any:
        """Draw the next trial; seeded by its number, so that a search that was killed draws as one that was not."""
        study.sampler = _library().samplers.TPESampler(
            seed=self.seed + len(study.trials), n_startup_trials=self.startup, constant_liar=self.parallel > 1
        )
        return study.ask({key: distribution(override) for key, override in space.swept.items()})


def distribution(override: Override) -> Any:
    """What optuna draws a key's value from."""
    optuna = _library()
    value, logarithmic = override.value(), "log" in getattr(override.value(), "tags", ())
    low, high, more = None, None, {}
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
    elif isinstance(value, RangeSweep) and not logarithmic:
        steps = [float(text) for text in list_values(override)]
        whole = all(isinstance(edge, int) for edge in (value.start, value.stop, value.step))
        low, high, more = steps[0], steps[-1], {"step": int(value.step) if whole else float(value.step)}
        low, high = (int(low), int(high)) if whole else (low, high)
    if low is None or high is None:
        return optuna.distributions.CategoricalDistribution(list_values(override))
    kinds = optuna.distributions
    kind = kinds.IntDistribution if isinstance(low, int) and isinstance(high, int) else kinds.FloatDistribution
    try:
        return kind(low, high, log=logarithmic, **more)
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}") from error


def _job(space: Space, trial: Any) -> Job:
    spelled = {
        key: f"{value:.6g}" if isinstance(value, float) else str(value)
        for key, value in trial.params.items()
        if key in space.swept
    }
    return space.job(trial.number, spelled)


def _repair(path: Path) -> None:
    """Drop what a killed process left: half a line, which would spoil the next, and its lock; the folder is ours."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)


def _library() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("sweep=search needs optuna: pip install retrieval-kd[optuna]") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
