"""Train the teacher's cross-encoders on mined lists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from hydra.utils import get_method

from retrieval_kd.contracts import UserError
from retrieval_kd.data.batches import GROUP_OVERHEAD
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.length_groups import plan_groups
from retrieval_kd.data.weights import resolve_encoder
from retrieval_kd.pipeline.steps.mining import CANDIDATES
from retrieval_kd.pipeline.steps.training import precision_of, quietly
from retrieval_kd.pipeline.trainer_settings import TrainerSettings
from retrieval_kd.teachers.adamw import LinearAdamW
from retrieval_kd.teachers.cross_encoder import CrossEncoder
from retrieval_kd.teachers.cross_encoder_data import DrawnLists, LabelledList, ListCollator, training_loader

if TYPE_CHECKING:
    from retrieval_kd.data.collections import Collection
    from retrieval_kd.pipeline.plan import Plan


def teach(folder: Path, plan: Plan, mined: Sequence[Path]) -> dict[str, Any]:
    """Train each member that is to be trained, into a folder of its name."""
    lists = []
    for entry, folder_of_lists in zip(plan.train_entries, mined, strict=True):
        if entry.collection.judgements is None:
            raise UserError(f"teacher: a cross-encoder is trained on judgements, and {entry.label} has none")
        lists += labelled_lists(entry.collection, Candidates.read(folder_of_lists / CANDIDATES))
    settings = TrainerSettings(**plan.values["trainer"])
    found = {}
    for name, node in plan.parts.scorers.items():
        if node.get("train"):
            found[name] = _train(node, lists, settings, folder / name)
    return {"members": found}


def labelled_lists(collection: Collection, candidates: Candidates) -> list[LabelledList]:
    """Candidates with texts; what is judged relevant has its grade for a label."""
    passages = collection.passages
    return [
        LabelledList(
            one.query_id,
            collection.queries[one.query_id],
            passages.texts(passages.rows(one.passage_ids)),
            [max(0, int(relevance)) for relevance in one.relevance],
        )
        for one in candidates.lists()
    ]


def _train(node: dict[str, Any], lists: list[LabelledList], settings: TrainerSettings, folder: Path) -> dict[str, Any]:
    how = node["train"]
    pl.seed_everything(how["seed"], verbose=False)  # before the head is made
    teacher = CrossEncoder(
        str(resolve_encoder(node["name"])),
        max_length=node["max_length"],
        loss=get_method(how["loss"]),
        optimizer=LinearAdamW(how["learning_rate"], how["weight_decay"], how["warmup"]),
    )
    collate = ListCollator(teacher.pairs, partial(plan_groups, overhead=GROUP_OVERHEAD))
    loader = training_loader(DrawnLists(lists, how["negatives"], how["seed"]), collate, how["batch_size"])
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,  # lists are not shared out among processes
        precision=precision_of(settings),  # type: ignore[arg-type]
        max_epochs=how["epochs"],
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
