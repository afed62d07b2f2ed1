"""Measure a student, BM25 or the teacher on a split: a TREC run, measures, and the measures of every query.

usage: retrieval-kd evaluate [model=DIR] [group=option] [key=value] …

  retrieval-kd evaluate model=outputs/…/model data=folder data.path=DIR data.split=test
  retrieval-kd evaluate engine=bm25                                    no student
  retrieval-kd evaluate recipe=no_training                             the student before any training
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = (
    "model",
    "output_dir",
    "store",
    "data.split",
    "evaluation.measures",
    "evaluation.depth",
    "evaluation.ignore_identical_ids",
)


def run(arguments: list[str]) -> int:
    """Measure."""
    job(arguments)
    return 0


def job(arguments: list[str]) -> Path:
    """Bring the step up to date and print where its artifact is; a sweep compares the folders of its jobs."""
    from retrieval_kd.cli.artifact import bring

    return bring("evaluate", arguments)[0]


def finished(cfg: DictConfig) -> Path | None:
    """The folder of a job that has nothing left to do; a sweep leaves it out."""
    from retrieval_kd.pipeline.run import finished

    return finished(cfg)
