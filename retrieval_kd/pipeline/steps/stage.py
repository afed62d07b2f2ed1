"""One stage's training: gather what it needs, report on the teacher, fit, write the student."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.utils import get_method
from pytorch_lightning.loggers import CSVLogger

from retrieval_kd.callbacks.validation import RankingTask
from retrieval_kd.contracts import TARGET_ROLES, PassageTexts, Side, Signal, UserError, has_role
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.in_batch_scores import InBatchScores, in_batch_scores
from retrieval_kd.data.made_passages import texts_beside
from retrieval_kd.data.pairs import Pairs, PlacedPairs, place
from retrieval_kd.data.tokenize import SideSettings
from retrieval_kd.data.training_set import Draw, Signalled, TrainingSet
from retrieval_kd.data.vector_store import VectorStore
from retrieval_kd.evaluation.measures import prepare
from retrieval_kd.pipeline.build import build
from retrieval_kd.pipeline.needs import asking, needs_of
from retrieval_kd.pipeline.steps.lists import CANDIDATES
from retrieval_kd.pipeline.steps.pairing import PAIRS
from retrieval_kd.pipeline.steps.reporting import report_pairs, report_teachers
from retrieval_kd.pipeline.steps.scoring import signalled
from retrieval_kd.pipeline.steps.training import TrainingData, clear, fit, work_folder
from retrieval_kd.pipeline.trainer_settings import TrainerSettings
from retrieval_kd.pipeline.white_box import white_box

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from retrieval_kd.data.collections import Collection
    from retrieval_kd.pipeline.artifacts import Step
    from retrieval_kd.pipeline.entries import Entry
    from retrieval_kd.pipeline.plan import Plan

log = logging.getLogger(__name__)


def train(folder: Path, plan: Plan, validation: Entry | None) -> dict[str, Any]:
    """Fill ``folder`` with the trained student and its training log."""
    prepare(plan.store / "numba")
    student = plan.parts.student(plan.before)
    if plan.before is not None:  # read from its folder, with the lengths of the stage before
        student.tokenizer.sides = {side: SideSettings(**plan.values["student"][side.value]) for side in Side}
    found = report_teachers(folder, plan, student) if plan.teachers else {}
    found |= report_pairs(folder, plan) if plan.parts.needs_preferences else {}
    sets = [_training_set(plan, entry) for entry in plan.train_entries]
    data = TrainingData(sets, [entry.weight for entry in plan.train_entries], plan.values["seed"])
    settings = TrainerSettings(**plan.values["trainer"])
    task = _task(plan, validation, settings.validation_queries) if validation else None
    with work_folder(folder.parent / f"{plan.training().key}.work", settings.devices) as work:
        training = plan.parts.training(partial(white_box, plan, student))
        found |= fit(student, training, data, task, settings, work, partial(_loggers, plan))
        get_method(plan.values["student"]["writer"])(student, folder / "model")
        join_logs(sorted(work.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime), folder / "log.csv")
        clear(work)
    plan.parts.forget()
    return found


def _training_set(plan: Plan, entry: Entry) -> TrainingSet:
    collection, lists, negatives = entry.collection, plan.candidates, plan.values["negatives"]
    candidates = Candidates.read(lists.learned(entry).make() / CANDIDATES)
    _refuse_without_positives(plan, entry, candidates)
    passages = texts_beside(collection.passages, lists.listed(entry).make())
    return TrainingSet(
        collection.queries,
        None if plan.parts.labels_by_teacher and plan.parts.labels.ignores_judgements else collection.judgements,
        candidates,
        passages,
        replace(
            _signals(plan, entry, lists.told(entry), candidates),
            pairs=_paired(plan, entry, candidates),
            own=_own_scores(plan, entry, candidates),
        ),
        Draw(negatives["per_query"], plan.values["seed"], negatives.get("made", {}).get("per_query", 0)),
        _in_batch(plan, entry, candidates, passages),
    )


def _refuse_without_positives(plan: Plan, entry: Entry, candidates: Candidates) -> None:
    """Hard labels that nobody has would be learned in silence, by a loss of 0."""
    hard = [path for path, part in asking(plan.values) if Signal.JUDGEMENTS in needs_of(part)]
    if hard and not has_role(candidates.role, TARGET_ROLES).any():
        raise UserError(
            f"{hard[0]} needs positives, and none of {len(candidates.query_ids):,} lists of {entry.label} has one; soft"
            " labels alone would fit, such as objective=[listwise_kl]"
        )


def _in_batch(plan: Plan, entry: Entry, candidates: Candidates, passages: PassageTexts) -> InBatchScores | None:
    """The teacher over whole batches, where it is asked so."""
    if not (plan.parts.needs_scores and plan.parts.score_teacher.get("in_batch")):
        return None
    collection = entry.collection
    return in_batch_scores(
        plan.store / "in_batch" / plan.candidates.told(entry).key,
        plan.candidates.teacher(entry),
        VectorStore(plan.store / "vectors"),
        [collection.queries[query_id] for query_id in candidates.query_ids],
        passages.rows(candidates.passage_ids),
        passages,
    )


def _signals(plan: Plan, entry: Entry, scored: Step, candidates: Candidates) -> Signalled:
    if not plan.parts.needs_scores:
        count = len(candidates)
        return Signalled(np.full(count, np.nan, dtype=np.float32), np.empty((0, count), dtype=np.float32))
    return signalled(scored.make(), candidates, plan.candidates.teacher(entry))


def _own_scores(plan: Plan, entry: Entry, candidates: Candidates) -> np.ndarray | None:
    """What the teachers say that terms name for themselves [T, n]; labels may have left passages out since."""
    terms = plan.parts.own_scores
    if not terms:
        return None
    listed, rows = candidates, np.arange(len(candidates))
    if plan.parts.labels_by_teacher:
        listed = Candidates.read(plan.candidates.listed(entry).make() / CANDIDATES)
        place = {key: row for row, key in enumerate(zip(listed.row_query_ids(), listed.passage_ids, strict=True))}
        kept = zip(candidates.row_query_ids(), candidates.passage_ids, strict=True)
        rows = np.fromiter((place[key] for key in kept), np.int64)
    own = {one.term: one.steps for one in plan.teachers}
    return np.stack([signalled(own[t].scored(entry).make(), listed, own[t].teacher(entry)).scores[rows] for t in terms])


def _paired(plan: Plan, entry: Entry, candidates: Candidates) -> PlacedPairs | None:
    """Judged pairs by their places among the candidates."""
    if not plan.parts.needs_preferences:
        return None
    path = plan.pairing.paired(entry).make() / PAIRS
    return place(Pairs.read(path), candidates, str(path))


def _task(plan: Plan, validation: Entry, queries: int) -> RankingTask:
    """Validation queries with their mined lists."""
    candidates = Candidates.read(plan.candidates.mined(validation).make() / CANDIDATES)
    collection = validation.collection
    lists = {one.query_id: one.passage_ids for one, _ in zip(candidates.lists(), range(queries), strict=False)}
    judgements = {query: dict((collection.judgements or {}).get(query, {})) for query in lists}
    return ranking_task(collection, lists, judgements)


def ranking_task(
    collection: Collection, lists: Mapping[str, Any], judgements: Mapping[str, Mapping[str, int]]
) -> RankingTask:
    """Lists of ids as a task with the texts of their distinct passages."""
    ids = list(dict.fromkeys(passage for passages in lists.values() for passage in passages))
    place = {passage: number for number, passage in enumerate(ids)}
    return RankingTask(
        queries={query: collection.queries[query] for query in lists},
        passage_ids=ids,
        passage_texts=collection.passages.texts(collection.passages.rows(ids)),
        lists={query: np.array([place[passage] for passage in passages]) for query, passages in lists.items()},
        judgements=judgements,
    )


def _loggers(plan: Plan, work: Path) -> list[Logger]:
    """The one that is asked for; where it keeps its own files elsewhere, the run's folder has its log in any case."""
    make = build(plan.cfg.logger)
    if "save_dir" not in plan.values["logger"]:
        return [make(save_dir=str(work))]
    return [make(), CSVLogger(str(work))]


def join_logs(parts: Sequence[Path], target: Path) -> None:
    """One log from those of a training that was resumed; nothing where nothing was logged.

    A killed training logged steps after its last checkpoint, which the resumed one took again.
    """
    rows: list[dict[str, str]] = []
    for part in parts:
        with part.open(encoding="utf-8", newline="") as stream:
            later = list(csv.DictReader(stream))
        if later:
            rows = [row for row in rows if int(row["step"]) < int(later[0]["step"])] + later
    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with target.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
