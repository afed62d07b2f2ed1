"""Make dark passages of the mined candidates: negatives with a span of the positive, positives with words hidden.

usage: retrieval-kd darken negatives=dark [group=option] [key=value] …

  retrieval-kd darken negatives=dark negatives.made.reinforced.variant=sentences
  retrieval-kd darken negatives=dark negatives.made.band=true   drop what the teacher scores out of the list's band
"""

from __future__ import annotations

KEYS = ("output_dir", "store", "data.split", "negatives.source", "negatives.pool", "negatives.window")


def run(arguments: list[str]) -> int:
    """Bring the step up to date and print where its artifact is."""
    from retrieval_kd.cli.artifact import make

    return make("darken", arguments, trains=False)
