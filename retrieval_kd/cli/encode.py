"""Encode a collection's passages by a student.

usage: retrieval-kd encode [model=DIR] [group=option] [key=value] …

  retrieval-kd encode model=outputs/…/model data=folder data.path=DIR
"""

from __future__ import annotations

KEYS = (
    "model",
    "output_dir",
    "store",
    "data.split",
    "student.passage.max_length",
    "student.inference.precision",
    "student.inference.tokens_per_batch",
)


def run(arguments: list[str]) -> int:
    """Bring the step up to date and print where its artifact is."""
    from retrieval_kd.cli.artifact import make

    return make("encode", arguments)
