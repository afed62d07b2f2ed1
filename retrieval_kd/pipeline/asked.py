"""Everybody whom a training asks: its own teacher, those of single terms, and those that trained ones learned from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval_kd.pipeline.artifacts import Step
    from retrieval_kd.pipeline.candidate_steps import CandidateSteps
    from retrieval_kd.pipeline.entries import Entry
    from retrieval_kd.pipeline.plan import Plan


@dataclass(frozen=True)
class Asked:
    """A teacher by the key of its node."""

    key: str
    steps: CandidateSteps  # the training's lists, and this teacher's scores of them
    term: str | None = None  # whose own it is

    @property
    def node(self) -> Mapping[str, Any]:
        """What its configuration says."""
        node: Mapping[str, Any] = self.steps.plan.values["teacher"]
        return node

    @property
    def learns_here(self) -> bool:
        """Whether a member is trained here."""
        return bool(self.steps.plan.parts.to_teach)

    @property
    def bases(self) -> list[Asked]:
        """Those on whose scores its members are trained here."""
        inner = f"{self.key}.base" if "base" in self.steps.plan.values["teacher"] else self.key
        several = "members" in self.steps.plan.parts.score_teacher
        return [
            Asked(f"{inner}.{f'members.{name}' if several else 'scorer'}.train.teacher", steps)
            for name, steps in self.steps.bases.items()
        ]


def asked(plan: Plan) -> list[Asked]:
    """The teachers that terms learn from, the training's first."""
    main = [Asked("teacher", plan.candidates)] if plan.parts.needs_scores else []
    own = plan.parts.own_teachers.items()
    return [*main, *(Asked(f"objective.{name}.teacher", plan.candidates.by(node), name) for name, node in own)]


def with_bases(teachers: Iterable[Asked]) -> Iterator[Asked]:
    """Each teacher, and behind it those that it learned from, and so on."""
    for one in teachers:
        yield one
        yield from with_bases(one.bases)


def scorers(plan: Plan) -> list[dict[str, Any]]:
    """The nodes of all scorers that may be asked; those of the plan's teacher are, whatever the terms say."""
    everybody = with_bases([Asked("teacher", plan.candidates), *(one for one in plan.teachers if one.term)])
    return [node for one in everybody for node in one.steps.plan.parts.scorers.values()]


def scored(plan: Plan, entries: Sequence[Entry], reported: Entry) -> list[Step]:
    """The scores that a training reads: those that are learned from, and those by which teachers are told about.

    A white box is asked beside the training where it looks, and scores the reported lists alone.
    """
    lists, steps = plan.candidates, []
    if plan.parts.needs_scores:
        told, report = [*map(lists.told, entries)], lists.scored(reported)
        steps = told if report.key in {one.key for one in told} else [*told, report]
    for one in with_bases(plan.teachers):
        learned = entries if one.term in plan.parts.own_scores else ()
        more = [one.steps.scored(entry) for entry in (*learned, reported)]
        steps += list({step.key: step for step in more if step.key not in {known.key for known in steps}}.values())
    return steps
