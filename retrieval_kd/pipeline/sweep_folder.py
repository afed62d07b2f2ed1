"""A sweep's own folder: which command it is of, and what became of each job."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file, text_digest
from retrieval_kd.pipeline.sweep_space import Job

PLACE = Path("outputs/multirun")
COMMAND = "command.json"
GROUP = "WANDB_RUN_GROUP"  # a tracker puts the jobs of a sweep together by it, in processes of their own too


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    number: int
    overrides: tuple[str, ...]
    code: int
    folder: str | None = None  # of its results, where its verb leaves some
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class SweepFolder:
    """Where a sweep keeps its list; the same command finds it again, another one has another folder."""

    path: Path
    verb: str
    command: tuple[str, ...]  # without what says how the jobs are run

    @property
    def jobs(self) -> Path:
        """One file for each job, so that processes do not wait for each other."""
        return self.path / "jobs"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Refuse another command's folder, and a second process beside this one."""
        self.jobs.mkdir(parents=True, exist_ok=True)
        self._check_command()
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.path}: another process runs this sweep just now") from error
            except OSError:  # a file system without locks
                pass
            yield

    def _check_command(self) -> None:
        path, own = self.path / COMMAND, {"verb": self.verb, "overrides": list(self.command)}
        if not path.exists():
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
        elif (other := json.loads(path.read_text(encoding="utf-8"))) != own:
            said = f"{other['verb']} -m {' '.join(other['overrides'])}"
            raise UserError(f"sweep.folder={self.path} is that of another sweep ({said}); name another folder")

    def keep(self, outcome: Outcome) -> None:
        """Remember how a job ended."""
        with atomic_file(self._file(outcome.number)) as path:
            path.write_text(json.dumps(asdict(outcome), indent=1) + "\n", encoding="utf-8")

    def forget(self, number: int) -> None:
        """A job that begins anew has not ended."""
        self._file(number).unlink(missing_ok=True)

    def outcome(self, job: Job) -> Outcome | None:
        """How a job ended, if it did."""
        path = self._file(job.number)
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["overrides"] = tuple(found["overrides"])
        return Outcome(**found) if found["overrides"] == job.overrides else None

    def outcomes(self) -> list[Outcome]:
        """Of all jobs that ended, those of earlier calls too."""
        found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.jobs.glob("*.json"))]
        return [Outcome(**{**one, "overrides": tuple(one["overrides"])}) for one in found]

    def log(self, number: int) -> Path:
        """What a job in a process of its own printed."""
        return self.jobs / f"{number:05}.log"

    def _file(self, number: int) -> Path:
        return self.jobs / f"{number:05}.json"


def sweep_folder(named: str | None, name: str, verb: str, command: Sequence[str]) -> SweepFolder:
    """The folder that is named, or one under a digest of the command."""
    digest = text_digest(verb, *command)[:8]
    return SweepFolder(Path(named) if named else PLACE / f"{name}-{digest}", verb, tuple(command))
