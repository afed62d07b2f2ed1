"""Exact search of whatever a student makes of texts, and what other engines find of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from retrieval_kd.contracts import Engine, UserError

Make = Callable[..., Engine]


def exact(passages: Mapping[str, np.ndarray], **kinds: Make) -> Engine:
    """The engine of ``kinds`` that is named like one of the stored arrays."""
    for name, make in kinds.items():
        if name in passages:
            return make(passages=passages)
    raise UserError(f"engine=exact searches {' or '.join(kinds)}, and the student makes {', '.join(sorted(passages))}")


def recall_of_exact(
    engine: Engine, passages: Mapping[str, np.ndarray], queries: Mapping[str, np.ndarray], k: int = 10, most: int = 100
) -> float:
    """Share of the k best passages that an engine for sparse representations finds too; 1 where there are none.

    Queries beyond ``most`` are not asked: those that are, are spread over all. One engine more is built for it.
    """
    from retrieval_kd.engines.inverted import InvertedIndex

    size = len(queries["lengths"])
    rows = np.unique(np.linspace(0, size - 1, min(most, size)).astype(np.int64))
    asked = {name: array[rows] for name, array in queries.items()}
    best, found = InvertedIndex(passages).search(asked, k).rows, engine.search(asked, k).rows
    both = sum(len(np.intersect1d(a[a >= 0], b)) for a, b in zip(best, found, strict=True))
    return both / there if (there := int((best >= 0).sum())) else 1.0
