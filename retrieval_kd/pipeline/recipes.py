"""The stages of a recipe: each is the config again, with overrides of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from retrieval_kd.pipeline.artifacts import Step
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose_stage

if TYPE_CHECKING:
    from retrieval_kd.pipeline.plan import Plan


def last_training(plan: Plan) -> Step | None:
    """The training of the last stage, each stage going on from the one before; None for a recipe without stages."""
    from retrieval_kd.pipeline.plan import Plan

    said = list(plan.values["overrides"])
    step: Step | None = None
    for overrides in plan.values["recipe"]["stages"].values():
        stage = plan.cfg if not overrides else _checked(compose_stage(overrides, said))
        step = Plan(stage, before=step).training()
    return step


def _checked(stage: DictConfig) -> DictConfig:
    check(stage)
    return stage
