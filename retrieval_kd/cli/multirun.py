"""``-m``: every combination as a job of its own, or those that a search draws; what is done is not run again."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from omegaconf import DictConfig

from retrieval_kd.cli.launching import Launching
from retrieval_kd.cli.main import run_once
from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.build import build
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose, plain, read_override
from retrieval_kd.pipeline.grid import Grid
from retrieval_kd.pipeline.run_rules import sweeps_run_one_process
from retrieval_kd.pipeline.sweep_folder import GROUP, Outcome, SweepFolder, sweep_folder
from retrieval_kd.pipeline.sweep_report import value_of, write_report
from retrieval_kd.pipeline.sweep_space import Job, Space, read_space

if TYPE_CHECKING:
    from retrieval_kd.pipeline.entries import Entry

log = logging.getLogger(__name__)

OF_COLLECTIONS = ("data", "evaluation.measures", "experiment", "scale")  # keys that may change what is measured

# They say how jobs are run, not which: with another launcher, or more trials, the same sweep goes on.
NOT_OF_THE_COMMAND = ("sweep.folder", "sweep.fresh", "sweep.trials", "sweep.parallel")


class Command(NamedTuple):
    """What a command line asks for."""

    verb: ModuleType
    space: Space
    settings: Grid
    launcher: tuple[str, ...]  # overrides of Hydra's own
    folder: SweepFolder

    @property
    def in_this_process(self) -> bool:
        """Jobs run here, one after another; else each in a process of its own."""
        return not (self.launcher or self.settings.fresh)


def sweep(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a verb once per job; a job that fails is told at once, the others still run, and the code is not 0."""
    command = read_command(sys.modules[run.__module__], arguments)
    count = command.settings.prepare(command.space)
    launching = None if command.in_this_process else Launching(command.verb, command.folder, command.launcher)
    with command.folder.held(), _grouped(command.folder.path.name):
        log.info("sweep %s: %d jobs", command.folder.path, count)
        ended = _run_batches(command, launching)
        _report(command)
    failed = sum(outcome.code != 0 for outcome in ended)
    log.info("%d jobs, %d failed", len(ended), failed)
    return max((outcome.code for outcome in [*ended, *command.folder.outcomes()]), default=0)


def read_command(verb: ModuleType, arguments: Sequence[str]) -> Command:
    """Tell the jobs' overrides from those of the sweep and of Hydra."""
    launcher = [one for one in arguments if one.startswith(("hydra.", "hydra/"))]
    own = [one for one in arguments if one.startswith(("sweep=", "sweep."))]
    of_jobs = [one for one in arguments if one not in launcher and one not in own]
    _refuse(of_jobs, launcher, own)
    space = read_space(of_jobs)
    cfg = compose([*space.first().overrides, *own])
    settings: Grid = build(cfg.sweep)
    _check_measure(settings, cfg, {*space.swept, *settings.params})
    name = verb.__name__.rpartition(".")[2]
    identity = [*of_jobs, *(one for one in own if one.split("=", 1)[0] not in NOT_OF_THE_COMMAND)]
    folder = sweep_folder(settings.folder, cfg.name or name, name, identity)
    return Command(verb, read_space(of_jobs, settings.params), settings, tuple(launcher), folder)


def _refuse(of_jobs: Sequence[str], launcher: Sequence[str], own: Sequence[str]) -> None:
    for one in of_jobs:
        if one.startswith("output_dir="):
            raise UserError(f"{one}: each job of a sweep has a folder of its own; sweep.folder=DIR names the sweep's")
    for one in launcher:
        if one.startswith("hydra/sweeper"):
            raise UserError(f"{one}: sweep=grid, sweep=seeds and sweep=search say which jobs there are")
    for one in own:
        if read_override(one).is_sweep_override():
            key, _, value = one.partition("=")
            raise UserError(f"{one}: values of a sweep's own keys go into quotes: \"{key}='{value}'\"")


def _check_measure(settings: Grid, cfg: DictConfig, swept: Collection[str]) -> None:
    """As far as the first job tells: of its own collections where the others have the same."""
    if not settings.measure and settings.known_before:
        return
    evaluated = _evaluated(cfg)
    if settings.measure and not any(key.startswith(OF_COLLECTIONS) for key in swept):
        _refuse_measure(settings.measure, cfg, evaluated)
    if not settings.known_before and any(entry.split == "test" for entry in evaluated):
        log.warning("the search looks at the test split, and what it finds is too good there; data.split names another")


def _refuse_measure(said: str, cfg: DictConfig, evaluated: Sequence[Entry]) -> None:
    from retrieval_kd.pipeline.entries import MEAN

    label, _, measure = said.rpartition(" ")
    asked = [*cfg.evaluation.measures, *(cfg.data.get("measures") or ())]
    measures = dict.fromkeys([*asked, *(name for entry in evaluated for name in entry.measures(asked))])
    if measure not in measures:
        raise UserError(f"sweep.measure={said}: evaluation.measures has {', '.join(measures)}")
    means = [f"{entry.group}/{entry.split}" for entry in evaluated if entry.group]
    means += ["/".join(MEAN)] if evaluated[1:] else []
    labels = dict.fromkeys([*(entry.label for entry in evaluated), *means])
    if label and labels and label not in labels:
        raise UserError(f"sweep.measure={said}: there are the collections {', '.join(labels)}")


