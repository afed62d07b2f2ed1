"""``-m``: every combination as a job of its own, or those that a search draws; what is done is not run again."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from retrieval_kd.cli.main import run_once
from retrieval_kd.contracts import UserError

if TYPE_CHECKING:
    from retrieval_kd.pipeline.grid import Grid
    from retrieval_kd.pipeline.sweep_folder import Outcome, SweepFolder
    from retrieval_kd.pipeline.sweep_space import Job, Space

log = logging.getLogger(__name__)

GROUP = "WANDB_RUN_GROUP"  # trackers put the jobs of a sweep together by it, in processes of their own too
# They say how jobs are run, not which: another number of trials, or another launcher, goes on with the same sweep.
NOT_OF_THE_COMMAND = ("sweep.folder", "sweep.fresh", "sweep.trials", "sweep.parallel")

Run = Callable[[list[str]], int]


class Command(NamedTuple):
    """What a command line asks for."""

    verb: str
    run: Run
    space: Space
    settings: Grid
    launcher: tuple[str, ...]  # overrides of Hydra's own
    folder: SweepFolder


def sweep(run: Run, arguments: list[str]) -> int:
    """Run a verb once per job; a job that fails is told at once, the others still run, and the code is not 0."""
    command = read_command(run, arguments)
    total = command.settings.count(command.space)
    runner = _runner(command)
    with command.folder.held(), _grouped(command.folder.path.name):
        log.info("sweep %s: %d jobs", command.folder.path, total)
        ended = _run_batches(command, runner)
        _report(command)
    failed = sum(outcome.code != 0 for outcome in ended)
    log.info("%d jobs, %d failed", len(ended), failed)
    return max((outcome.code for outcome in ended), default=0)


def read_command(run: Run, arguments: Sequence[str]) -> Command:
    """Tell jobs' overrides from those of the sweep and of Hydra, and look at one job of it."""
    from retrieval_kd.pipeline.build import build
    from retrieval_kd.pipeline.compose import compose
    from retrieval_kd.pipeline.sweep_folder import sweep_folder
    from retrieval_kd.pipeline.sweep_space import read_space

    launcher = [one for one in arguments if one.startswith(("hydra.", "hydra/"))]
    own = [one for one in arguments if one.startswith(("sweep=", "sweep."))]
    of_jobs = [one for one in arguments if one not in launcher and one not in own]
    _refuse(of_jobs, launcher, own)
    cfg = compose([*read_space(of_jobs).first().overrides, *own])
    settings: Grid = build(cfg.sweep)
    space = read_space(of_jobs, settings.params)
    if space.swept:
        compose(space.first().overrides)  # a key that is not there is told before anything is made
    verb = run.__module__.rpartition(".")[2]
    identity = [*of_jobs, *(one for one in own if one.split("=", 1)[0] not in NOT_OF_THE_COMMAND)]
    folder = sweep_folder(settings.folder, cfg.name or verb, verb, identity)
    return Command(verb, run, space, settings, tuple(launcher), folder)


def _refuse(of_jobs: Sequence[str], launcher: Sequence[str], own: Sequence[str]) -> None:
    from retrieval_kd.pipeline.compose import read_override

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


@contextmanager
def _grouped(name: str) -> Iterator[None]:
    before = os.environ.get(GROUP)
    os.environ.setdefault(GROUP, name)
    try:
        yield
    finally:
        if before is None:
            del os.environ[GROUP]


def _runner(command: Command) -> Callable[[Sequence[Job]], list[Outcome]]:
    """Jobs run in this process, or each in one of its own."""
    if command.launcher or command.settings.fresh:
        from retrieval_kd.cli.launching import Launching

        return Launching(command.verb, command.folder, command.launcher).start
    return lambda jobs: [_run_here(command, job) for job in jobs]


def _run_batches(command: Command, runner: Callable[[Sequence[Job]], list[Outcome]]) -> list[Outcome]:
    """Batch by batch, as the settings give them; what a job came to decides on the next."""
    from retrieval_kd.pipeline.sweep_report import value_of

    batches = command.settings.batches(command.space, command.folder.path)
    ended: list[Outcome] = []
    jobs = next(batches, None)
    while jobs is not None:
        outcomes = _run_batch(command, jobs, runner)
        ended += outcomes
        values = {one.number: value_of(one, command.settings.measure) for one in outcomes}
        try:
            jobs = batches.send(values)
        except StopIteration:
            jobs = None
    return ended


def _run_batch(
    command: Command, jobs: Sequence[Job], runner: Callable[[Sequence[Job]], list[Outcome]]
) -> list[Outcome]:
    """What cannot work is told first, what is done already is left out, the rest runs."""
    alone = not (command.launcher or command.settings.fresh)
    ended = {job.number: found for job in jobs if (found := _known(command, job, alone)) is not None}
    done = sum(outcome.code == 0 for outcome in ended.values())
    if done:
        log.info("%d of %d jobs are done already", done, len(jobs))
    left = [job for job in jobs if job.number not in ended]
    for outcome in runner(left) if left else ():
        ended[outcome.number] = outcome
    return [ended[job.number] for job in jobs]


def _known(command: Command, job: Job, here: bool) -> Outcome | None:
    """How a job ended before, or why it cannot work; None if it is to be run.

    A key or an option that is not there ends the sweep before its first job: what is wrong with one is wrong with all.
    """
    from retrieval_kd.pipeline.compatibility import check
    from retrieval_kd.pipeline.compose import compose
    from retrieval_kd.pipeline.run_rules import sweeps_run_one_process
    from retrieval_kd.pipeline.sweep_folder import Outcome

    cfg = compose(job.overrides)
    if not hasattr(sys.modules[command.run.__module__], "job"):
        return None
    try:
        check(cfg)
        if here:
            sweeps_run_one_process(cfg)
    except UserError as error:
        outcome = Outcome(job.number, job.overrides, 2, error=_tell(job, error))
        command.folder.keep(outcome)
        return outcome
    before = command.folder.outcome(job)
    if before is None or before.code or before.folder is None:
        return None
    finished = getattr(sys.modules[command.run.__module__], "finished", None)
    return before if finished is not None and finished(cfg) == Path(before.folder) else None


def _run_here(command: Command, job: Job) -> Outcome:
    """Run one job in this process; an interruption ends the sweep, and leaves the job as if it had not begun."""
    from retrieval_kd.pipeline.sweep_folder import Outcome

    work: Callable[[list[str]], Path] | None = getattr(sys.modules[command.run.__module__], "job", None)
    folders: list[Path] = []

    def go(overrides: list[str]) -> int:
        if work is None:
            return command.run(overrides)
        folders.append(work(overrides))
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
        code, error = 1, f"{type(fault).__name__}: {fault}"
    seconds = round(time.perf_counter() - started, 3)
    folder = str(folders[0]) if folders else None
    outcome = Outcome(job.number, job.overrides, code, folder, error, seconds)
    command.folder.keep(outcome)
    if seconds > 1:
        gc.collect()  # models refer to themselves; the next job needs their memory
    return outcome


def _tell(job: Job, error: UserError) -> str:
    message = " ".join(str(error).split())
    print(f"error: job {job.number} ({job.name}): {message}", file=sys.stderr)
    return message


def _report(command: Command) -> None:
    from retrieval_kd.pipeline.sweep_report import write_report

    text = write_report(command.folder, command.settings.measure, command.settings.direction)
    if text is not None:
        print(text)
        log.info("%s: sweep.md, sweep.json, plots", command.folder.path)
