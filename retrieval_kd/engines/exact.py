"""Exact search of whatever a student makes of texts."""

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
