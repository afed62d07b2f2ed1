"""Steps and their artifacts: a folder under a digest of what decides its content, complete or absent."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from retrieval_kd.data.files import atomic_folder, text_digest
from retrieval_kd.pipeline.environment import environment

log = logging.getLogger(__name__)

RECORD = "step.json"


@dataclass(frozen=True)
class Step:
    """One arrow of the flow: what it is named by, what it reads, and how its folder is written."""

    name: str
    version: int  # raised when the same inputs would give another artifact
    config: Mapping[str, Any]  # the values of the config keys that the step declares
    inputs: Sequence[Step | str]  # other steps, or digests of what lies outside the store
    store: Path
    write: Callable[[Path], Mapping[str, Any]]  # fills a folder; what it returns is kept in the record
    about: str = ""

    @cached_property
    def key(self) -> str:
        """Digest of name, version, configuration and inputs."""
        inputs = [step if isinstance(step, str) else step.key for step in self.inputs]
        return text_digest(self.name, str(self.version), json.dumps(self.config, sort_keys=True), *inputs)

    @property
    def path(self) -> Path:
        """Where the artifact lies, or will."""
        return self.store / self.name / self.key

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.path.exists()

    def make(self) -> Path:
        """The artifact's folder; written now if it is not there yet."""
        if self.done:
            return self.path
        for step in self.inputs:
            if isinstance(step, Step):
                step.make()  # before the clock runs: each step's seconds are its own
        log.info("%s%s", self.name, f": {self.about}" if self.about else "")
        started = time.perf_counter()
        with atomic_folder(self.path) as folder:
            found = dict(self.write(folder))
            seconds = round(time.perf_counter() - started, 3)
            record = {"seconds": seconds, "config": self.config, **found, "environment": environment()}
            (folder / RECORD).write_text(json.dumps(record, indent=1))
        log.info("%s: %.1f s", self.name, record["seconds"])
        return self.path

    def record(self) -> dict[str, Any]:
        """What the step wrote down about its making."""
        record: dict[str, Any] = json.loads((self.make() / RECORD).read_text())
        return record

    def walk(self) -> list[Step]:
        """This step behind all steps that it needs, each once, in an order that works."""
        seen: dict[str, Step] = {}
        self._gather(seen)
        return list(seen.values())

    def _gather(self, seen: dict[str, Step]) -> None:
        """Each step once, however many paths lead to it: a round reads the one before by several."""
        if self.key in seen:
            return
        for step in self.inputs:
            if isinstance(step, Step):
                step._gather(seen)
        seen[self.key] = self
