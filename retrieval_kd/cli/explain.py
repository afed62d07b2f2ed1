"""Show what train would do: the composed formula with its numbers, the steps and which are done, calls, memory, disk.

usage: retrieval-kd explain [group=option] [key=value] …

  retrieval-kd explain experiment=plain_kl scale=small
  retrieval-kd explain objective=[margin_mse] negatives.pool=64
"""

from __future__ import annotations

from retrieval_kd.cli.train import KEYS as KEYS


def run(arguments: list[str]) -> int:
    """Print; nothing is computed."""
    from retrieval_kd.pipeline.compatibility import check
    from retrieval_kd.pipeline.compose import compose

    cfg = compose(arguments)
    check(cfg)
    from retrieval_kd.pipeline.explain import explain

    print(explain(cfg))
    return 0
