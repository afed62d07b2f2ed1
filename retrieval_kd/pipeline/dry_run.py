"""What a table's rows would run: each step with its calls, GPU-hours, disk and memory, and what is missing here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.asked import scorers
from retrieval_kd.pipeline.beforehand import planned
from retrieval_kd.pipeline.compatibility import trains_student
from retrieval_kd.pipeline.entries import absent
from retrieval_kd.pipeline.estimates import Counts, in_words
from retrieval_kd.pipeline.known_models import is_here
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.rounds import with_rounds
from retrieval_kd.pipeline.step_costs import StepCost, model_of, step_costs
from retrieval_kd.pipeline.unread import without_reading

if TYPE_CHECKING:
    from retrieval_kd.pipeline.artifacts import Step

TERAFLOPS = 100.0  # a second, sustained: a third of an A100's peak in bf16
MODEL = "operations: 2 for each token and weight, 6 when training, texts as long as they may be"


@dataclass
class DryRun:
    """Adds rows up; a step that several rows share costs once."""

    teraflops: float = TERAFLOPS
    _seen: dict[str, str] = field(default_factory=dict)  # steps by key, and the row that they were told with
    _costs: list[tuple[str, StepCost]] = field(default_factory=list)
    _missing: dict[str, None] = field(default_factory=dict)

    def row(self, name: str, configs: Sequence[DictConfig]) -> Iterator[str]:
        """A line about the row, and one for each step that is to be done and no row before has told of."""
        steps: dict[str, Step] = {}
        costs: dict[str, StepCost] = {}
        for cfg in configs:
            plan, counts = self._planned(cfg)
            its_steps = {step.key: step for result in with_rounds(plan, planned(plan)) for step in result.walk()}
            by_key, alike = step_costs(plan, counts)
            costs |= {key: by_key.get(key, alike.get(step.name, StepCost())) for key, step in its_steps.items()}
            steps |= its_steps
        todo = [step for step in steps.values() if not step.done]
        yield f"{name}: " + (f"to do: {', '.join(step.name for step in todo)}" if todo else "done")
        for step in todo:
            if step.key not in self._seen:
                self._costs.append((step.name, costs[step.key]))
                if told := self._told(costs[step.key]):
                    yield f"    {step.name:8}  {step.about or '':44}  {told}"
            self._seen.setdefault(step.key, name)

    def together(self) -> Iterator[str]:
        """Sums over all rows, what stands behind them, and what this machine lacks."""
        if not self._costs:
            return
        judged = sum(cost.calls for name, cost in self._costs if name == "pair")
        total = StepCost(
            sum(cost.calls for _, cost in self._costs) - judged,
            sum(cost.operations for _, cost in self._costs),
            sum(cost.disk for _, cost in self._costs),
            max(cost.memory for _, cost in self._costs),
        )
        calls = f"{total.calls:,} teacher calls" + (f", {judged:,} of the judge" if judged else "")
        yield (
            f"together, steps that rows share once: {calls}, {self._hours(total.operations)},"
            f" disk {in_words(total.disk)}, memory up to {in_words(total.memory)}"
        )
        yield f"({MODEL}; {self.teraflops:g} teraflops sustained, teraflops=N says another rate)"
        if unknown := dict.fromkeys(one for _, cost in self._costs for one in cost.unknown):
            yield f"not counted, for nothing here says it: {', '.join(unknown)}"
        for one in self._missing:
            yield f"missing on this machine: {one}"

    def _planned(self, cfg: DictConfig) -> tuple[Plan, Counts]:
        """A plan with what it can know of its collections; what it cannot read is missing."""
        self._missing |= dict.fromkeys(_missing_files(cfg))
        try:
            lacking = absent(cfg)
            self._missing |= dict.fromkeys(_unfetched(lacking))
            read = not lacking
            plan = Plan(cfg if read else without_reading(cfg))
            every = (*plan.entries.train, *plan.entries.evaluate)
            _ = [entry.key for entry in every]
            if not read:
                self._missing |= {
                    f"{entry.name}, which is not parsed before a command needs it": None for entry in every
                }
        except UserError as error:
            self._missing[" ".join(str(error).split())] = None
            plan, read = Plan(without_reading(cfg)), False
        return plan, Counts(plan, read)

    def _told(self, cost: StepCost) -> str:
        parts = [
            f"{cost.calls:,} calls" if cost.calls else "",
            self._hours(cost.operations) if cost.operations else "",
            f"disk {in_words(cost.disk)}" if cost.disk else "",
            f"memory {in_words(cost.memory)}" if cost.memory else "",
            *(f"{one}: not known" for one in cost.unknown),
        ]
        return ", ".join(filter(None, parts))

    def _hours(self, operations: float) -> str:
        hours = operations / (self.teraflops * 1e12 * 3600)
        return f"{hours:,.1f} GPU-hours" if hours >= 0.1 else f"{3600 * hours:,.0f} GPU-seconds"


def _unfetched(sources: Sequence[Any]) -> Iterator[str]:
    """Collections that want files, and which."""
    for source in sources:
        files = [
            file.place + (f" ({in_words(file.size)})" if file.size else "")
            for file in (source.missing() if hasattr(source, "missing") else ())
        ]
        if files:
            yield f"the collection {source.name}: {', '.join(files)}"


def _missing_files(cfg: DictConfig) -> Iterator[str]:
    """Models that would have to be fetched, and files that are named and are not there."""
    plan = Plan(cfg)
    parts = plan.parts
    nodes = [(str(node.get("name", "a scorer")), node) for node in scorers(plan)] if _asks_teacher(plan) else []
    if "judge" in plan.values["teacher"] and parts.needs_preferences:
        nodes.append(("judge", parts.judge))
    asked: list[Mapping[str, Any] | None] = [model_of(node) for _, node in nodes]
    if plan.values["engine"]["holds"] == "representations":
        asked.append({"name": plan.values["model"]} if plan.values["model"] else plan.values["encoder"])
    for one in filter(None, asked):
        if not is_here(one["name"], one.get("path")):
            yield f"the model {one.get('path') or one['name']}"
    for name, node in nodes:
        if "path" in node and node["path"] and not Path(node["path"]).exists():
            yield f"the file {node['path']} of {name}"


def _asks_teacher(plan: Plan) -> bool:
    return plan.values["engine"]["holds"] == "scores" or (trains_student(plan.values) and plan.parts.needs_scores)
