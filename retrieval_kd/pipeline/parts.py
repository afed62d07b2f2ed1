"""What a config's nodes build, each with the things that its option says it reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from retrieval_kd.contracts import Signal, UserError
from retrieval_kd.interop.own_folder import own_folder
from retrieval_kd.pipeline.build import METADATA, build
from retrieval_kd.pipeline.needs import OF_TOKENS, asks_teacher, learned_from, needs_of, own_teachers
from retrieval_kd.pipeline.white_box import feature_sizes

if TYPE_CHECKING:
    import numpy as np

    from retrieval_kd.contracts import Engine, PairTeacher, ScoreTeacher
    from retrieval_kd.data.labels import Thresholds
    from retrieval_kd.data.pairs import PairSampler
    from retrieval_kd.negatives.dark import DarkPassages
    from retrieval_kd.pipeline.artifacts import Step
    from retrieval_kd.students.student import Student, Training
    from retrieval_kd.teachers.shared_out import SharedOut

log = logging.getLogger(__name__)

OPEN = ("student.inference", "student.prune", "student.refit")  # what is no part of a trained student


class Parts:
    """Builds the config's student, teacher, negatives and engine when they are asked for."""

    def __init__(self, cfg: DictConfig, values: Mapping[str, Any], start: Mapping[str, Callable[[], Any]]) -> None:
        self.cfg = cfg
        self.values = values
        self.start = start  # what an untrained student may read
        self._students: dict[str | None, Student] = {}

    @property
    def needs_scores(self) -> bool:
        """Whether any part of the training asks the teacher for scores; pairs are drawn and labels made by them.

        A white box that is asked where it looks scores too, so that what it is worth is told.
        """
        asked = asks_teacher(self.values, OF_TOKENS | {Signal.SCORE.value})
        return asked or self.needs_preferences or self.labels_by_teacher

    @property
    def own_teachers(self) -> Mapping[str, Any]:
        """The nodes of the teachers that terms name for themselves, by the terms' names."""
        return own_teachers(self.values)

    @property
    def own_scores(self) -> list[str]:
        """Those of these terms that learn from scores."""
        terms = self.values["objective"]
        return [name for name in self.own_teachers if Signal.SCORE in needs_of(terms[name])]

    def teacher_of(self, term: str) -> tuple[str, Mapping[str, Any]]:
        """The key and the node of the teacher that a term learns from."""
        own = self.own_teachers.get(term)
        return ("teacher", self.values["teacher"]) if own is None else (f"objective.{term}.teacher", own)

    @property
    def of_tokens(self) -> list[str]:
        """The names of the terms that ask a white box."""
        return [name for name, term in self.values["objective"].items() if OF_TOKENS & set(term.get("needs", ()))]

    @property
    def needs_preferences(self) -> bool:
        """Whether any objective term asks for judged pairs."""
        return asks_teacher(self.values, frozenset({Signal.PREFERENCE.value}))

    @property
    def negatives(self) -> Any:
        """The source of candidates."""
        return build(self.cfg.negatives)

    def made(self, tokenizer: Mapping[str, Any] | None) -> DarkPassages:
        """What makes passages, with the student's tokenizer; None to look at its settings only."""
        loaded = None
        if tokenizer is not None:
            from retrieval_kd.data.weights import resolve_encoder
            from retrieval_kd.students.backbone import load_tokenizer

            loaded = load_tokenizer(resolve_encoder(tokenizer["name"], tokenizer["path"]))
        dark: DarkPassages = build(self.cfg.negatives.made, tokenizer=loaded)
        return dark

    @property
    def labels_by_teacher(self) -> bool:
        """Whether labels are made of the teacher's scores."""
        return "_target_" in self.values["labels"]

    @property
    def labels(self) -> Thresholds:
        """What makes them."""
        labels: Thresholds = build(self.cfg.labels, members=self.score_kinds)
        return labels

    @property
    def score_kinds(self) -> dict[str, str | None]:
        """What the raw scores of the teacher's members mean."""
        return {name: node.get("score_kind") for name, node in self.scorers.items()}

    @property
    def pairs(self) -> PairSampler:
        """What draws the pairs that are judged."""
        sampler: PairSampler = build(self.cfg.pairs)
        return sampler

    @property
    def engine(self) -> Callable[[Mapping[str, np.ndarray]], Engine]:
        """The engine, still without what it is to hold."""
        searched = self.values["engine"].get("searches")

        def make(passages: Mapping[str, np.ndarray]) -> Engine:
            if searched not in (None, *passages):
                raise UserError(f"engine: it searches {searched}, and the student makes {', '.join(sorted(passages))}")
            engine: Engine = build(self.cfg.engine, passages=passages)
            return engine

        return make

    # ---- the student

    @property
    def student_reads(self) -> list[str]:
        """What an untrained student is given, apart from what its config gives itself."""
        node = self.values["student"]
        fitted = node.get("query_weights", "idf") in ("idf", "learned")  # others do without a collection's weights
        return [
            offer for offer in node.get("reads", ()) if node.get(offer) is None and (fitted or offer != "token_weights")
        ]

    def student(self, trained: Step | None) -> Student:
        """The trained student, the one that ``model`` names, or the untrained start."""
        name = str(trained.make() / "model") if trained else self.values["model"]
        if name not in self._students:
            self._students = {name: self._placed(self._load(name))}  # one at a time: a table visits many
        return self._students[name]

    def forget(self) -> None:
        """Let go of the student: a trained one is read back from its folder."""
        self._students = {}

    def _load(self, name: str | None) -> Student:
        if name is None:
            student: Student = build(self.cfg.student, **{offer: self.start[offer]() for offer in self.student_reads})
            return student
        from retrieval_kd.interop.model_folder import read_model

        try:
            student = read_model(name, _without(self.values["student"], {"_target_", *METADATA}))
        except UserError as error:
            raise UserError(str(error).replace("encoder.name:", f"model={name}:", 1)) from error
        if name == self.values["model"]:
            self._lay_over(student, name)
        return student

    def _lay_over(self, student: Student, name: str) -> None:
        """What the command line says of a student that was trained before; all but its pruning is settled."""
        said = {one.lstrip("+~").partition("=")[0] for one in self.values["overrides"]}
        if "student.prune" in said and hasattr(student, "prune"):
            vars(student)["prune"] = float(self.values["student"]["prune"])
        if own_folder(name):
            settled = sorted(key for key in said if key.startswith("student.") and not key.startswith(OPEN))
            if settled:
                log.warning("model=%s keeps its own %s, whatever is said here", name, ", ".join(settled))

    def training(self, white_box: Callable[[str], SharedOut] | None = None) -> Training:
        """Objective, filter, pacing, regularizer and optimizer.

        ``white_box`` gives the teacher of a term by the term's name, when it is first asked.
        """
        from retrieval_kd.objectives.weighted_sum import WeightedSum
        from retrieval_kd.students.student import Training

        terms = self.cfg.objective
        return Training(
            objective=WeightedSum(
                {str(name): self._term(str(name), node, white_box) for name, node in terms.items()},
                {str(name): float(node.weight) for name, node in terms.items()},
                self.own_scores,
            ),
            filter=self._filter(),
            pacing=self._pacing(),
            regularizer=self._regularizer(),
            optimizer=build(self.cfg.optimizer),
            warmup=self.values["trainer"]["warmup"],
            gradient_cache=self.values["trainer"]["gradient_cache"],
        )

    def _pacing(self) -> Any:
        given = {"members": list(self.scorers)} if "members" in self.values["pacing"].get("reads", ()) else {}
        return build(self.cfg.pacing, **given)

    def _term(self, name: str, node: DictConfig, white_box: Callable[[str], SharedOut] | None) -> Any:
        """A term of the objective, with the white box that it asks if it needs one."""
        if name not in self.of_tokens:
            return build(node)
        given: dict[str, Any] = {"teacher": None if white_box is None else cache(partial(white_box, name))}
        if "sizes" in node.get("reads", ()):
            given["sizes"] = feature_sizes(self.values, self.teacher_of(name)[1])
        return build(node, **given)

    def _filter(self) -> Any:
        """The filter, told what the members' raw scores mean if it reads them."""
        reads = {"members": self.score_kinds} if "members" in self.values["filter"].get("reads", ()) else {}
        return build(self.cfg.filter, **reads)

    @property
    def regularizer_reads_idf(self) -> bool:
        """Whether the penalty is of activations divided by IDF."""
        return any("idf" in node.get("reads", ()) for node in self._penalties())

    def _penalties(self) -> list[Mapping[str, Any]]:
        """The regularizer, and the penalty whose weight it finds."""
        node = self.values["regularizer"]
        return [node, node["penalty"]] if "penalty" in node else [node]

    def _regularizer(self) -> Any:
        node, *inner = self._penalties()
        given = {"idf": self.start["token_weights"]()} if self.regularizer_reads_idf else {}
        if inner and "idf" in inner[0].get("reads", ()):
            return build(_without(node, {"penalty"}), penalty=build(dict(inner[0]), **given))
        return build(self.cfg.regularizer, **given)

    # ---- the teacher

    @property
    def score_teacher(self) -> dict[str, Any]:
        """The node of the teacher, or of the base that a judge of pairs stands on."""
        teacher: dict[str, Any] = self.values["teacher"]
        return teacher.get("base", teacher)

    @property
    def judge(self) -> dict[str, Any]:
        """The node of the judge of pairs."""
        if "judge" not in self.values["teacher"]:
            raise UserError("pairs are judged by teacher=pairwise; this teacher gives none")
        judge: dict[str, Any] = self.values["teacher"]["judge"]
        return judge

    @property
    def scorers(self) -> dict[str, Any]:
        """The nodes of the teacher's members, by name."""
        teacher = self.score_teacher
        return teacher["members"] if "members" in teacher else {"teacher": teacher["scorer"]}

    @property
    def to_teach(self) -> list[str]:
        """Members that are trained here."""
        return [name for name, node in self.scorers.items() if node.get("train")]

    @property
    def learned_from(self) -> dict[str, Mapping[str, Any]]:
        """The nodes of the teachers on whose scores members are trained here, by the members' names."""
        found = {name: learned_from(node) for name, node in self.scorers.items()}
        return {name: node for name, node in found.items() if node is not None}

    @property
    def learns_here(self) -> bool:
        """Whether a member, or the judge of pairs where one is asked, is trained here."""
        return bool(self.to_teach) or (self.needs_preferences and bool(self.judge.get("train")))

    def group(self, name: str) -> Any:
        """A group of the config; of a teacher of preferences, its scores and its judge apart from each other."""
        apart = {"teacher": self.score_teacher, "judge": self.values["teacher"].get("judge")}
        return apart[name] if name in apart else self.values[name]

    def teacher_reads(self, offer: str) -> bool:
        """Whether a member is given this."""
        return any(offer in node.get("reads", ()) for node in self.scorers.values())

    def teacher(self, offers: Mapping[str, Callable[[], Any]], taught: Path | None) -> ScoreTeacher:
        """The teacher; a member's constructor gets those of ``offers`` that its option ``reads``."""
        members = {name: self._scorer(name, node, offers, taught) for name, node in self.scorers.items()}
        node = self.score_teacher
        given = {"members": members} if "members" in node else {"scorer": members["teacher"]}
        teacher: ScoreTeacher = build(_without(node, given), **given)
        return teacher

    def pair_teacher(
        self, base: ScoreTeacher, offers: Mapping[str, Callable[[], Any]], taught: Path | None, orders: str
    ) -> PairTeacher:
        """A judge of pairs on top of a score teacher."""
        judge = self.judge_alone(offers, taught)
        node = _without(self.values["teacher"], ("base", "judge", "orders"))
        teacher: PairTeacher = build(node, base=base, judge=judge, orders=orders)
        return teacher

    def judge_alone(self, offers: Mapping[str, Callable[[], Any]] | None = None, taught: Path | None = None) -> Any:
        """A judge of pairs without the scores that it stands on."""
        return self._scorer("judge", self.judge, offers or {}, taught)

    def _scorer(
        self, name: str, node: Mapping[str, Any], offers: Mapping[str, Callable[[], Any]], taught: Path | None
    ) -> Any:
        given = {offer: make() for offer, make in offers.items() if offer in node.get("reads", ())}
        if taught is not None and node.get("train"):
            given["name"] = str(taught / name)
        scorer = build(_without(node, given), **given)
        self._placed(scorer if hasattr(scorer, "to") else getattr(scorer, "encoder", None))
        return scorer

    def _placed(self, part: Any) -> Any:
        """A model on the device that the trainer uses; anything else as it is."""
        if self.values["trainer"]["accelerator"] in ("gpu", "cuda") and hasattr(part, "to"):
            part.to("cuda")
        return part


def _without(node: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    left = set(names)
    return {key: value for key, value in node.items() if key not in left}