def _evaluated(cfg: DictConfig) -> Sequence[Entry]:
    """What jobs are measured on, without reading it; none where that cannot be told, which the jobs themselves say."""
    from retrieval_kd.pipeline.entries import entries
    from retrieval_kd.pipeline.unread import without_reading

    try:
        return entries(without_reading(cfg)).evaluate
    except UserError:
        return ()


@contextmanager
def _grouped(name: str) -> Iterator[None]:
    """What the user said of groups stands."""
    said = GROUP in os.environ
    os.environ.setdefault(GROUP, name)
    try:
        yield
    finally:
        if not said:
            os.environ.pop(GROUP, None)


def _run_batches(command: Command, launching: Launching | None) -> list[Outcome]:
    """Batch by batch, as the settings give them; what a job came to decides on the next."""
    batches = command.settings.batches(command.space, command.folder.path)
    ended: list[Outcome] = []
    jobs = next(batches, None)
    while jobs is not None:
        outcomes = _run_batch(command, jobs, launching)
        ended += outcomes
        try:
            jobs = batches.send({one.number: value_of(one, command.settings.measure) for one in outcomes})
        except StopIteration:
            jobs = None
    return ended


def _run_batch(command: Command, jobs: Sequence[Job], launching: Launching | None) -> list[Outcome]:
    """What cannot work is told first, what is done already is left out, the rest runs."""
    known = {job.number: _known(command, job) for job in jobs}
    done = sum(outcome is not None and outcome.code == 0 for outcome in known.values())
    if done:
        log.info("%d of %d jobs are done already", done, len(jobs))
    left = [job for job in jobs if known[job.number] is None]
    for outcome in launching.start(left) if launching and left else (_run_here(command, job) for job in left):
        known[outcome.number] = outcome
    return [outcome for outcome in known.values() if outcome is not None]


def _known(command: Command, job: Job) -> Outcome | None:
    """How a job ended before, or why it cannot work; None if it is to be run.

    A key or an option that is not there ends the sweep, where all jobs are known before the first of them runs.
    """
    try:
        cfg = compose(job.overrides)
    except UserError as error:
        if command.settings.known_before:
            raise
        return _refused(command, job, error)
    if not hasattr(command.verb, "job"):
        return None
    try:
        check(cfg)
        refusal = sweeps_run_one_process(plain(cfg)) if command.in_this_process else None
        if refusal:
            raise UserError(refusal)
    except UserError as error:
        return _refused(command, job, error)
    return _done(command, job, cfg)


def _done(command: Command, job: Job, cfg: DictConfig) -> Outcome | None:
    """How a job ended before, if its results still are what it would make."""
    before = command.folder.outcome(job)
    if before is None or before.code:
        return None
    results = command.verb.finished(cfg)
    if results is None or before.folder not in (None, str(results)):
        return None
    if before.folder is None:  # it ran in a process of its own, and the sweep was stopped before it looked
        before = replace(before, folder=str(results))
        command.folder.keep(before)
    return before


def _refused(command: Command, job: Job, error: UserError) -> Outcome:
    outcome = Outcome(job.number, job.overrides, 2, error=_tell(job, error))
    command.folder.keep(outcome)
    return outcome


def _run_here(command: Command, job: Job) -> Outcome:
    """Run one job in this process; an interruption ends the sweep, and leaves the job as if it had not begun."""
    folders: list[Path] = []

    def go(overrides: list[str]) -> int:
        if not hasattr(command.verb, "job"):
            code: int = command.verb.run(overrides)
            return code
        folders.append(command.verb.job(overrides))
        return 0

    command.folder.forget(job.number)
    log.info("job %d: %s", job.number, job.name)
    started, error = time.perf_counter(), ""
    try:
        code = run_once(go, list(job.overrides))
    except UserError as mistake:
        code, error = 2, _tell(job, mistake)
    except Exception as fault:
        log.exception("job %d (%s) failed", job.number, job.name)
        code, error = 1, f"{type(fault).__name__}: {' '.join(str(fault).split())}"
    seconds = round(time.perf_counter() - started, 3)
    outcome = Outcome(job.number, job.overrides, code, str(folders[0]) if folders else None, error, seconds)
    command.folder.keep(outcome)
    if seconds > 1:
        gc.collect()  # models refer to themselves; the next job needs their memory
    return outcome


def _tell(job: Job, error: UserError) -> str:
    message = " ".join(str(error).split())
    print(f"error: job {job.number} ({job.name}): {message}", file=sys.stderr)
    return message


def _report(command: Command) -> None:
    settings = command.settings
    text = write_report(command.folder, settings.measure, settings.direction, again=settings.known_before)
    if text is not None:
        print(text)
        log.info("%s: sweep.md, sweep.json, plots", command.folder.path)
