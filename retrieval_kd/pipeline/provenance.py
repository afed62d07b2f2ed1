"""What options say they are after: a paper, released code, or a reconstruction of what could not be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval_kd.pipeline.plan import Plan

NOTE = "provenance"  # where an option's file says it
NOTED = ("objective", "student", "teacher", "negatives", "labels", "filter", "pacing", "regularizer")
RECONSTRUCTION = "reconstruction"  # how such a note begins


def notes(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The key of each part of a training that says what it is after, nested ones too, and what it says."""
    for group in NOTED:
        yield from _notes(group, values.get(group))


def _notes(path: str, node: Any) -> Iterator[tuple[str, str]]:
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if key == NOTE:
            yield path, str(value)
        else:
            yield from _notes(f"{path}.{key}", value)


def reconstructions(plan: Plan) -> dict[str, str]:
    """The parts of a plan's trainings that are reconstructions, by their keys; terms without a weight teach nothing."""
    from retrieval_kd.pipeline.recipes import stages

    found: dict[str, str] = {}
    for _, stage in stages(plan) if plan.trained is not None and not plan.values["model"] else ():
        unweighted = [f"objective.{name}" for name, term in stage.values["objective"].items() if not term["weight"]]
        for path, note in notes(stage.values):
            if note.startswith(RECONSTRUCTION) and path not in unweighted:
                found[path] = note
    return found
