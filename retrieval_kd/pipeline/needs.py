"""Which signals the parts of a training ask for, and of whom, as they are configured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retrieval_kd.contracts import Signal

TEACHER_TOP = "teacher_top"  # as a term's ``positive``: the passage that the teacher scores highest
LABELS = JUDGEMENTS, SCORES = "judgements", "scores"  # what a teacher that is trained here learns from
OF_TOKENS = frozenset(
    {Signal.ATTENTION.value, Signal.FEATURES.value}
)  # signals of a white box, which reads the student's tokens


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


def own_teachers(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The teachers that terms name for themselves, in place of the training's, by the terms' names."""
    terms = config["objective"].items()
    return {name: term["teacher"] for name, term in terms if isinstance(term.get("teacher"), Mapping)}


def asks_teacher(config: Mapping[str, Any], signals: frozenset[str]) -> bool:
    """Whether some part wants one of these signals from the training's teacher."""
    own = {f"objective.{name}" for name in own_teachers(config)}
    return any(signals & needs_of(part) for path, part in asking(config) if path not in own)


def learned_from(scorer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The teacher whose scores a scorer is trained on here, if it is."""
    train = scorer.get("train") or {}
    return train["teacher"] if train.get("labels") == SCORES and isinstance(train.get("teacher"), Mapping) else None


def takes_teachers_top(part: Mapping[str, Any]) -> bool:
    """Whether a part's positive is the teacher's."""
    return part.get("positive") == TEACHER_TOP
