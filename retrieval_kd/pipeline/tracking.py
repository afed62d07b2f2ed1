"""A job's run in a tracker, around everything that the job makes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval_kd.data.files import text_digest
from retrieval_kd.pipeline.build import build

if TYPE_CHECKING:
    from retrieval_kd.pipeline.plan import Plan

LONGEST_NAME = 100  # characters; trackers refuse long ones
OWN = {"options", "overrides"}  # what a configuration says of itself
UNSAID = ("experiment=", "logger", "output_dir=", "store=")  # overrides that a name leaves out


@contextmanager
def tracked(plan: Plan, folder: Path, key: str) -> Iterator[None]:
    """Open a run where the logger is one that tracks jobs; it ends with the block, and gets what lies in ``folder``."""
    values = plan.values
    if not values["logger"].get("tracks") or os.environ.get("LOCAL_RANK", "0") != "0":
        yield
        return
    from retrieval_kd.callbacks.wandb_tracker import FAILED, About

    identity = text_digest(key, str(folder.absolute()))[:16]
    config = {name: value for name, value in values.items() if name not in OWN}
    about = About(run_name(values), identity, tags(values), config)
    tracker = build(plan.cfg.logger)(about=about)
    code = FAILED
    try:
        yield
        tracker.record(figures(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))))
        code = 0
    finally:
        tracker.close(code)


def run_name(values: Mapping[str, Any]) -> str:
    """The experiment and what the command said."""
    said = [one for one in values["overrides"] if not one.startswith(UNSAID)]
    name = " ".join([values["name"], *said])
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def tags(values: Mapping[str, Any]) -> list[str]:
    """Words that runs are found by."""
    chosen = values["options"]
    said = (values["name"], chosen.get("student"), chosen.get("teacher"))
    return list(dict.fromkeys(str(word) for word in said if word))


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """A run's measures and costs; those of the first collection under names that are the same for every one."""
    collections = metrics["collections"]
    first: Mapping[str, Any] = next(iter(collections.values()), {"measures": {}})
    found = {f"evaluation/{measure}": value for measure, value in first["measures"].items()}
    found |= {
        f"evaluation/{label}/{measure}": value
        for label, one in collections.items()
        for measure, value in one["measures"].items()
    }
    cost = {f"cost/{name}": value for name, value in metrics["cost"].items() if isinstance(value, int | float)}
    return found | cost
