"""What is told before work starts rather than after an hour of it: settings that nothing accepts, places without room.

Only what is still to be made is looked at: with all steps done nothing is built and nothing is imported.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.asked import scorers
from retrieval_kd.pipeline.build import resolve
from retrieval_kd.pipeline.compatibility import trains_student
from retrieval_kd.pipeline.costs import Lists, mined_lists, reranked_lists, scorer_size
from retrieval_kd.pipeline.estimates import (
    SCORE_BYTES,
    Counts,
    asks_a_model,
    encoder_size,
    in_words,
    keeps_vectors,
    stores_scores,
)
from retrieval_kd.pipeline.needs import SCORES
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.recipes import stages
from retrieval_kd.pipeline.white_box import check_white_boxes

if TYPE_CHECKING:
    from retrieval_kd.pipeline.artifacts import Step
    from retrieval_kd.pipeline.entries import Entry

log = logging.getLogger(__name__)

COUNTING_SECONDS = 5  # for a large collection that no step has counted; what was counted till then is there for certain
DISTINCT = 0.5  # share of the most passages that lists may name: popular ones stand in many lists


def check_lists(plan: Plan) -> None:
    """Build negatives and samplers, which name the setting that they refuse; first, for steps are planned by these."""
    _ = plan.parts.negatives, plan.parts.pairs
    if plan.parts.labels_by_teacher:
        _ = plan.parts.labels
    if "orders" in plan.values["teacher"]:
        from retrieval_kd.teachers.pairwise import check_orders

        check_orders(plan.values["teacher"]["orders"])
    if plan.candidates.makes_passages:
        plan.parts.made(None)


def planned(plan: Plan) -> list[Step]:
    """The results that a config asks for."""
    if trains_student(plan.values):
        for _, stage in stages(plan):
            check_lists(stage)
    return plan.results()


@dataclass(frozen=True)
class Work:
    """Results that are asked for, the collections that they are about, and where they are to be laid out."""

    plan: Plan
    results: Sequence[Step]
    evaluated: Sequence[Entry] = ()
    folder: Path | None = None

    @cached_property
    def missing(self) -> dict[str, Step]:
        """Steps that are still to be made, by key."""
        steps = {step.key: step for result in self.results for step in result.walk()}
        return {key: step for key, step in steps.items() if not step.done}

    @cached_property
    def names(self) -> Counter[str]:
        """How many of each kind of step are to be made."""
        return Counter(step.name for step in self.missing.values())

    @cached_property
    def stages(self) -> list[Plan]:
        """The plans whose lists are mined and taught."""
        return [stage for _, stage in stages(self.plan)] if self.names["train"] else [self.plan]

    def check(self) -> None:
        """Refuse what would fail later."""
        if self.folder is not None:
            check_place("output_dir", self.folder)
        if self.missing:
            check_place("store", self.plan.store)
            self.check_parts()
            self.check_room()
            self.tell_chosen()

    def check_parts(self) -> None:
        """Build what is cheap to build; constructors name the setting that they refuse."""
        for stage in self.stages if self.names["train"] else ():
            _check_training(stage)
        for stage in self.stages if self.names["darken"] or self.names["score"] or self.names["pair"] else ():
            _check_masks(stage)
        for stage in self.stages if self.names["score"] or self.names["pair"] else ():
            _check_teacher(stage, judged=bool(self.names["pair"]))

    def tell_chosen(self) -> None:
        """Warn where a model is chosen by the very queries on which it is reported."""
        for stage in self.stages if self.names["train"] else ():
            trainer, validation = stage.values["trainer"], stage.entries.validation
            chosen = [f"trainer.patience={trainer['patience']}"] if trainer["patience"] is not None else []
            chosen += ["trainer.select=best"] if trainer["select"] == "best" else []
            if trainer["validate_every"] is None or validation is None or not chosen:
                continue
            if any(validation.label == one.label or validation.key == one.key for one in self.evaluated):
                log.warning(
                    "%s: the model is chosen on %s, on which it is reported too; name other queries by"
                    " data.validation={NAME: {split: …}}, evaluate others by data.split, or take trainer.select=last"
                    " and trainer.patience=null",
                    " ".join(chosen),
                    validation.label,
                )
                return

    def check_room(self) -> None:
        """Refuse a store on a file system that cannot hold what is still to be made."""
        store = _existing(self.plan.store)
        usage, needed = shutil.disk_usage(store), self.bytes_needed()
        if usage.total == 0 or sum(needed.values()) <= usage.free:  # some file systems do not say what they have
            return
        parts = ", ".join(f"{kind} {in_words(size)}" for kind, size in needed.most_common() if size)
        raise UserError(
            f"store={self.plan.store}: {in_words(sum(needed.values()))} are needed and {in_words(usage.free)} are free"
            f" ({parts}); name a store on a larger disk, or make room"
        )

    def bytes_needed(self) -> Counter[str]:
        """What the missing steps leave in the store and beside it, by kind, as far as it is known; rather too little.

        What the store has of scores and vectors already may be the very ones that are asked for, and is taken off.
        """
        counts = Counts(self.plan, known=True)
        needed: Counter[str] = Counter()
        for entry in self.evaluated:
            needed += self._of_results(entry, counts)
        for stage in self.stages if self.names["mine"] or self.names["score"] else ():
            for entry in stage.train_entries:
                needed += self._of_lists(stage, entry, replace(counts, plan=stage))
        for kind in ("scores", "vectors"):
            needed[f"the teacher's {kind}"] -= _folder_size(self.plan.store / kind)
        size = None if self.plan.values["model"] else encoder_size(**self.plan.values["encoder"])
        if size is not None:
            needed["models"] += self.names["train"] * size.parameters * 4
        return +needed

    def _of_results(self, entry: Entry, counts: Counts) -> Counter[str]:
        plan, needed = self.plan, Counter[str]()
        if self.names["search"]:
            run = plan.run(entry)
            if run.key in self.missing:
                copies = 2 if self.folder is not None and _same_disk(self.folder, plan.store) else 1
                needed["runs"] += copies * _run_bytes(entry, plan.values["evaluation"]["depth"], counts)
                if plan.values["engine"]["holds"] == "scores":
                    needed += _teacher_bytes(plan, reranked_lists(plan, entry), counts)
        size = encoder_size(**plan.values["encoder"])
        known = size is not None and not plan.values["model"] and "pooling" in plan.values["student"]
        if known and size is not None and self.names["encode"] and plan.encoded(entry).key in self.missing:
            needed["vectors"] += counts.at_least(entry, COUNTING_SECONDS) * size.dimension * 4
        return needed

    def _of_lists(self, plan: Plan, entry: Entry, counts: Counts) -> Counter[str]:
        window, needed = plan.values["negatives"].get("window"), Counter[str]()
        if window and plan.candidates.source_run(entry).key in self.missing:
            needed["runs"] += _run_bytes(entry, window[1], counts)
        first = plan.candidates.at_start is plan.candidates  # how many lists of a later round are new, nobody knows yet
        if self.names["score"] and first:
            lists = mined_lists(plan, counts, entry)
            if lists.step.key in self.missing:
                needed += _teacher_bytes(plan, lists, counts)
        return needed


def check_place(key: str, path: Path) -> None:
    """Refuse a folder that cannot be made or written to."""
    place = _existing(path)
    if not place.is_dir():
        raise UserError(f"{key}={path}: {place} is a file; name a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{key}={path}: {place} cannot be written to")


def _check_training(plan: Plan) -> None:
    import torch

    check_white_boxes(plan)
    try:
        if plan.parts.labels_by_teacher:
            _ = plan.parts.labels
        training = plan.parts.training()
    except (TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    try:
        training.optimizer([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"optimizer: {' '.join(str(error).split())}") from error


def _check_masks(plan: Plan) -> None:
    """Refuse tokenizers without a mask, before the lists are mined whose passages are to have masks."""
    if not plan.candidates.makes_passages:
        return
    tokenizer, _ = plan.tokenizer
    if not plan.parts.made(tokenizer).masks:
        return
    from retrieval_kd.data.masks import no_mask

    judge = [plan.parts.judge] if plan.parts.needs_preferences else []
    for node in (*scorers(plan), *judge):
        name, reads = _tokenizer(node)
        if name is not None and reads.mask_token_id is None:
            raise UserError(no_mask(name))


def _tokenizer(node: dict[str, Any]) -> tuple[str | None, Any]:
    """The model that a scorer or a judge names, and its tokenizer; none where it reads no tokens."""
    if "answers" in node:
        from retrieval_kd.teachers.language_model import load_tokenizer as of_language_model

        return node["name"], of_language_model(node["name"])[1]
    encoder = node.get("encoder", {}).get("encoder", {})
    name = encoder.get("name", node.get("name"))
    if name is None:
        return None, None
    from retrieval_kd.data.weights import resolve_encoder
    from retrieval_kd.students.backbone import load_tokenizer

    return name, load_tokenizer(resolve_encoder(name, encoder.get("path")))


def _check_teacher(plan: Plan, judged: bool) -> None:
    """Refuse what the teacher's language models, and the judge, do not take, before the lists are mined for them."""
    for node in scorers(plan):
        _check_questions(node)
    if judged and "judge" in plan.values["teacher"]:
        _check_judge(plan)


