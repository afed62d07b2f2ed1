"""Search a split's queries by a student, BM25 or the teacher, and write a TREC run.

usage: retrieval-kd search [model=DIR] [group=option] [key=value] …

  retrieval-kd search model=outputs/…/model data=folder data.path=DIR data.split=test
  retrieval-kd search engine=bm25                                      no student
  retrieval-kd search engine=rerank                                    the teacher, over BM25's first passages
"""

from __future__ import annotations

KEYS = ("model", "output_dir", "store", "data.split", "evaluation.depth", "bm25")


def run(arguments: list[str]) -> int:
    """Bring the step up to date and print where its artifact is."""
    from retrieval_kd.cli.artifact import make

    return make("search", arguments)
