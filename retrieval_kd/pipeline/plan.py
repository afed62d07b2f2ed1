"""From a composed config to the steps that bring its result: what reads what, and which config keys decide it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.files import text_digest
from retrieval_kd.pipeline.artifacts import Step
from retrieval_kd.pipeline.asked import Asked, asked, scored, with_bases
from retrieval_kd.pipeline.candidate_steps import CandidateSteps
from retrieval_kd.pipeline.compose import plain
from retrieval_kd.pipeline.entries import Entries, Entry, entries, refuse_unjudged
from retrieval_kd.pipeline.environment import machine
from retrieval_kd.pipeline.keys import NO_RESULT as NO_RESULT
from retrieval_kd.pipeline.keys import VERSIONS, deciding, model_folder, named_files, path_key
from retrieval_kd.pipeline.pairing import Pairing
from retrieval_kd.pipeline.parts import Parts
from retrieval_kd.pipeline.steps.timing import Timing, time_answers
from retrieval_kd.pipeline.steps.weighing import read_weights, weigh
from retrieval_kd.pipeline.trainer_settings import TrainerSettings


@dataclass(frozen=True)
class Plan:
    """The steps of one stage's config; nothing runs before a step is asked for its artifact."""

    cfg: DictConfig
    before: Step | None = None  # the training of the stage before, from which this one goes on
    first: Plan | None = None  # the recipe's first stage, where this is a later one
    student: Step | None = None  # a training whose student is searched, instead of that of the recipe's last

    @cached_property
    def values(self) -> dict[str, Any]:
        """The config as plain values."""
        return plain(self.cfg)

    @cached_property
    def entries(self) -> Entries:
        """The collections."""
        return entries(self.cfg)

    @cached_property
    def parts(self) -> Parts:
        """What the config's nodes build."""
        start = {
            "token_weights": lambda: read_weights(self.weighed(self._start_entry).make()),
            "passages": lambda: self._start_entry.collection.passages,
        }
        return Parts(self.cfg, self.values, start)

    @cached_property
    def candidates(self) -> CandidateSteps:
        """The steps about candidates and the teacher's scores of them."""
        return CandidateSteps(self)

    @cached_property
    def teachers(self) -> list[Asked]:
        """Everybody whose scores or attention the training learns from."""
        return asked(self)

    @cached_property
    def pairing(self) -> Pairing:
        """The steps about pairs."""
        return Pairing(self)

    @property
    def store(self) -> Path:
        """The artifact store."""
        return Path(self.values["store"])

    # ---- finding passages

    def index(self, entry: Entry) -> Step:
        """BM25 over a collection's passages."""
        from retrieval_kd.pipeline.steps.searching import build_index

        settings = self.values["bm25"]
        return self._step(
            "index",
            {"bm25": settings},
            [entry.passages_key],
            lambda folder: build_index(folder, entry.collection, settings),
            f"BM25 over {entry.name}",
        )

    def bm25_run(self, entry: Entry, depth: int) -> Step:
        """BM25's run over a split."""
        from retrieval_kd.pipeline.steps.searching import Depth, search_texts

        index, cut = self.index(entry), Depth(depth, self._ignores_identical(entry))
        return self._step(
            "search",
            {"engine": "bm25", "depth": depth, "identical": cut.ignore_identical_ids},
            [entry.key, index],
            lambda folder: search_texts(folder, entry.collection, index.make(), cut),
            f"BM25 on {entry.label}",
        )

    def student_run(self, entry: Entry) -> Step:
        """The student's run over a split, by the chosen engine."""
        from retrieval_kd.pipeline.steps.searching import Depth, search_representations

        depth = Depth(self.values["evaluation"]["depth"], self._ignores_identical(entry))
        encoded = self.encoded(entry)
        return self._step(
            "search",
            {"engine": self.values["engine"], "depth": depth.passages, "identical": depth.ignore_identical_ids}
            | _length(entry, Side.QUERY),
            [entry.key, encoded, *self._refit(entry)],
            lambda folder: search_representations(
                folder, entry.collection, encoded.make(), self.asked(entry), self.parts.engine, depth
            ),
            f"student on {entry.label}",
        )

    def _refit(self, entry: Entry) -> list[Step]:
        """The weights of the searched collection's tokens, where its queries take them instead of the student's."""
        return [self.weighed(entry)] if self.values["student"].get("refit") else []

    def asked(self, entry: Entry) -> Any:
        """The student that encodes a collection's queries."""
        student: Any = self.parts.student(self.trained)
        refit = self._refit(entry)
        return (student.refitted(read_weights(refit[0].make())) if refit else student).cut(entry.lengths)

    def encoded(self, entry: Entry) -> Step:
        """Representations of a collection's passages."""
        from retrieval_kd.pipeline.steps.searching import encode_passages

        return self._step(
            "encode",
            {"precision": self.values["student"]["inference"]["precision"]} | _length(entry, Side.PASSAGE),
            [entry.passages_key, *self.student_inputs],
            lambda folder: encode_passages(
                folder, entry.collection, self.parts.student(self.trained).cut(entry.lengths)
            ),
            f"{entry.name} by {self.student_name}",
        )

    def _ignores_identical(self, entry: Entry) -> bool:
        return bool(self.values["evaluation"]["ignore_identical_ids"]) and entry.same_ids

    @property
    def train_entries(self) -> tuple[Entry, ...]:
        """The training collections, of which there must be one."""
        if not self.entries.train:
            raise UserError("data.train: this collection has no training split; name one, or evaluate with model=DIR")
        return self.entries.train

    # ---- the student

    @cached_property
    def trained(self) -> Step | None:
        """The last training of the recipe; None where the recipe trains nothing or ``model`` names a student."""
        return self.student or next(reversed(self.trainings.values()), None)

    @cached_property
    def trainings(self) -> dict[str, Step]:
        """The trainings of the recipe by the names of their stages."""
        from retrieval_kd.pipeline.recipes import stages

        return {} if self.values["model"] else {name: stage.training() for name, stage in stages(self)}

    def with_student(self, trained: Step) -> Plan:
        """The same plan about the student that another training left."""
        other = replace(self, student=trained)
        # What was read is not read again, and one student at a time is in memory.
        vars(other).update({name: getattr(self, name) for name in ("values", "entries", "parts")})
        return other

    @property
    def student_inputs(self) -> list[Step | str]:
        """What decides the student's weights."""
        if self.values["model"]:
            return [path_key(Path(self.values["model"]), str(self._declared("student")), self._digests)]
        if self.trained:
            return [self.trained]
        return [text_digest("start", str(self._declared("student", "encoder"))), *self._start]

    @property
    def _start(self) -> list[Step | str]:
        """What an untrained student is made of, apart from its config."""
        entry, reads = self._start_entry, self.parts.student_reads
        weighed = [self.weighed(entry)] if "token_weights" in reads else []
        return [*self._files("encoder", "student"), *weighed, *([entry.passages_key] if "passages" in reads else [])]

    @property
    def _start_entry(self) -> Entry:
        """The collection that a student starts from, where its start depends on one."""
        return (*self.entries.train, *self.entries.evaluate)[0]

    @property
    def tokenizer(self) -> tuple[dict[str, Any], list[Step | str]]:
        """The student's tokenizer by name and path, and what decides it."""
        if self.values["model"]:  # which has a tokenizer of its own
            return {"name": str(model_folder(self.values["model"])), "path": None}, self.student_inputs
        return {name: self.values["encoder"][name] for name in ("name", "path")}, [*self._files("encoder")]

    def weighed(self, entry: Entry) -> Step:
        """Weights of a collection's tokens, of which queries without a model are made."""
        tokenizer, inputs = self.tokenizer
        return self._step(
            "weigh",
            {"tokenizer": tokenizer},
            [entry.passages_key, *inputs],
            lambda folder: weigh(folder, entry.collection, tokenizer),
            f"tokens of {entry.name}",
        )

    @property
    def student_name(self) -> str:
        """How log lines call the student."""
        return str(self.values["model"] or ("the trained student" if self.trained else "the untrained student"))

    def training(self) -> Step:
        """One stage's training."""
        entries = self.train_entries
        config = self._declared(
            "student", "encoder", "objective", "filter", "pacing", "regularizer", "optimizer", "trainer", "seed"
        )
        config["per_query"] = self.values["negatives"]["per_query"]
        if self.candidates.makes_passages:
            config["made_per_query"] = self.values["negatives"]["made"]["per_query"]
        if "members" in self.values["filter"].get("reads", ()):
            config["kinds"] = self.parts.score_kinds
        if len(entries) > 1:
            config["weights"] = [entry.weight for entry in entries]
        settings = TrainerSettings(**self.values["trainer"])  # what is wrong with them is told before any work
        validation = self.entries.validation if settings.validate_every is not None else None
        if settings.validate_every is not None and (validation is None or not validation.judged):
            which = "data.validation names none" if validation is None else f"{validation.label} has no judgements"
            raise UserError(f"trainer.validate_every needs a judged validation split; {which}")
        if not self.parts.labels_by_teacher:
            refuse_unjudged(entries, self.values["objective"], self.values["negatives"])
        weighed = [self.weighed(self._start_entry)] if self.parts.regularizer_reads_idf else []
        lists = self.candidates
        steps = [*map(lists.learned, entries), *([lists.mined(validation)] if validation else [])]
        steps += scored(self, entries, self.reported_entry)
        steps += self.pairing.of_training(entries, self.reported_entry)

        def write(folder: Path) -> Mapping[str, Any]:
            from retrieval_kd.pipeline.steps import stage  # here: planning does without torch

            return stage.train(folder, self, validation)

        return self._step(
            "train",
            config,
            [*steps, *([self.before] if self.before else self._start), *weighed],
            write,
            " + ".join(self.values["objective"]),
        )

    @property
    def reported_entry(self) -> Entry:
        """Whose lists the teacher is judged by: held-out ones where it learned from the training lists itself."""
        taught = self.parts.learns_here or any(one.learns_here for one in with_bases(self.teachers))
        held_out = self.entries.validation if taught else None
        return held_out if held_out is not None and held_out.judged else self.train_entries[0]

    # ---- results

    def run(self, entry: Entry) -> Step:
        """What is evaluated: the student's, BM25's or the teacher's run."""
        holds = self.values["engine"]["holds"]
        if holds == "texts":
            return self.bm25_run(entry, self.values["evaluation"]["depth"])
        if holds == "scores":
            return self.reranked(entry)
        return self.student_run(entry)

    def reranked(self, entry: Entry) -> Step:
        """The teacher's order of BM25's first passages."""
        from retrieval_kd.pipeline.steps.evaluating import rerank

        run = self.bm25_run(entry, self.values["engine"]["depth"])
        return self._step(
            "search",
            self._declared("teacher", "engine"),
            [run, *self.candidates.teacher_inputs(entry)],
            lambda folder: rerank(folder, entry.collection, run.make(), self.candidates.teacher(entry), self.store),
            f"teacher on {entry.label}",
        )

    def timed(self, entry: Entry) -> Step | None:
        """How long answers take on this machine; None where nobody asked, or the teacher is what answers."""
        settings, holds = self.values["evaluation"]["latency"], self.values["engine"]["holds"]
        if settings is None or holds == "scores":
            return None
        timing, texts, gpu = Timing.of(settings), holds == "texts", self.values["trainer"]["accelerator"]
        holder = self.index(entry) if texts else self.encoded(entry)
        student = None if texts else (lambda: self.asked(entry), self.parts.engine)
        return self._step(
            "time",
            {"engine": self.values["engine"], "latency": asdict(timing), "machine": machine(), "accelerator": gpu}
            | ({} if texts else _length(entry, Side.QUERY)),
            [entry.key, holder, *([] if texts else self._refit(entry))],
            lambda folder: time_answers(folder, entry.collection, timing, holder.make(), student),
            f"answers on {entry.label}",
        )

    def evaluated(self, entry: Entry) -> Step:
        """Measures of the run, per query."""
        from retrieval_kd.evaluation.measures import check_measures
        from retrieval_kd.pipeline.steps.evaluating import evaluate

        settings = self.values["evaluation"] | {
            "measures": entry.measures(self.values["evaluation"]["measures"]),
            "ignore_identical_ids": self._ignores_identical(entry),
        }
        check_measures(settings["measures"])
        entry.check_measures(self.values["evaluation"]["measures"])
        run, timed = self.run(entry), self.timed(entry)
        return self._step(
            "evaluate",
            {"evaluation": deciding("evaluation", settings)},
            [entry.key, run, *([timed] if timed else [])],
            lambda folder: evaluate(folder, entry, run.make(), settings, self.store),
            entry.label,
        )

    def results(self) -> list[Step]:
        """The evaluations that the config asks for, runs where nothing is judged; with their inputs the whole plan."""
        return [self.evaluated(entry) if entry.measured else self.run(entry) for entry in self.entries.evaluate]

    # ---- making steps

    def _declared(self, *names: str) -> dict[str, Any]:
        return {name: deciding(name, self.parts.group(name)) for name in names}

    def _files(self, *groups: str) -> list[str]:
        """Digests of the files and folders that groups of the config name."""
        return [path_key(path, "", self._digests) for group in groups for path in named_files(self.parts.group(group))]

    @property
    def _digests(self) -> Path:
        return self.store / "files"

    def _step(
        self,
        name: str,
        config: Mapping[str, Any],
        inputs: list[Step | str],
        write: Callable[[Path], Mapping[str, Any]],
        about: str,
    ) -> Step:
        return Step(name, VERSIONS[name], config, inputs, self.store, write, about)


def _length(entry: Entry, side: Side) -> dict[str, int]:
    """How long a collection's texts may be, where that is not the student's own."""
    return {"length": entry.lengths[side]} if side in entry.lengths else {}
