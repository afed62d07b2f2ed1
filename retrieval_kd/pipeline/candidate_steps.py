"""The steps of a plan about candidates: the run they are taken from, the lists, and what the teacher says of them.

A later step takes its place by what reads it: ``listed`` is what the teacher is asked about, ``learned`` what trainings
read, ``mined`` what was found before anything was made or labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import file_digest
from retrieval_kd.pipeline.compose import changed
from retrieval_kd.pipeline.keys import deciding
from retrieval_kd.pipeline.needs import SCORES

if TYPE_CHECKING:
    from retrieval_kd.contracts import ScoreTeacher
    from retrieval_kd.pipeline.artifacts import Step
    from retrieval_kd.pipeline.entries import Entry
    from retrieval_kd.pipeline.plan import Plan

STUDENT = "student"  # as a source of negatives: the student that a stage goes on from


@dataclass(frozen=True)
class CandidateSteps:
    """What a plan does before a training: find passages, list them, have them scored."""

    plan: Plan
    lists: CandidateSteps | None = None  # whose lists these are, where the plan is about another teacher of them

    def by(self, teacher: Mapping[str, Any]) -> CandidateSteps:
        """The same lists with another teacher, given by its node."""
        from retrieval_kd.pipeline.plan import Plan

        plan = self.plan
        other = Plan(changed(plan.cfg, {}, teacher=OmegaConf.create(dict(teacher))), plan.before, plan.first)
        asked = CandidateSteps(other, self)
        vars(other).update(entries=plan.entries, candidates=asked)  # what was read is not read again
        return asked

    # ---- lists

    @cached_property
    def at_start(self) -> CandidateSteps:
        """The steps over the lists of the first round: teachers are trained on them once, whichever round asks."""
        from retrieval_kd.pipeline.plan import Plan

        first = self.plan.first
        if first is None or self._source != STUDENT:
            return self
        return Plan(changed(self.plan.cfg, {}, negatives=first.cfg.negatives)).candidates

    def source_run(self, entry: Entry) -> Step:
        """The run that candidates are taken from."""
        from retrieval_kd.pipeline.steps.mining import copy_run

        plan, source = self.plan, self._source
        if source == "bm25":
            return plan.bm25_run(entry, self._depth)
        if Path(source).is_file():
            key: list[Step | str] = [entry.key, file_digest(Path(source))]
            return plan._step("search", {}, key, lambda folder: copy_run(folder, Path(source)), source)
        return self._asked.student_run(entry)

    @cached_property
    def _asked(self) -> Plan:
        """The search by a student: the one that this stage goes on from, or one that is named."""
        from retrieval_kd.pipeline.plan import Plan

        plan, depth = self.plan, {"evaluation.depth": self._depth}
        if self._source == STUDENT:
            return Plan(changed(plan.cfg, depth, engine="exact", recipe="no_training"), student=plan.before)
        return Plan(changed(plan.cfg, depth | {"model": self._source}, engine="exact"))

    @property
    def _source(self) -> str:
        return str(self.plan.values["negatives"]["source"])

    @property
    def _depth(self) -> int:
        return int(self.plan.values["negatives"]["window"][1])

    @property
    def _round(self) -> int:
        """How often the recipe has trained the student that lists are mined with; 0 for any other source."""
        before = self.plan.before if self._source == STUDENT else None
        return 0 if before is None else sum(step.name == "train" for step in before.walk())

    def mined(self, entry: Entry) -> Step:
        """Candidates of a split, as they were found; held-out ones are those of the first round in every round."""
        from retrieval_kd.pipeline.steps.mining import mine

        if self.lists is not None:
            return self.lists.mined(entry)
        if self.at_start is not self and entry.label not in {one.label for one in self.plan.train_entries}:
            return self.at_start.mined(entry)
        plan, run, margin = self.plan, self.source_run(entry), self._has_margin

        def write(folder: Path) -> Mapping[str, Any]:
            found = run.make()
            if "_asked" in vars(self):
                self._asked.parts.forget()  # the student has answered, and leaves memory
            margins = self._margin_scores(entry)
            return mine(folder, entry.collection, found, plan.parts.negatives, margins, self._round)

        return plan._step(
            "mine",
            plan._declared("negatives", *(["teacher"] if margin else [])),
            [entry.key, run, *(self.teacher_inputs(entry) if margin else [])],
            write,
            f"{entry.label}, round {self._round}" if self._round else entry.label,
        )

    def listed(self, entry: Entry) -> Step:
        """Candidates as the teacher is asked about them, and as they are learned from."""
        if self.lists is not None:
            return self.lists.listed(entry)
        return self.darkened(entry) if self.makes_passages else self.mined(entry)

    @property
    def makes_passages(self) -> bool:
        """Whether lists get passages that are made."""
        return self.plan.values["negatives"].get("makes") == "dark"

    def darkened(self, entry: Entry) -> Step:
        """Candidates of a split, and passages made of them."""
        from retrieval_kd.pipeline.steps.darkening import dark_scores, darken

        plan, mined = self.plan, self.mined(entry)
        if not self.makes_passages:
            option = plan.values["options"]["negatives"]
            raise UserError(f"negatives={option} makes no passages; negatives=dark would")
        made = plan.values["negatives"]["made"]
        tokenizer, inputs = plan.tokenizer

        def write(folder: Path) -> Mapping[str, Any]:
            score = dark_scores(lambda: self.teacher(entry), entry, plan.store) if made["band"] else None
            return darken(folder, entry, mined.make(), plan.parts.made(tokenizer), score)

        return plan._step(
            "darken",
            {
                "made": deciding("made", made),
                "tokenizer": tokenizer,
                **(plan._declared("teacher") if made["band"] else {}),
            },
            [mined, *inputs, *(self.teacher_inputs(entry) if made["band"] else [])],
            write,
            entry.label,
        )

    def labelled(self, entry: Entry) -> Step:
        """Candidates with labels by the teacher's scores, and the scores of those that were kept."""
        from retrieval_kd.pipeline.steps.labelling import label

        plan, listed, scored = self.plan, self.listed(entry), self.scored(entry)
        if not plan.parts.labels_by_teacher:
            raise UserError(f"labels={plan.values['options']['labels']} makes no labels; labels=thresholds would")
        return plan._step(
            "label",
            plan._declared("labels") | {"kinds": plan.parts.score_kinds},
            [listed, scored],
            lambda folder: label(
                folder,
                entry.label,
                [listed.make(), scored.make()],
                plan.parts.labels,
                lambda: self.teacher(entry),
            ),
            entry.label,
        )

    def learned(self, entry: Entry) -> Step:
        """Candidates as a training reads them."""
        return self.labelled(entry) if self.plan.parts.labels_by_teacher else self.listed(entry)

    def told(self, entry: Entry) -> Step:
        """The members' scores of these."""
        return self.labelled(entry) if self.plan.parts.labels_by_teacher else self.scored(entry)

    # ---- the teacher

    def taught(self) -> Step | None:
        """The training of the teacher's members that are trained here."""
        from retrieval_kd.pipeline.plan import Plan

        plan, members = self.plan, self.plan.parts.to_teach
        if not members:
            return None
        judged = [entry for entry in plan.train_entries if entry.judged]
        if not judged and len(plan.parts.learned_from) < len(members):
            bare = plan.train_entries[0].label
            raise UserError(
                f"teacher: a cross-encoder is trained on judgements, and {bare} has none; train.labels={SCORES}"
                " learns from another teacher"
            )
        finder = self.at_start
        if finder._has_margin:  # which needs scores: who gives them learns without one
            finder = Plan(changed(finder.plan.cfg, {"negatives.margin": None})).candidates
        mined = [finder.mined(entry) for entry in (plan.train_entries if plan.parts.learned_from else judged)]
        scored = [base.scored_as_found(entry) for base in finder.bases.values() for entry in plan.train_entries]
        trainer = {name: plan.values["trainer"][name] for name in ("precision", "clip")}

        def write(folder: Path) -> Mapping[str, Any]:
            from retrieval_kd.pipeline.steps.teaching import teach  # here: planning does without torch

            return teach(folder, plan, finder)

        return plan._step(
            "teach",
            plan._declared("teacher") | {"trainer": trainer},
            [*mined, *scored, *plan._files("teacher")],
            write,
            ", ".join(members),
        )

    @cached_property
    def bases(self) -> dict[str, CandidateSteps]:
        """The same lists with the teachers on whose scores members are trained here, by the members' names."""
        return {name: self.by(node) for name, node in self.plan.parts.learned_from.items()}

    def scored(self, entry: Entry) -> Step:
        """The members' scores of a split's candidates."""
        return self._scored(entry, self.listed(entry))

    def scored_as_found(self, entry: Entry) -> Step:
        """The members' scores of candidates as they were found: what is made may depend on who learns of these."""
        return self._scored(entry, self.mined(entry))

    def _scored(self, entry: Entry, listed: Step) -> Step:
        from retrieval_kd.pipeline.steps.scoring import score

        plan = self.plan
        return plan._step(
            "score",
            plan._declared("teacher"),
            [listed, *self.teacher_inputs(entry)],
            lambda folder: score(folder, entry.collection, listed.make(), self.teacher(entry), plan.store),
            f"{entry.label} by {', '.join(plan.parts.scorers)}",
        )

    def teacher_inputs(self, entry: Entry) -> list[Step | str]:
        """What decides the teacher's scores of a collection, apart from its config."""
        plan, taught = self.plan, self.taught()
        index = [plan.index(entry)] if plan.parts.teacher_reads("index") else []
        return [*index, *([taught] if taught else []), *plan._files("teacher")]

    def teacher(self, entry: Entry) -> ScoreTeacher:
        """The teacher, its lexical members over the passages of ``entry``."""
        from retrieval_kd.engines.bm25 import BM25

        plan, taught = self.plan, self.taught()
        offers = {
            "index": lambda: BM25(plan.index(entry).make() / "index"),
            "queries": lambda: entry.collection.queries,
            "passages": lambda: entry.collection.passages,
        }
        return plan.parts.teacher(offers, taught.make() if taught else None)

    @property
    def _has_margin(self) -> bool:
        return self.plan.values["negatives"].get("margin") is not None

    def _margin_scores(self, entry: Entry) -> Callable[..., Any] | None:
        if not self._has_margin:
            return None
        from retrieval_kd.pipeline.steps.mining import teacher_scores

        return teacher_scores(lambda: self.teacher(entry), entry, self.plan.store)
