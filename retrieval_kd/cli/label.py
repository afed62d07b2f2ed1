"""Label the scored candidates by thresholds: pseudo-positives and negatives, with an account of what was dropped.

usage: retrieval-kd label labels=thresholds [group=option] [key=value] …

  retrieval-kd label labels=thresholds teacher=pointwise                         probabilities above .9 and below .1
  retrieval-kd label labels=thresholds teacher=pointwise labels.judged=ignore    as if nothing were judged
"""

from __future__ import annotations

KEYS = ("output_dir", "store", "data.split", "negatives.source", "negatives.pool", "negatives.window")


def run(arguments: list[str]) -> int:
    """Bring the step up to date and print where its artifact is."""
    from retrieval_kd.cli.artifact import make

    return make("label", arguments, trains=False)
