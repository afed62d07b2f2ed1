"""Train the teacher's cross-encoders, and a judge of pairs, on mined lists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
from hydra.utils import get_method
from torch.utils.data import DataLoader

from retrieval_kd.contracts import PassageTexts, Role
from retrieval_kd.data.batches import GROUP_OVERHEAD
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.length_groups import plan_groups
from retrieval_kd.data.weights import resolve_encoder
from retrieval_kd.pipeline.needs import JUDGEMENTS, SCORES
from retrieval_kd.pipeline.steps.lists import CANDIDATES, read_lists
from retrieval_kd.pipeline.steps.scoring import signalled
from retrieval_kd.pipeline.steps.training import precision_of, quietly
from retrieval_kd.pipeline.trainer_settings import TrainerSettings
from retrieval_kd.teachers.adamw import LinearAdamW
from retrieval_kd.teachers.cross_encoder import CrossEncoder
from retrieval_kd.teachers.cross_encoder_data import (
    DrawnLists,
    DrawnScores,
    LabelledList,
    ListCollator,
    training_loader,
)
from retrieval_kd.teachers.pair_cross_encoder import PairCrossEncoder
from retrieval_kd.teachers.pair_training import DrawnTriples, TripleCollator, WorthList, triple_loader
from retrieval_kd.teachers.reranker import Reranker

if TYPE_CHECKING:
    from retrieval_kd.data.collections import Collection
    from retrieval_kd.pipeline.candidate_steps import CandidateSteps
    from retrieval_kd.pipeline.entries import Entry
    from retrieval_kd.pipeline.plan import Plan


LOSSES = {
    JUDGEMENTS: "retrieval_kd.functional.ranking_losses.listwise_cross_entropy",
    SCORES: "retrieval_kd.functional.ranking_losses.listwise_kl",
}


def teach(folder: Path, plan: Plan, finder: CandidateSteps) -> dict[str, Any]:
    """Train each member that is to be trained, into a folder of its name.

    Args:
        folder: To be filled.
        plan: Whose teacher it is.
        finder: The steps that find the lists, and ask the teachers that members learn from.
    """
    found, bases = {}, finder.bases
    for name in plan.parts.to_teach:
        lists: list[LabelledList] = []
        for entry in plan.train_entries:
            if name not in bases and not entry.judged:
                continue  # others have judgements to learn from
            candidates = Candidates.read(finder.mined(entry).make() / CANDIDATES)
            labels = _told(bases[name], entry, candidates) if name in bases else np.maximum(candidates.relevance, 0)
            lists += labelled_lists(entry.collection, candidates, labels.astype(np.float32))
        found[name] = _train(plan.parts.scorers[name], lists, plan, folder / name)
    return {"members": found}


def _told(base: CandidateSteps, entry: Entry, candidates: Candidates) -> np.ndarray:
    """What another teacher says of candidates [n]."""
    return signalled(base.scored_as_found(entry).make(), candidates, base.teacher(entry)).scores


def teach_judge(
    folder: Path, plan: Plan, entries: Sequence[Entry], mined: Sequence[Path], scored: Sequence[Path]
) -> dict[str, Any]:
    """Train the judge of pairs on judgements, or on the order of the score teacher, into a folder of its name."""
    how = plan.parts.judge["train"]
    lists: list[WorthList] = []
    for number, entry in enumerate(entries):
        candidates, passages = read_lists(mined[number], entry.collection)
        if how["labels"] == SCORES:
            worth = signalled(scored[number], candidates, plan.candidates.teacher(entry)).scores
        else:
            worth = np.where(candidates.role == Role.POSITIVE, np.maximum(candidates.relevance, 1), 0.0)
        lists += worth_lists(entry.collection, candidates, passages, worth)
    return {"members": {"judge": _train_judge(plan.parts.judge, lists, plan, folder / "judge")}}


def worth_lists(
    collection: Collection, candidates: Candidates, passages: PassageTexts, worth: np.ndarray
) -> list[WorthList]:
    """Candidates with texts, and what each is worth [n]."""
    parts = np.split(worth.astype(np.float64), candidates.offsets[1:-1])
    return [
        WorthList(one.query_id, collection.queries[one.query_id], passages.texts(passages.rows(one.passage_ids)), own)
        for one, own in zip(candidates.lists(), parts, strict=True)
    ]


def _train_judge(node: dict[str, Any], lists: list[WorthList], plan: Plan, folder: Path) -> dict[str, Any]:
    how = node["train"]
    temperature = how["temperature"] if how["labels"] == SCORES else None
    drawn = DrawnTriples(lists, how["pairs"], how["seed"], temperature)
    pl.seed_everything(how["seed"], verbose=False)  # before the head is made
    judge = PairCrossEncoder(
        str(resolve_encoder(node["name"])),
        max_length=node["max_length"],
        optimizer=LinearAdamW(how["learning_rate"], how["weight_decay"], how["warmup"]),
    )
    collate = TripleCollator(judge.pairs, partial(plan_groups, overhead=GROUP_OVERHEAD))
    return _fit(judge, triple_loader(drawn, collate, how["batch_size"]), how["epochs"], plan, folder)


def labelled_lists(collection: Collection, candidates: Candidates, labels: np.ndarray) -> list[LabelledList]:
    """Candidates with texts and labels [n]."""
    passages, parts = collection.passages, np.split(labels, candidates.offsets[1:-1])
    return [
        LabelledList(
            one.query_id,
            collection.queries[one.query_id],
            passages.texts(passages.rows(one.passage_ids)),
            own.tolist(),
        )
        for one, own in zip(candidates.lists(), parts, strict=True)
    ]


def _train(node: dict[str, Any], lists: list[LabelledList], plan: Plan, folder: Path) -> dict[str, Any]:
    how = node["train"]
    drawn: DrawnLists | DrawnScores
    if how["labels"] == SCORES:
        drawn = DrawnScores(lists, how["negatives"], how["seed"], how["temperature"])
    else:
        drawn = DrawnLists(lists, how["negatives"], how["seed"])
    pl.seed_everything(how["seed"], verbose=False)  # before the head is made
    teacher = CrossEncoder(
        str(resolve_encoder(node["name"])),
        max_length=node["max_length"],
        loss=get_method(how["loss"] or LOSSES[how["labels"]]),
        optimizer=LinearAdamW(how["learning_rate"], how["weight_decay"], how["warmup"]),
    )
    collate = ListCollator(teacher.pairs, partial(plan_groups, overhead=GROUP_OVERHEAD))
    return _fit(teacher, training_loader(drawn, collate, how["batch_size"]), how["epochs"], plan, folder)


def _fit(teacher: Reranker, loader: DataLoader[Any], epochs: int, plan: Plan, folder: Path) -> dict[str, Any]:
    settings = TrainerSettings(**plan.values["trainer"])
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,  # lists are not shared out among processes
        precision=precision_of(settings),  # type: ignore[arg-type]
        max_epochs=epochs,
        gradient_clip_val=settings.clip,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )
    with quietly():
        trainer.fit(teacher, loader)
    if trainer.interrupted:
        raise KeyboardInterrupt
    teacher.save(folder)
    return {"steps": trainer.global_step, "loss": float(trainer.callback_metrics["train/loss"])}
