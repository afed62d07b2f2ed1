"""One stage's training: gather what it needs, report on the teacher, fit, write the student."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.utils import get_method

from retrieval_kd.callbacks.teacher_report import TeacherReport, reranking_ndcg, teacher_report
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
from retrieval_kd.pipeline.steps.lists import CANDIDATES, read_lists
from retrieval_kd.pipeline.steps.pairing import PAIR_REPORT, PAIRS, read_report, report_fields
from retrieval_kd.pipeline.steps.scoring import REPORT, signalled
from retrieval_kd.pipeline.steps.training import TrainingData, clear, fit, work_folder
from retrieval_kd.pipeline.trainer_settings import TrainerSettings
from retrieval_kd.pipeline.white_box import white_box

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from retrieval_kd.data.collections import Collection
    from retrieval_kd.pipeline.artifacts import Step
    from retrieval_kd.pipeline.entries import Entry
    from retrieval_kd.pipeline.plan import Plan
    from retrieval_kd.students.student import Student

log = logging.getLogger(__name__)

REPORTED_QUERIES = 50  # of which the untrained student's order is compared with the teacher's


def train(folder: Path, plan: Plan, validation: Entry | None) -> dict[str, Any]:
    """Fill ``folder`` with the trained student and its training log."""
    prepare(plan.store / "numba")
    student = plan.parts.student(plan.before)
    if plan.before is not None:  # read from its folder, with the lengths of the stage before
        student.tokenizer.sides = {side: SideSettings(**plan.values["student"][side.value]) for side in Side}
    found = _report(folder, plan, student) if plan.parts.needs_scores else {}
    found |= _pair_report(folder, plan) if plan.parts.needs_preferences else {}
    sets = [_training_set(plan, entry) for entry in plan.train_entries]
    data = TrainingData(sets, [entry.weight for entry in plan.train_entries], plan.values["seed"])
    settings = TrainerSettings(**plan.values["trainer"])
    task = _task(plan, validation, settings.validation_queries) if validation else None
    with work_folder(folder.parent / f"{plan.training().key}.work", settings.devices) as work:
        training = plan.parts.training(cache(partial(white_box, plan, student)))
        found |= fit(student, training, data, task, settings, work, partial(_logger, plan))
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
        replace(_signals(plan, entry, lists.told(entry), candidates), pairs=_paired(plan, entry, candidates)),
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


def _paired(plan: Plan, entry: Entry, candidates: Candidates) -> PlacedPairs | None:
    """Judged pairs by their places among the candidates."""
    if not plan.parts.needs_preferences:
        return None
    path = plan.pairing.paired(entry).make() / PAIRS
    return place(Pairs.read(path), candidates, str(path))


def _report(folder: Path, plan: Plan, student: Student) -> dict[str, Any]:
    """Tell what the teacher is worth before anything is learned from it."""
    entry = plan.reported_entry
    candidates, passages = read_lists(plan.candidates.listed(entry).make(), entry.collection)
    signals = _signals(plan, entry, plan.candidates.scored(entry), candidates)
    terms = plan.values["objective"].values()
    of_scores = [term for term in terms if Signal.SCORE in term.get("needs", ())]  # others divide other things
    temperatures = [float(term["teacher_temperature"]) for term in of_scores if "teacher_temperature" in term]
    report = _reported(signals, candidates, temperatures)
    if plan.parts.labels_by_teacher and entry.label in {one.label for one in plan.train_entries}:
        learned = Candidates.read(plan.candidates.learned(entry).make() / CANDIDATES)
        told = _signals(plan, entry, plan.candidates.told(entry), learned)
        report = _reported(told, learned, temperatures).with_worth_of(report)  # labels leave nothing to be right about
    for line in report.lines():
        log.info(line)
    taught, start = _beside_start(plan, student, candidates, passages, signals) if entry.judged else (None, None)
    ndcg = float("nan") if taught is None else taught
    warnings = replace(report, ndcg=ndcg).warnings(start, softmax=bool(temperatures))
    for line in warnings:
        log.warning(line)
    content = {**vars_of(report), "start_ndcg": start, "teacher_ndcg": taught, "warnings": warnings}
    (folder / REPORT).write_text(json.dumps(content, indent=1))
    return {"teacher_ndcg": taught, "start_ndcg": start}


def _reported(signals: Signalled, candidates: Candidates, temperatures: Sequence[float]) -> TeacherReport:
    temperature = (temperatures or [1.0])[0]
    return teacher_report(signals.scores, candidates.role, candidates.offsets, temperature, candidates.relevance)


def _beside_start(
    plan: Plan, student: Student, candidates: Candidates, passages: PassageTexts, signals: Signalled
) -> tuple[float | None, float | None]:
    """How well the teacher and the student as it starts order some lists; None where none of them is judged."""
    entry = plan.reported_entry
    offsets = candidates.offsets[: REPORTED_QUERIES + 1]
    same = slice(0, int(offsets[-1]))
    few = (candidates.role[same], offsets, candidates.relevance[same])
    taught = reranking_ndcg(signals.scores[same], *few)
    if np.isnan(taught):
        return None, None
    start = reranking_ndcg(_student_scores(entry.collection, candidates, passages, student, same), *few)
    log.info(
        "teacher: on %d lists of %s nDCG@10 %.3f, the student as it starts %.3f",
        len(offsets) - 1,
        entry.label,
        taught,
        start,
    )
    return taught, start


def _pair_report(folder: Path, plan: Plan) -> dict[str, Any]:
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


def _student_scores(
    collection: Collection, candidates: Candidates, texts: PassageTexts, student: Student, rows: slice
) -> np.ndarray:
    """The student's similarities of some candidates."""
    queries = [collection.queries[query_id] for query_id in candidates.row_query_ids()[rows]]
    passages = texts.texts(texts.rows(candidates.passage_ids[rows]))
    scorer = {Side.QUERY: sorted(set(queries)), Side.PASSAGE: sorted(set(passages))}
    encoded = {side: student.encode_texts(texts, side) for side, texts in scorer.items()}
    scores = student.compare(encoded[Side.QUERY], encoded[Side.PASSAGE]).numpy()
    place = {side: {text: number for number, text in enumerate(texts)} for side, texts in scorer.items()}
    left = [place[Side.QUERY][query] for query in queries]
    return scores[left, [place[Side.PASSAGE][passage] for passage in passages]]


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


def _logger(plan: Plan, work: Path) -> Logger:
    lasting = {} if "save_dir" in plan.values["logger"] else {"save_dir": str(work)}
    logger: Logger = build(plan.cfg.logger)(**lasting)
    return logger


def vars_of(report: Any) -> dict[str, Any]:
    """A report's fields, numbers that are not a number as null."""
    return {
        name: None if isinstance(value, float) and value != value else value for name, value in vars(report).items()
    }


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
