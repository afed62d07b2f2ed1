"""Which signals the parts of a training ask for, as they are configured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retrieval_kd.contracts import Signal

TEACHER_TOP = "teacher_top"  # as a term's ``positive``: the passage that the teacher scores highest


def asking(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What may need a signal, under its key."""
    for name, term in config["objective"].items():
        yield f"objective.{name}", term
    for group in ("filter", "pacing", "regularizer"):
        if isinstance(config.get(group), Mapping):
            yield f"{group}={config.get('options', {}).get(group, '(own)')}", config[group]


def needs_of(part: Mapping[str, Any]) -> frozenset[str]:
    """What its option says that it needs, less what its own settings make needless.

    A positive that is the teacher's takes scores in place of judgements; who goes by the student's scores asks the
    teacher for none.
    """
    needs = frozenset(map(str, part.get("needs", ())))
    if part.get("by") == "student":
        needs -= {Signal.SCORE.value}
    if takes_teachers_top(part) and Signal.JUDGEMENTS in needs:
        needs = needs - {Signal.JUDGEMENTS.value} | {Signal.SCORE.value}
    return needs


def takes_teachers_top(part: Mapping[str, Any]) -> bool:
    """Whether a part's positive is the teacher's."""
    return part.get("positive") == TEACHER_TOP
