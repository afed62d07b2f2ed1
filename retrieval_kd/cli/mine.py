"""Mine candidates for the training queries: passages from a run's ranks, without the known positives.

usage: retrieval-kd mine [group=option] [key=value] …

  retrieval-kd mine negatives.source=bm25 negatives.window=[10,200]
  retrieval-kd mine negatives.source=outputs/…/model                   from a trained student's own run
"""

from __future__ import annotations

KEYS = (
    "output_dir",
    "store",
    "data.split",
    "negatives.source",
    "negatives.pool",
    "negatives.window",
    "negatives.random",
    "negatives.margin",
    "bm25",
)


def run(arguments: list[str]) -> int:
    """Bring the step up to date and print where its artifact is."""
    from retrieval_kd.cli.artifact import make

    return make("mine", arguments, trains=False)
