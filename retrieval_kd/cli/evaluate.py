"""Measure a student, BM25 or the teacher on a split: a TREC run, measures, and the measures of every query.

usage: retrieval-kd evaluate [model=DIR] [group=option] [key=value] …

  retrieval-kd evaluate model=outputs/…/model data=folder data.path=DIR data.split=test
  retrieval-kd evaluate engine=bm25                                    no student
  retrieval-kd evaluate recipe=no_training                             the student before any training
"""

from __future__ import annotations

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
    """Bring the step up to date and print where its artifact is."""
    from retrieval_kd.cli.artifact import make

    return make("evaluate", arguments)
