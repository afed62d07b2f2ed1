"""Tell what teachers are worth before anything is learned from them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_kd.callbacks.agreement import agreement
from retrieval_kd.callbacks.teacher_report import DEPTH, TeacherReport, reranking_ndcg, teacher_report
from retrieval_kd.contracts import Side, Signal
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.pipeline.steps.lists import CANDIDATES, read_lists
from retrieval_kd.pipeline.steps.pairing import PAIR_REPORT, read_report, report_fields
from retrieval_kd.pipeline.steps.scoring import REPORT, signalled

if TYPE_CHECKING:
    from retrieval_kd.pipeline.asked import Asked
    from retrieval_kd.pipeline.plan import Plan
    from retrieval_kd.students.student import Student

log = logging.getLogger(__name__)

REPORTED_QUERIES = 50  # of which the untrained student's order is compared with the teacher's


def report_teachers(folder: Path, plan: Plan, student: Student) -> dict[str, Any]:
    """Write what every teacher of a training is worth, that of the training at the top; the figures that sum it up."""
    lists = _Lists(plan, student)
    content: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for one in plan.teachers:
        fields = _of_teacher(one, plan, lists)
        told = {"teacher_ndcg": fields["teacher_ndcg"], "start_ndcg": fields["start_ndcg"]}
        told |= {"learned_from": fields["learned_from"]} if "learned_from" in fields else {}
        if one.term is None:
            content, found = fields, told
        else:
            content.setdefault("teachers", {})[one.key] = fields
            found.setdefault("teachers", {})[one.key] = told
    (folder / REPORT).write_text(json.dumps(content, indent=1))
    return found


class _Lists:
    """The lists by which teachers are told about, and how the student as it starts orders some of them."""

    def __init__(self, plan: Plan, student: Student) -> None:
        self.entry, self.student = plan.reported_entry, student
        self.candidates, self.passages = read_lists(plan.candidates.listed(self.entry).make(), self.entry.collection)
        self.few = slice(0, int(self.candidates.offsets[: REPORTED_QUERIES + 1][-1]))

    def scores(self, one: Asked) -> np.ndarray:
        """What a teacher says of all candidates [n]."""
        return signalled(one.steps.scored(self.entry).make(), self.candidates, one.steps.teacher(self.entry)).scores

    def ndcg(self, scores: np.ndarray) -> float | None:
        """Of an order of the few [m]; None where none of them is judged."""
        lists, few = self.candidates, self.few
        found = reranking_ndcg(scores, lists.role[few], lists.offsets[: REPORTED_QUERIES + 1], lists.relevance[few])
        return None if np.isnan(found) else found

    @cached_property
    def start(self) -> float | None:
        """The nDCG of the student as it starts."""
        candidates, texts, rows = self.candidates, self.passages, self.few
        queries = [self.entry.collection.queries[query_id] for query_id in candidates.row_query_ids()[rows]]
        passages = texts.texts(texts.rows(candidates.passage_ids[rows]))
        asked = {Side.QUERY: sorted(set(queries)), Side.PASSAGE: sorted(set(passages))}
        encoded = {side: self.student.encode_texts(texts, side) for side, texts in asked.items()}
        scores = self.student.compare(encoded[Side.QUERY], encoded[Side.PASSAGE]).numpy()
        place = {side: {text: number for number, text in enumerate(texts)} for side, texts in asked.items()}
        left = [place[Side.QUERY][query] for query in queries]
        return self.ndcg(scores[left, [place[Side.PASSAGE][passage] for passage in passages]])


def _of_teacher(one: Asked, plan: Plan, lists: _Lists) -> dict[str, Any]:
    """The fields of one teacher's report, logged too."""
    entry, scores, temperatures = lists.entry, lists.scores(one), _temperatures(one, plan)
    temperature = (temperatures or [1.0])[0]
    report = _reported(scores, lists.candidates, temperature)
    if one.term is None and plan.parts.labels_by_teacher and entry.label in {one.label for one in plan.train_entries}:
        labelled = Candidates.read(plan.candidates.learned(entry).make() / CANDIDATES)
        said = signalled(plan.candidates.told(entry).make(), labelled, one.steps.teacher(entry)).scores
        # Labels leave nothing to be right about.
        report = _reported(said, labelled, temperature).with_worth_of(report)
    for line in report.lines():
        log.info(line.replace("teacher", one.key, 1))
    taught = lists.ndcg(scores[lists.few]) if entry.judged else None
    start = None if taught is None else lists.start
    if taught is not None:
        queries = min(REPORTED_QUERIES, len(lists.candidates.query_ids))
        told = (one.key, queries, entry.label, DEPTH, taught, start)
        log.info("%s: on %d lists of %s nDCG@%d %.3f, the student as it starts %.3f", *told)
    warnings = replace(report, ndcg=float("nan") if taught is None else taught).warnings(start, bool(temperatures))
    warnings = [line.replace("the teacher", one.key, 1) if one.term else line for line in warnings]
    for line in warnings:
        log.warning(line)
    content = {**vars_of(report), "start_ndcg": start, "teacher_ndcg": taught, "warnings": warnings}
    learned = {base.key: _beside(one, scores, base, lists) for base in one.bases}
    return content | ({"learned_from": learned} if learned else {})


