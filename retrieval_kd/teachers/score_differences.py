"""The score teacher's own scores as preferences: the control of every judge of pairs, at no call of a model."""

from __future__ import annotations

import numpy as np

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.functional.log_odds import from_probability

KINDS = ("difference", "probability")


class ScoreDifferences:
    """A ``ScoreJudge``: log-odds of i over j = scale * (score i - score j).

    Args:
        scale: Of the difference: one over a temperature.
        kind: ``difference`` of scores as they are; ``probability`` takes their log-odds first.
    """

    def __init__(self, scale: float, kind: str) -> None:
        if not 0 < scale < float("inf"):
            raise UserError(f"teacher.judge.scale must be a number > 0, got {scale}")
        if kind not in KINDS:
            raise UserError(f"teacher.judge.kind is {' or '.join(KINDS)}, got {kind}")
        self.scale = scale
        self.kind = kind

    @property
    def fingerprint(self) -> str:
        """Its settings; the scores have a teacher of their own."""
        return f"score_differences:{ScoreKind.LOG_ODDS}:{self.kind}:{self.scale:g}"

    def prefer(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """float32 [N]."""
        if self.kind == "probability":
            try:
                left, right = from_probability(left), from_probability(right)
            except ValueError as error:
                raise UserError(
                    f"teacher.judge.kind=probability: the base's {error}; kind=difference would fit"
                ) from None
        return (self.scale * (np.asarray(left, np.float64) - right)).astype(np.float32)
