"""Jobs of a sweep in processes of their own: one after another, or through one of Hydra's launchers."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import IO, Any

from retrieval_kd.cli.messages import start_logging
from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.sweep_folder import GROUP, Outcome, SweepFolder
from retrieval_kd.pipeline.sweep_space import Job

log = logging.getLogger(__name__)

GRACE = 30.0  # seconds that a job has to end by itself
OF_TASKS = ("SLURM_NTASKS", "SLURM_PROCID")  # a job's devices are not tasks of Slurm, and Lightning would take them so
EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}


class FreshJobs:
    """Starts the plain command of a job, which knows of no sweep: several devices work as they do alone.

    It travels to a launcher's processes, and is called there with the number of a job.
    """

    def __init__(self, folder: SweepFolder, jobs: Sequence[Job]) -> None:
        self.folder = SweepFolder(folder.path.absolute(), folder.verb, folder.command)
        self.overrides: Mapping[int, tuple[str, ...]] = {job.number: job.overrides for job in jobs}
        self.place = Path.cwd()

    def __call__(self, cfg: Any) -> None:
        """Run the job that Hydra says."""
        start_logging()
        self.start(int(cfg.number))

    def start(self, number: int) -> Outcome:
        """Run a job and remember how it ended."""
        overrides, printed = self.overrides[number], self.folder.log(number)
        self.folder.forget(number)
        started = time.perf_counter()
        with printed.open("w", encoding="utf-8") as stream:
            command = [sys.executable, "-m", "retrieval_kd", self.folder.verb, *overrides]
            code = run_child(command, stream, self.place, {GROUP: self.folder.path.name, **without_tasks(os.environ)})
        seconds = round(time.perf_counter() - started, 3)
        error = error_in(printed.read_text(encoding="utf-8", errors="replace").splitlines(), code)
        outcome = Outcome(number, overrides, code, None, error, seconds)
        self.folder.keep(outcome)
        log.info("job %d: %s: %.1f s%s", number, " ".join(overrides), seconds, f", failed: {error}" if error else "")
        return outcome


def without_tasks(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables but for those by which Slurm counts its tasks."""
    return {key: value for key, value in environment.items() if not key.startswith(OF_TASKS)}


def run_child(command: Sequence[str], stream: IO[str], place: Path, environment: Mapping[str, str]) -> int:
    """Run a command, which does not outlive us; its code, or as a shell says it where a signal ended it."""
    with _ended_by_signal():
        child = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, cwd=place, env=environment)
        try:
            code = child.wait()
        except KeyboardInterrupt:
            _end(child, GRACE)  # the terminal told it as well
            raise
        except BaseException:
            _end(child, 0)
            raise
    return code if code >= 0 else 128 - code


def _end(child: subprocess.Popen[bytes], grace: float) -> None:
    """Wait, then ask, then kill; a second interruption kills at once."""
    try:
        for ask in (None, child.terminate):
            if ask:
                ask()
            try:
                child.wait(GRACE if ask else grace)
                return
            except subprocess.TimeoutExpired:
                continue
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """SIGTERM unwinds, where nobody listens to it: by itself it would end us and leave the child."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _unwind)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _unwind(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def error_in(printed: Sequence[str], code: int) -> str:
    """What a job that failed said last."""
    if code == 0:
        return ""
    told = [line.removeprefix("error: ") for line in printed if line.startswith("error: ")]
    return (told or [line for line in printed if line.strip()] or [f"it ended with code {code}"])[-1]


class Launching:
    """Runs jobs by a launcher, which is looked for at once, before anything runs."""

    def __init__(self, verb: ModuleType, folder: SweepFolder, overrides: Sequence[str]) -> None:
        self._verb = verb
        self._folder = folder
        self._hydra = Launcher(folder.path, overrides) if overrides else None

    def start(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run them, and look where each left its results."""
        fresh = FreshJobs(self._folder, jobs)
        for job in jobs:
            self._folder.forget(job.number)
        if self._hydra is not None:
            self._hydra.launch(fresh, [job.number for job in jobs])
            return [self._ended(job) for job in jobs]
        ended = []
        for job in jobs:
            fresh.start(job.number)
            ended.append(self._ended(job))
        return ended

    def _ended(self, job: Job) -> Outcome:
        found = self._folder.outcome(job)
        if found is None:
            found = Outcome(job.number, job.overrides, 1, error=f"its process left no word; see {self._folder.path}")
        elif found.code == 0 and hasattr(self._verb, "finished"):
            results = self._verb.finished(compose(job.overrides))
            found = Outcome(job.number, job.overrides, 0, results and str(results), "", found.seconds)
        if found.code:
            print(f"error: job {job.number} ({job.name}): {found.error}", file=sys.stderr)
        self._folder.keep(found)
        return found


class Launcher:
    """One of Hydra's; what it composes for a job is the job's number and nothing else."""

    def __init__(self, place: Path, overrides: Sequence[str]) -> None:
        from hydra._internal.hydra import Hydra
        from hydra._internal.utils import create_config_search_path
        from hydra.core.global_hydra import GlobalHydra
        from hydra.errors import HydraException
        from hydra.types import RunMode
        from hydra.version import setbase

        setbase("1.3")
        GlobalHydra.instance().clear()
        own = [f"hydra.sweep.dir='{place}'", "hydra.sweep.subdir=jobs", "hydra.output_subdir=null"]
        quiet = ["hydra/hydra_logging=none", "hydra/job_logging=none", "hydra.job.chdir=false", "hydra.mode=MULTIRUN"]
        try:
            self._hydra = Hydra.create_main_hydra2("retrieval-kd", create_config_search_path(None))
            self._config = self._hydra.compose_config(None, [*own, *quiet, *overrides], RunMode.MULTIRUN)
        except HydraException as error:
            raise UserError(not_there(overrides, error)) from error
        finally:
            GlobalHydra.instance().clear()

    def launch(self, fresh: FreshJobs, numbers: Sequence[int]) -> None:
        """Run jobs as the launcher does it."""
        from hydra._internal.callbacks import Callbacks
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.plugins import Plugins
        from hydra.types import HydraContext

        context = HydraContext(config_loader=self._hydra.config_loader, callbacks=Callbacks(self._config))
        GlobalHydra.instance().initialize(self._hydra)
        try:
            launcher = Plugins.instance().instantiate_launcher(context, fresh, self._config)
            launcher.launch([[f"+number={number}"] for number in numbers], initial_job_idx=numbers[0])
        except Exception:  # of the launcher, for a job keeps its own: what ended well is there
            log.exception("the launcher failed")
        finally:
            GlobalHydra.instance().clear()


def not_there(overrides: Sequence[str], error: Exception) -> str:
    """Which extra brings a launcher, or which there are."""
    for override in overrides:
        group, _, name = override.partition("=")
        if group == "hydra/launcher" and "hydra/launcher" in str(error):
            if name in EXTRAS:
                return f"{override}: it is not installed here; pip install retrieval-kd[{EXTRAS[name]}]"
            return f"{override}: there are basic, {', '.join(EXTRAS)}, and what other plugins bring"
    return " ".join(str(error).split())
