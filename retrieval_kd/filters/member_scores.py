"""The scores that filters read: raw ones of the teacher's members, or the student's own, on the scale of thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from retrieval_kd.contracts import Evidence, Role, ScoreKind, Signals
from retrieval_kd.functional.score_kinds import convert, converts

STUDENT = "student"
WHOSE = ("teacher", STUDENT)


class MemberScores:
    """Whose scores are read, and what they are told as.

    Args:
        by: ``teacher`` or ``student``.
        member: Of a teacher with several; None reads them all.
        kind: What thresholds are of. Scores that cannot be told as that stay as they are if no threshold is a number.
        members: What the raw scores of the teacher's members mean, by name; None where nobody said.
        numbers: Keys of the thresholds that were given as numbers.
    """

    def __init__(
        self, by: str, member: str | None, kind: str, members: Mapping[str, str | None], numbers: Sequence[str]
    ) -> None:
        if by not in WHOSE:
            raise ValueError(f"filter.by is {' or '.join(WHOSE)}, got {by}")
        if kind not in list(ScoreKind):
            raise ValueError(f"filter.kind is {', '.join(ScoreKind)}, got {kind}")
        if member is not None and (by == STUDENT or member not in members):
            known = "the student has none" if by == STUDENT else f"the teacher has {', '.join(members)}"
            raise ValueError(f"filter.member={member}: {known}")
        raw = {STUDENT: str(ScoreKind.SIMILARITY)} if by == STUDENT else dict(members)
        self.by = by
        self.rows = [number for number, name in enumerate(raw) if member in (None, name)]
        self.names = [name for name in raw if member in (None, name)]
        self.raw = [_known(name, raw[name]) for name in self.names]
        self.kinds = [_told_as(one, ScoreKind(kind)) for one in self.raw]
        if numbers:
            self._refuse_other_scales(ScoreKind(kind), numbers[0])

    def _refuse_other_scales(self, kind: ScoreKind, key: str) -> None:
        """A number is a threshold on one scale; similarities of several members have no common one."""
        for name, raw, told in zip(self.names, self.raw, self.kinds, strict=True):
            if told != kind:
                whose = "the student" if self.by == STUDENT else f"the teacher's member {name}"
                raise ValueError(
                    f"{key} is a threshold of filter.kind={kind}, and {whose} gives {raw}; filter.kind={raw} with a"
                    " threshold on that scale, or a teacher of logits such as scorer=cross_encoder, would fit"
                )
        if kind is ScoreKind.SIMILARITY and len(self.names) > 1:
            raise ValueError(
                f"{key} is one threshold for the similarities of {', '.join(self.names)}, whose scales differ;"
                f" filter.member={self.names[-1]} would fit"
            )

    def __call__(self, evidence: Evidence, signals: Signals) -> Tensor:
        """[M, Q, P], NaN where there is no score; no gradient."""
        if self.by == STUDENT:
            return evidence.query_passage.detach().unsqueeze(0)
        scores = signals.members[self.rows] if len(self.rows) < len(signals.members) else signals.members
        return torch.stack(
            [convert(one, raw, told) for one, raw, told in zip(scores, self.raw, self.kinds, strict=True)]
        )


def own_negatives(signals: Signals) -> Tensor:
    """[Q, P] bool, what stands in each query's own list and may be a hard-label negative."""
    return (signals.role != Role.NONE) & ~signals.positive & ~signals.dark


def _known(name: str, kind: str | None) -> ScoreKind:
    if kind is None:
        raise ValueError(f"filter reads the raw scores of {name}, and its option does not say their score_kind")
    return ScoreKind(kind)


def _told_as(raw: ScoreKind, kind: ScoreKind) -> ScoreKind:
    return kind if converts(raw, kind) else raw
