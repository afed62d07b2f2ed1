"""``-m``: every combination as a job of its own, by Hydra's sweepers and launchers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_kd.cli.main import run_once
from retrieval_kd.contracts import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

PLACE = Path("outputs/multirun")
HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def sweep(run: Callable[[list[str]], int], overrides: list[str]) -> int:
    """Run a verb once per job; a job that fails is told at once, the others still run, and the code is not 0."""
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.version import setbase

    from retrieval_kd.pipeline.compose import conf_dir

    jobs = Jobs(run, getattr(sys.modules[run.__module__], "job", None))
    setbase("1.3")
    GlobalHydra.instance().clear()
    # What hydra.main does, without its own handling of command lines and errors.
    hydra = Hydra.create_main_hydra2("retrieval-kd", create_config_search_path(str(conf_dir())))
    try:
        task = jobs.start
        hydra.multirun("config", task, [*overrides, "hydra.mode=MULTIRUN"], with_log_configuration=False)
    except HydraException as error:
        raise UserError(" ".join(str(error).split())) from error
    finally:
        GlobalHydra.instance().clear()
    log.info("%d jobs, %d failed", len(jobs.codes), sum(code != 0 for code in jobs.codes))
    if len(jobs.folders) > 1:
        _say_front(jobs.folders)
    return max(jobs.codes, default=0)


def _say_front(folders: Sequence[Path]) -> None:
    """Quality against cost over the jobs, where their students have costs to compare."""
    from retrieval_kd.pipeline.fronts import write_front

    try:
        print(write_front(folders, place=PLACE))
    except UserError as error:
        log.info("no table of quality against cost: %s", error)
    else:
        log.info("%s/pareto.md, and as .json and plot", PLACE)


class Jobs:
    """What became of the jobs that ran in this process."""

    def __init__(self, run: Callable[[list[str]], int], job: Callable[[list[str]], Path] | None) -> None:
        self._run = run
        self._job = job  # the same, for verbs whose jobs leave a folder
        self.codes: list[int] = []
        self.folders: list[Path] = []

    def start(self, _: DictConfig) -> None:
        """Run one job, composed anew from its own overrides."""
        from hydra.core.hydra_config import HydraConfig

        config = HydraConfig.get()
        overrides = list(config.overrides.task)
        number, name = config.job.num, " ".join(overrides)
        in_this_process = config.launcher["_target_"] == HERE
        log.info("job %s: %s", number, name)
        try:
            self.codes.append(run_once(self._go, overrides))
        except UserError as error:
            print(f"error: job {number} ({name}): {' '.join(str(error).split())}", file=sys.stderr)
            self.codes.append(2)
            if not in_this_process:  # another launcher hears of a failure by the exception
                raise
        except Exception:
            log.exception("job %s (%s) failed", number, name)
            self.codes.append(1)
            if not in_this_process:
                raise

    def _go(self, overrides: list[str]) -> int:
        if self._job is None:
            return self._run(overrides)
        self.folders.append(self._job(overrides))
        return 0
