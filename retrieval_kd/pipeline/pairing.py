"""The steps of a plan about pairs: the training of a judge, and what it says of training and of held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.estimates import compares_scores
from retrieval_kd.pipeline.keys import deciding
from retrieval_kd.pipeline.needs import LABELS, SCORES

if TYPE_CHECKING:
    from retrieval_kd.contracts import PairTeacher
    from retrieval_kd.pipeline.artifacts import Step
    from retrieval_kd.pipeline.entries import Entry
    from retrieval_kd.pipeline.plan import Plan


@dataclass(frozen=True)
class Pairing:
    """What a plan adds for a teacher of preferences; the steps about scores do not depend on any of it."""

    plan: Plan

    def of_training(self, entries: Sequence[Entry], reported: Entry) -> list[Step]:
        """What a training needs: pairs of its collections, and held-out ones that show what the judge is worth."""
        if not self.plan.parts.needs_preferences:
            return []
        return [*map(self.paired, entries), *([self.judged(reported)] if self._knows_answers(reported) else [])]

    def reported(self, entry: Entry) -> Step:
        """What shows the judge's worth: pairs of known answer, or else those that are learned from."""
        return self.judged(entry) if self._knows_answers(entry) else self.paired(self.plan.train_entries[0])

    def _knows_answers(self, entry: Entry) -> bool:
        return entry.judged and not self._brings_pairs

    @property
    def _brings_pairs(self) -> bool:
        """Whether the judge is a file of pairs: then none are drawn, and no order is asked for."""
        return self.plan.parts.judge.get("holds") == "pairs"

    def taught(self) -> Step | None:
        """The training of the judge."""
        plan, judge, lists = self.plan, self.plan.parts.judge, self.plan.candidates.at_start
        if not judge.get("train"):
            return None
        entries = self._entries_with(judge["train"]["labels"])
        mined = [lists.mined(entry) for entry in entries]  # nobody knows what made passages are worth
        scored = [lists.scored_as_found(entry) for entry in entries] if judge["train"]["labels"] == SCORES else []
        trainer = {name: plan.values["trainer"][name] for name in ("precision", "clip")}

        def write(folder: Path) -> Mapping[str, Any]:
            from retrieval_kd.pipeline.steps.teaching import teach_judge  # here: planning does without torch

            return teach_judge(folder, plan, entries, [one.make() for one in mined], [one.make() for one in scored])

        config = {"judge": deciding("judge", judge), "trainer": trainer}
        return plan._step("teach", config, [*mined, *scored, *self._files()], write, "judge of pairs")

    def _entries_with(self, labels: str) -> list[Entry]:
        """Training collections that have such labels; told before anything is mined where none has."""
        if labels not in LABELS:
            raise UserError(f"teacher.judge.train.labels is {' or '.join(LABELS)}, got {labels}")
        every = self.plan.train_entries
        found = [entry for entry in every if labels == SCORES or entry.judged]
        if not found:
            raise UserError(
                f"teacher.judge.train.labels={labels}: {every[0].label} has none; labels={SCORES} learns from the base"
            )
        return found

    def trainings(self) -> list[Step]:
        """The trainings of the teacher: of members of the score teacher, and of the judge."""
        judge = self.taught() if "judge" in self.plan.values["teacher"] else None
        return [step for step in (self.plan.candidates.taught(), judge) if step is not None]

    def paired(self, entry: Entry) -> Step:
        """Judged pairs of a split's candidates, as the sampler draws them."""
        return self._pair(entry, {"pairs": deciding("pairs", self.plan.values["pairs"])}, entry.label)

    def judged(self, entry: Entry) -> Step:
        """Judged pairs of a held-out split whose answer is known: what the judge is worth.

        Always in both orders: the passage of the higher score is read first, so that who only prefers what stands
        first would seem to know as much as the scores.
        """
        return self._pair(entry, {"pairs": "judged"}, f"judged pairs of {entry.label}")

    def _pair(self, entry: Entry, config: Mapping[str, Any], about: str) -> Step:
        plan, held_out = self.plan, config["pairs"] == "judged"
        orders = "both" if held_out else plan.values["teacher"]["orders"]
        mined, scored, taught = plan.candidates.listed(entry), plan.candidates.scored(entry), self.taught()

        def write(folder: Path) -> Mapping[str, Any]:
            from retrieval_kd.pipeline.steps import pairing

            draw = pairing.judged_pairs if held_out else pairing.drawn_by(plan.parts.pairs)
            found = [mined.make(), scored.make()]
            return pairing.pair(folder, entry.collection, found, self.teacher(entry, orders), draw, plan.store)

        declared = {"judge": deciding("judge", plan.parts.judge)}
        if not self._brings_pairs:
            declared |= config
        if not (self._brings_pairs or compares_scores(plan.parts.judge)):
            declared["orders"] = orders
        inputs: list[Step | str] = [mined, scored, *([taught] if taught else []), *self._files()]
        return plan._step("pair", declared, inputs, write, about)

    def teacher(self, entry: Entry, orders: str) -> PairTeacher:
        """The judge on top of the score teacher of a split, asked in these orders."""
        taught, base = self.taught(), self.plan.candidates.teacher(entry)
        collection = entry.collection
        offers = {"queries": lambda: collection.queries, "passages": lambda: collection.passages}
        return self.plan.parts.pair_teacher(base, offers, taught.make() if taught else None, orders)

    def _files(self) -> list[str]:
        return self.plan._files("judge")