def _reported(scores: np.ndarray, candidates: Candidates, temperature: float) -> TeacherReport:
    return teacher_report(scores, candidates.role, candidates.offsets, temperature, relevance=candidates.relevance)


def _beside(one: Asked, scores: np.ndarray, base: Asked, lists: _Lists) -> dict[str, Any]:
    """A teacher that was trained here beside the one that it learned from, on all lists."""
    candidates, said = lists.candidates, lists.scores(base)
    ndcg = [
        reranking_ndcg(found, candidates.role, candidates.offsets, candidates.relevance) for found in (scores, said)
    ]
    alike = agreement(scores, said, candidates.offsets)
    judged = f", nDCG@{DEPTH} {ndcg[0]:.3f} and {ndcg[1]:.3f}" if lists.entry.judged else ""
    log.info(
        "%s beside %s, which it learned from: Kendall's tau %.2f, the same passage on top of %.0f%% of %d lists%s",
        one.key,
        base.key,
        alike.kendall_tau,
        100 * alike.same_top,
        alike.lists,
        judged,
    )
    return vars_of(alike) | _nulled({"ndcg": ndcg[0], "its_ndcg": ndcg[1]})


def _temperatures(one: Asked, plan: Plan) -> list[float]:
    """By what the terms of this teacher's scores divide them; others divide other things."""
    own = plan.parts.own_teachers
    terms = {one.term} if one.term else set(plan.values["objective"]) - set(own)
    nodes = [node for name, node in plan.values["objective"].items() if name in terms]
    of_scores = [node for node in nodes if Signal.SCORE in node.get("needs", ())]
    return [float(node["teacher_temperature"]) for node in of_scores if "teacher_temperature" in node]


def report_pairs(folder: Path, plan: Plan) -> dict[str, Any]:
    """Tell what the judge of pairs is worth, by pairs whose answer is known."""
    entry = plan.reported_entry
    report = read_report(plan.pairing.reported(entry).make())
    fields = report_fields(report)
    (folder / PAIR_REPORT).write_text(json.dumps(fields, indent=1))
    for line in report.lines():
        log.info("%s: %s", entry.label, line)
    for line in report.warnings():
        log.warning(line)
    return {"judge_accuracy": fields["accuracy"], "base_accuracy": fields["base_accuracy"]}


def vars_of(report: Any) -> dict[str, Any]:
    """A report's fields, numbers that are not a number as null."""
    return _nulled(vars(report))


def _nulled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and value != value else value for name, value in values.items()}
