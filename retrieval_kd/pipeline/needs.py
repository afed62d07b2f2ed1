"""Which signals a term of the objective asks for, as it is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrieval_kd.contracts import Signal

TEACHER_TOP = "teacher_top"  # as a term's ``positive``: the passage that the teacher scores highest


def needs_of(term: Mapping[str, Any]) -> frozenset[str]:
    """What its option says that it needs; the teacher's scores instead of judgements where its positive is theirs."""
    needs = frozenset(map(str, term.get("needs", ())))
    if not takes_teachers_top(term) or Signal.JUDGEMENTS not in needs:
        return needs
    return needs - {Signal.JUDGEMENTS.value} | {Signal.SCORE.value}


def takes_teachers_top(node: Mapping[str, Any]) -> bool:
    """Whether a node's positive is the teacher's."""
    return node.get("positive") == TEACHER_TOP
