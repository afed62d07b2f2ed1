"""Run an experiment's recipe end to end: mine, score, train, search, evaluate; what is done already is not done again.

usage: retrieval-kd train [group=option] [key=value] …

  retrieval-kd train                                                   the default experiment, minutes on two cores
  retrieval-kd train data=folder data.path=DIR output_dir=runs/first   own data in BEIR layout
  retrieval-kd train objective=[margin_mse] trainer.epochs=3           another objective, longer
  retrieval-kd train -m optimizer.lr=5e-5,1e-4 seed=1,2                four jobs, a table and a plot
  retrieval-kd train target=teacher teacher=pointwise                  the teacher alone
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = (
    "output_dir",
    "seed",
    "target",
    "store",
    "data.split",
    "data.limit",
    "encoder.name",
    "encoder.layers",
    "student.pooling",
    "student.similarity",
    "student.query.max_length",
    "student.passage.max_length",
    "negatives.source",
    "negatives.pool",
    "negatives.per_query",
    "negatives.window",
    "objective.contrastive.weight",
    "objective.contrastive.temperature",
    "objective.listwise_kl.weight",
    "objective.listwise_kl.student_temperature",
    "objective.listwise_kl.teacher_temperature",
    "optimizer.lr",
    "trainer.batch_size",
    "trainer.epochs",
    "trainer.max_steps",
    "trainer.accumulate",
    "trainer.precision",
    "trainer.validate_every",
    "trainer.select",
    "evaluation.measures",
)


def run(arguments: list[str]) -> int:
    """Train."""
    job(arguments)
    return 0


def job(arguments: list[str]) -> Path:
    """Train, print the measures and the folder that holds everything; a sweep compares the folders of its jobs."""
    from retrieval_kd.pipeline.compatibility import check
    from retrieval_kd.pipeline.compose import compose

    cfg = compose(arguments)
    check(cfg)
    from retrieval_kd.cli.measures import print_measures
    from retrieval_kd.pipeline.run import train

    folder = train(cfg)
    print_measures(folder)
    print(folder)
    return folder


def finished(cfg: DictConfig) -> Path | None:
    """The folder of a job that has nothing left to do; a sweep leaves it out."""
    from retrieval_kd.pipeline.run import finished

    return finished(cfg)
