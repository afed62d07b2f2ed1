"""Score the mined candidates by the teacher; a pair that was scored once is never scored again.

usage: retrieval-kd score [group=option] [key=value] …

  retrieval-kd score teacher=ensemble
  retrieval-kd score teacher=pointwise teacher.scorer.name=NAME teacher.scorer.train=null   a ready cross-encoder
"""

from __future__ import annotations

KEYS = ("output_dir", "store", "data.split", "negatives.source", "negatives.pool", "negatives.window")


def run(arguments: list[str]) -> int:
    """Bring the step up to date and print where its artifact is."""
    from retrieval_kd.cli.artifact import make

    return make("score", arguments, trains=False)
