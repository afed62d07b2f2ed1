"""What each round of a recipe brought: its student is evaluated like the last, and tested against the one before."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retrieval_kd.evaluation.significance import Comparison, corrected, paired

if TYPE_CHECKING:
    from retrieval_kd.pipeline.artifacts import Step
    from retrieval_kd.pipeline.plan import Plan

log = logging.getLogger(__name__)

LIKELY = 0.05  # a corrected p below which a difference is not called chance


@dataclass(frozen=True)
class Round:
    """One round's name, its training, and the results of the student that it left."""

    name: str
    training: Step
    results: Sequence[Step]  # aligned with what is evaluated


def rounds(plan: Plan) -> list[Round]:
    """All rounds, the results of the last being the plan's own; empty where there is but one, or nothing is trained."""
    searched = plan.values["engine"]["holds"] == "representations"
    if "rounds" not in plan.values["recipe"] or len(plan.trainings) < 2 or not searched:
        return []
    return [Round(name, step, plan.with_student(step).results()) for name, step in plan.trainings.items()]


def with_rounds(plan: Plan, results: Sequence[Step]) -> list[Step]:
    """A plan's results behind those of its rounds, each once, in the order in which they can be made."""
    every = [step for one in rounds(plan) for step in one.results]
    return list({step.key: step for step in (*every, *results)}.values())


def laid_out(plan: Plan) -> list[dict[str, Any]]:
    """Each round for metrics.json: its measures, and what a paired test says of it beside the round before."""
    found: list[dict[str, Any]] = []
    before, every = None, rounds(plan)
    tested = _tested(plan, every) if every else {}
    for one in every:
        collections = {}
        for entry, step in zip(plan.entries.evaluate, one.results, strict=True):
            if entry.measured:
                collections[entry.label] = json.loads((step.make() / "metrics.json").read_text())
        told: dict[str, Any] = {"name": one.name, "train_seconds": one.training.record()["train_seconds"]}
        told["collections"] = collections
        if before is not None:
            told["against"] = {"round": before, "cells": tested.get(one.name, {})}
        found.append(told)
        before = one.name
    return found


def tell(found: Sequence[Mapping[str, Any]]) -> None:
    """One line for each comparison of a round with the one before."""
    for one in found:
        for cell, test in one.get("against", {}).get("cells", {}).items():
            low, high = test["interval"]
            figures = f"{cell} {test['difference']:+.4f} [{low:+.4f}, {high:+.4f}], p {test['p']:.3f}"
            beside = f"beside {one['against']['round']}"
            if test["p"] >= LIKELY:
                log.warning("%s brings nothing that chance would not %s: %s", one["name"], beside, figures)
            elif test["difference"] < 0:
                log.warning("%s is worse %s: %s", one["name"], beside, figures)
            else:
                log.info("%s is better %s: %s", one["name"], beside, figures)


def _tested(plan: Plan, every: Sequence[Round]) -> dict[str, dict[str, Any]]:
    """By round and cell: the first measure against the round before, p-values corrected over a collection's rounds."""
    measure = plan.values["evaluation"]["measures"][0]
    found: dict[str, dict[str, Any]] = {}
    for place, entry in enumerate(plan.entries.evaluate):
        if not entry.measured:
            continue
        values = [_values(one.results[place], measure) for one in every]
        if len(values[0]) < 2:
            log.warning("%s: %d queries are too few to test a round against another", entry.label, len(values[0]))
            continue
        pairs = zip(values[1:], values[:-1], every[1:], every[:-1], strict=True)
        for one in corrected([paired(new, old, (new_round.name, was.name)) for new, old, new_round, was in pairs]):
            found.setdefault(one.name, {})[f"{entry.label} {measure}"] = _fields(one)
    return found


def _values(evaluated: Step, measure: str) -> dict[str, float]:
    """One measure by query."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = evaluated.make() / "per_query.parquet"
    table = pq.read_table(path, columns=["query_id", "value"], filters=pc.field("measure") == measure)
    return dict(zip(table["query_id"].to_pylist(), table["value"].to_pylist(), strict=True))


def _fields(one: Comparison) -> dict[str, Any]:
    low, high = one.interval
    return {
        "difference": round(one.difference, 6),
        "interval": [round(low, 6), round(high, 6)],
        "p": one.p_corrected,
        "wins": one.wins,
        "losses": one.losses,
    }