def _check_questions(node: dict[str, Any]) -> None:
    """A language model's template, and answers that its tokenizer splits."""
    if "answers" not in node:
        return
    from retrieval_kd.teachers.language_model import answer_tokens, load_tokenizer
    from retrieval_kd.teachers.prompts import check_template

    check_template(node["template"], resolve(node["_target_"]).fields)
    answer_tokens(node["name"], load_tokenizer(node["name"])[1], node["answers"])


def _check_judge(plan: Plan) -> None:
    """All settings of a judge without a model; of one with a model, those that need no weights."""
    from retrieval_kd.teachers.pair_training import check_drawing

    node = plan.parts.judge
    _check_questions(node)
    if not asks_a_model(node):
        plan.parts.judge_alone()
    elif node.get("train"):
        from retrieval_kd.data.weights import resolve_encoder

        learned = node["train"]["labels"] == SCORES
        check_drawing(node["train"]["pairs"], node["train"]["temperature"] if learned else None)
        try:
            resolve_encoder(node["name"])
        except UserError as error:
            raise UserError(str(error).replace("encoder.name", "teacher.judge.name", 1)) from error
    elif "train" in node:
        from retrieval_kd.teachers.classifier import check_there

        check_there(node["name"])


def _run_bytes(entry: Entry, depth: int, counts: Counts) -> int:
    return int((counts.lines(entry, depth) or 0) * counts.line_bytes(entry))


def _teacher_bytes(plan: Plan, lists: Lists, counts: Counts) -> Counter[str]:
    """What the teacher's members leave of lists in the stores."""
    needed = Counter[str]()
    queries, pairs = lists.sizes(counts)
    if queries is None or pairs is None:
        return needed
    for node in plan.parts.scorers.values():
        size = scorer_size(node)
        if not keeps_vectors(node):
            needed["the teacher's scores"] += pairs * SCORE_BYTES if stores_scores(node) else 0
        elif size is not None:
            passages = DISTINCT * min(pairs, counts.at_least(lists.entry, COUNTING_SECONDS))
            needed["the teacher's vectors"] += int(queries + passages) * size.dimension * 4
    return needed


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _same_disk(one: Path, other: Path) -> bool:
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _folder_size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process puts its shards together
            size += path.stat().st_size if path.is_file() else 0
    return size
