"""The stages of a recipe: each is the config again, with overrides of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrieval_kd.pipeline.artifacts import Step
from retrieval_kd.pipeline.compose import compose

if TYPE_CHECKING:
    from retrieval_kd.pipeline.plan import Plan


def last_training(plan: Plan) -> Step | None:
    """The training of the last stage, each stage going on from the one before; None for a recipe without stages."""
    from retrieval_kd.pipeline.plan import Plan

    said = list(plan.values["overrides"])
    step: Step | None = None
    for overrides in plan.values["recipe"]["stages"].values():
        stage = plan.cfg if not overrides else compose(merged(overrides, said))
        step = Plan(stage, before=step).training()
    return step


def merged(stage: list[str], said: list[str]) -> list[str]:
    """A stage's overrides before those of the command line, which win: what both name, only the latter say."""
    keys = {_key(override) for override in said}
    return [override for override in stage if _key(override) not in keys] + said


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")
