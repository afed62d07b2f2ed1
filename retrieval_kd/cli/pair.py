"""Draw pairs of the scored candidates and have them judged; a pair that was judged once is never judged again.

usage: retrieval-kd pair teacher=pairwise [group=option] [key=value] …

  retrieval-kd pair teacher=pairwise pairs=disagreement pairs.per_query=16
  retrieval-kd pair teacher=pairwise judge@teacher.judge=sequence_to_sequence teacher.orders=one   duoT5
"""

from __future__ import annotations

KEYS = ("output_dir", "store", "data.split", "pairs.per_query", "pairs.top", "pairs.window", "negatives.pool")


def run(arguments: list[str]) -> int:
    """Bring the step up to date and print where its artifact is."""
    from retrieval_kd.cli.artifact import make

    return make("pair", arguments, trains=False)
