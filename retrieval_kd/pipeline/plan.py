"""From a composed config to the steps that bring its result: what reads what, and which config keys decide it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from retrieval_kd.contracts import ScoreTeacher, UserError
from retrieval_kd.data.files import file_digest, text_digest
from retrieval_kd.pipeline.artifacts import Step
from retrieval_kd.pipeline.compose import plain
from retrieval_kd.pipeline.entries import Entries, Entry, entries
from retrieval_kd.pipeline.parts import Parts

# Keys that change how long a step takes, or what is printed, but not what it writes.
NO_RESULT = {
    "trainer": ("accelerator", "devices", "strategy", "workers", "log_every", "checkpoint_every"),
    "student": ("inference", "writer"),
    "negatives": ("per_query",),
}


@dataclass(frozen=True)
class Plan:
    """The steps of one stage's config; nothing runs before a step is asked for its artifact."""

    cfg: DictConfig
    before: Step | None = None  # the training of the stage before, from which this one goes on

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
        return Parts(self.cfg, self.values)

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
        from retrieval_kd.pipeline.steps.searching import search_texts

        index = self.index(entry)
        return self._step(
            "search",
            {"engine": "bm25", "depth": depth},
            [entry.key, index],
            lambda folder: search_texts(folder, entry.collection, index.make(), depth),
            f"BM25 on {entry.label}",
        )

    def student_run(self, entry: Entry) -> Step:
        """The student's run over a split, by the chosen engine."""
        from retrieval_kd.pipeline.steps.searching import search_representations

        depth = self.values["evaluation"]["depth"]
        encoded = self.encoded(entry)
        return self._step(
            "search",
            {"engine": self.values["engine"], "depth": depth},
            [entry.key, encoded],
            lambda folder: search_representations(
                folder, entry.collection, encoded.make(), self.parts.student(self.trained), self.parts.engine, depth
            ),
            f"student on {entry.label}",
        )

    def encoded(self, entry: Entry) -> Step:
        """Representations of a collection's passages."""
        from retrieval_kd.pipeline.steps.searching import encode_passages

        return self._step(
            "encode",
            {"precision": self.values["student"]["inference"]["precision"]},
            [entry.passages_key, self.student_key],
            lambda folder: encode_passages(folder, entry.collection, self.parts.student(self.trained)),
            f"{entry.name} by {self.student_name}",
        )

    # ---- candidates and the teacher

    @property
    def train_entry(self) -> Entry:
        """The training collection, which must be there."""
        if self.entries.train is None:
            raise UserError("data.train: this collection has no training split; name one, or evaluate with model=DIR")
        return self.entries.train

    def source_run(self, entry: Entry) -> Step:
        """The run that candidates are taken from."""
        from retrieval_kd.pipeline.steps.mining import copy_run

        source, depth = str(self.values["negatives"]["source"]), int(self.values["negatives"]["window"][1])
        if source == "bm25":
            return self.bm25_run(entry, depth)
        if Path(source).is_file():
            return self._step(
                "search",
                {},
                [entry.key, file_digest(Path(source))],
                lambda folder: copy_run(folder, Path(source)),
                source,
            )
        return Plan(_changed(self.cfg, {"model": source, "evaluation.depth": depth})).student_run(entry)

    def mined(self, entry: Entry) -> Step:
        """Candidates of a split."""
        from retrieval_kd.pipeline.steps.mining import mine

        run = self.source_run(entry)
        return self._step(
            "mine",
            self._declared("negatives"),
            [entry.key, run],
            lambda folder: mine(folder, entry.collection, run.make(), self.parts.negatives, self._margin_scores(entry)),
            entry.label,
        )

    def taught(self) -> Step | None:
        """The training of the teacher's members that are trained here."""
        from retrieval_kd.pipeline.steps.teaching import teach

        members = self.parts.to_teach
        if not members:
            return None
        mined = self.mined(self.train_entry)
        return self._step(
            "teach",
            {"teacher": self.values["teacher"], "seed": self.values["seed"]},
            [mined],
            lambda folder: teach(folder, self, mined.make()),
            ", ".join(members),
        )

    def scored(self, entry: Entry) -> Step:
        """The members' scores of a split's candidates."""
        from retrieval_kd.pipeline.steps.scoring import score

        mined, taught = self.mined(entry), self.taught()
        return self._step(
            "score",
            self._declared("teacher"),
            [mined, self.index(entry), *([taught] if taught else [])],
            lambda folder: score(folder, entry.collection, mined.make(), self.teacher(entry), self.store),
            f"{entry.label} by {', '.join(self.parts.scorers)}",
        )

    def teacher(self, entry: Entry) -> ScoreTeacher:
        """The teacher, its lexical members over the passages of ``entry``."""
        from retrieval_kd.engines.bm25 import BM25

        taught = self.taught()
        offers = {
            "index": lambda: BM25(self.index(entry).make() / "index"),
            "queries": lambda: entry.collection.queries,
            "passages": lambda: entry.collection.passages,
        }
        return self.parts.teacher(offers, taught.make() if taught else None)

    def _margin_scores(self, entry: Entry) -> Callable[..., Any] | None:
        if self.values["negatives"].get("margin") is None:
            return None
        from retrieval_kd.pipeline.steps.mining import teacher_scores

        return teacher_scores(lambda: self.teacher(entry), entry, self.store)

    # ---- the student

    @cached_property
    def trained(self) -> Step | None:
        """The last training of the recipe; None where the recipe trains nothing or ``model`` names a student."""
        from retrieval_kd.pipeline.recipes import last_training

        return None if self.values["model"] else last_training(self)

    @property
    def student_key(self) -> Step | str:
        """What decides the student's weights."""
        if self.values["model"]:
            return _folder_key(Path(self.values["model"]), str(self.values["student"]))
        return self.trained or text_digest("start", str(self._declared("student", "encoder")))

    @property
    def student_name(self) -> str:
        """How log lines call the student."""
        return str(self.values["model"] or ("the trained student" if self.trained else "the untrained student"))

    def training(self) -> Step:
        """One stage's training."""
        from retrieval_kd.pipeline.steps import stage

        entry = self.train_entry
        mined = self.mined(entry)
        scored = self.scored(entry) if self.parts.needs_scores else None
        config = self._declared(
            "student", "encoder", "objective", "filter", "pacing", "regularizer", "optimizer", "trainer", "seed"
        )
        config["per_query"] = self.values["negatives"]["per_query"]
        validation = self.entries.validation if self.values["trainer"]["validate_every"] is not None else None
        inputs = [mined, *([scored] if scored else []), *([self.before] if self.before else [])]
        return self._step(
            "train",
            config,
            [*inputs, *([self.mined(validation)] if validation else [])],
            lambda folder: stage.train(folder, self, entry, validation, scored),
            " + ".join(self.values["objective"]),
        )

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

        run, taught = self.bm25_run(entry, self.values["engine"]["depth"]), self.taught()
        return self._step(
            "search",
            self._declared("teacher", "engine"),
            [run, *([taught] if taught else [])],
            lambda folder: rerank(folder, entry.collection, run.make(), self.teacher(entry), self.store),
            f"teacher on {entry.label}",
        )

    def evaluated(self, entry: Entry) -> Step:
        """Measures of the run, per query."""
        from retrieval_kd.pipeline.steps.evaluating import evaluate

        run = self.run(entry)
        return self._step(
            "evaluate",
            self._declared("evaluation"),
            [entry.key, run],
            lambda folder: evaluate(folder, entry, run.make(), self.values["evaluation"], self.store),
            entry.label,
        )

    def results(self) -> list[Step]:
        """The evaluations that the config asks for; with their inputs they are the whole plan."""
        return [self.evaluated(entry) for entry in self.entries.evaluate]

    # ---- making steps

    def _declared(self, *names: str) -> dict[str, Any]:
        return {name: _without(self.values[name], NO_RESULT.get(name, ())) for name in names}

    def _step(
        self,
        name: str,
        config: Mapping[str, Any],
        inputs: list[Step | str],
        write: Callable[[Path], Mapping[str, Any]],
        about: str,
    ) -> Step:
        return Step(name, VERSIONS[name], config, inputs, self.store, write, about)


# Raised when a step would write something else for the same config and inputs.
VERSIONS = {"index": 1, "search": 1, "encode": 1, "mine": 1, "teach": 1, "score": 1, "train": 1, "evaluate": 1}


def _without(value: Any, names: tuple[str, ...]) -> Any:
    return {key: inner for key, inner in value.items() if key not in names} if isinstance(value, dict) else value


def _changed(cfg: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    from omegaconf import OmegaConf

    changed = cfg.copy()
    for key, value in changes.items():
        OmegaConf.update(changed, key, value)
    return changed


def _folder_key(folder: Path, settings: str) -> str:
    """Digest of a student's files; a hub name stands for itself."""
    if not folder.is_dir():
        return text_digest("model", str(folder), settings)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".json"))
    return text_digest("model", settings, *(f"{path.relative_to(folder)}:{file_digest(path)}" for path in files))
