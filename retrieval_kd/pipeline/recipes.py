"""The stages of a recipe: each is the config again, with overrides of its own; rounds are stages too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose_stage

if TYPE_CHECKING:
    from retrieval_kd.pipeline.plan import Plan


def named_overrides(recipe: Mapping[str, Any]) -> dict[str, list[str]]:
    """The overrides of each stage by its name; a round's own come after those that it has in common with others."""
    said: dict[str, list[str]] = recipe["stages"]
    rounds = recipe.get("rounds")
    if rounds is None:
        return said
    names = [f"round_{number}" for number in range(1, rounds + 1)]
    unknown = [name for name in said if name not in names]
    if unknown:
        raise UserError(f"recipe.stages.{unknown[0]}: recipe.rounds={rounds} has {', '.join(names)}")
    common = {name: recipe["later"] if number else recipe["first"] for number, name in enumerate(names)}
    return {name: [*common[name], *said.get(name, ())] for name in names}


def stages(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """The recipe's stages as plans by name, each going on from the training of the one before.

    What is asked of a stage before the next one is taken happens before its training is planned.
    """
    from retrieval_kd.pipeline.plan import Plan

    said = list(plan.values["overrides"])
    before = first = None
    for name, overrides in named_overrides(plan.values["recipe"]).items():
        if overrides:
            stage = Plan(_checked(compose_stage(overrides, said)), before, first)
        else:  # the plan itself may have read its collections already
            stage = plan if first is None else Plan(plan.cfg, before, first)
        first = first or stage
        yield name, stage
        before = stage.training()


def _checked(stage: DictConfig) -> DictConfig:
    check(stage)
    return stage
