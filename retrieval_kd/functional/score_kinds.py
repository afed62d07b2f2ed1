"""Scores of one kind told as another, where there is a way: logits and log-odds are probabilities, similarities not."""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval_kd.contracts import ScoreKind
from retrieval_kd.functional.log_odds import CERTAIN

ODDS = frozenset({ScoreKind.LOGIT, ScoreKind.LOG_ODDS})


def converts(kind: ScoreKind, to: ScoreKind) -> bool:
    """Whether scores of a kind can be told as another."""
    return kind == to or ScoreKind.SIMILARITY not in (kind, to)


def convert(scores: Tensor, kind: ScoreKind, to: ScoreKind) -> Tensor:
    """The same scores as another kind; NaN stays, probabilities are kept off 0 and 1 for their log-odds."""
    if not converts(kind, to):
        raise ValueError(f"there is no way from {kind} to {to}")
    if kind == to or {kind, to} <= ODDS:
        return scores
    return torch.sigmoid(scores) if to is ScoreKind.PROBABILITY else torch.logit(scores, eps=CERTAIN)


def check_threshold(key: str, value: float, kind: ScoreKind) -> None:
    """Refuse, with a ValueError, a threshold that no score of the kind can be on either side of."""
    if kind is ScoreKind.PROBABILITY and not 0 < value < 1:
        raise ValueError(f"{key}={value:g}: a threshold of probabilities lies between 0 and 1")
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{key}={value:g}: a threshold is a number")
