"""Labels out of a teacher's scores: pseudo-positives and negatives by two thresholds, and an account of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from retrieval_kd.contracts import DARK_ROLES, Role, ScoreKind
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.functional.score_kinds import check_threshold, convert, converts

KEEP, IGNORE = "keep", "ignore"


@dataclass
class LabelStatistics:
    """Where every candidate went; kept and dropped ones are all that there were."""

    queries: int = 0
    judged: int = 0  # queries whose positives are judged ones
    pseudo_labelled: int = 0  # queries with a pseudo-positive
    without_positive: int = 0  # queries that have neither, and are left out
    without_negatives: int = 0  # queries that are kept, with nothing but positives
    positives: int = 0
    pseudo_positives: int = 0
    negatives: int = 0
    made: int = 0  # dark passages, which get no label and keep their scores
    uncertain: int = 0  # dropped: between the thresholds
    above: int = 0  # dropped: above the upper one, and neither judged nor among the first
    unscored: int = 0  # dropped: a member gave no score
    unfound: int = 0  # dropped: judged positives that no run found, where judgements are ignored
    of_dropped_queries: int = 0

    def as_dict(self) -> dict[str, int]:
        """All counts by name."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What happened, for a log."""
        return [
            f"{self.queries} queries: {self.judged} with judged, {self.pseudo_labelled} with pseudo-positives,"
            f" {self.without_positive} left out without either; {self.without_negatives} have no negative",
            f"kept {self.positives} positives, {self.pseudo_positives} pseudo-positives, {self.negatives} negatives,"
            f" {self.made} made passages; dropped {self.uncertain} between the thresholds, {self.above} above,"
            f" {self.unscored} without a score, {self.unfound} that only judgements know of,"
            f" {self.of_dropped_queries} of queries that are left out",
        ]


class Thresholds:
    """RocketQA's rule (https://arxiv.org/abs/2010.08191): what scores high is relevant, what scores low is not.

    A query's judged positives stay, and it gets no others. The best passage above ``positive`` of any other query is
    its pseudo-positive; without one, the query is left out. Dark passages get no label.

    Args:
        members: What the teacher's raw scores mean, by member.
        judged: ``keep``, or ``ignore``: judged positives are passages like any other.
        member: Of a teacher with several; None: all must agree.
        kind: What the thresholds are of; raw scores are told as that.
        positive: Above it, a passage may be a pseudo-positive.
        negative: Below it, a passage is a negative.
        positives: Most pseudo-positives of a query.
    """

    def __init__(
        self,
        members: Mapping[str, str | None],
        judged: str,
        member: str | None,
        kind: str,
        positive: float,
        negative: float,
        positives: int,
    ) -> None:
        if judged not in (KEEP, IGNORE):
            raise ValueError(f"labels.judged is {KEEP} or {IGNORE}, got {judged}")
        if kind not in list(ScoreKind):
            raise ValueError(f"labels.kind is {', '.join(ScoreKind)}, got {kind}")
        if member is not None and member not in members:
            raise ValueError(f"labels.member={member}: the teacher has {', '.join(members)}")
        if not negative < positive:
            raise ValueError(
                f"labels.negative={negative:g} is not below labels.positive={positive:g}: negatives score below the"
                " first and positives above the second"
            )
        if positives < 1:
            raise ValueError(f"labels.positives must be at least 1, got {positives}")
        for name, value in (("positive", positive), ("negative", negative)):
            check_threshold(f"labels.{name}", value, ScoreKind(kind))
        self.ignores_judgements = judged == IGNORE
        self.kind = ScoreKind(kind)
        self.rows = [row for row, name in enumerate(members) if member in (None, name)]
        self.raw = [_convertible(name, members[name], self.kind) for name in members if member in (None, name)]
        if self.kind is ScoreKind.SIMILARITY and len(self.rows) > 1:
            raise ValueError(
                f"labels.positive={positive:g} is one threshold for the similarities of {', '.join(members)}, whose"
                f" scales differ; labels.member={list(members)[-1]} would fit"
            )
        self.positive, self.negative, self.positives = positive, negative, positives

    def label(self, candidates: Candidates, members: np.ndarray) -> tuple[Candidates, np.ndarray, LabelStatistics]:
        """Labelled candidates, which rows [n] of the given ones they are, and where the others went.

        Args:
            candidates: As they were found.
            members: Raw scores [M, n] of each member.
        """
        scores = self._told(members)
        made, judged = np.isin(candidates.role, DARK_ROLES), candidates.role == Role.POSITIVE
        if self.ignores_judgements:
            judged = np.zeros_like(judged)
        unfound = (
            (candidates.role == Role.POSITIVE) & (candidates.rank == 0) & ~judged
        )  # judgements alone know of these
        free = ~made & ~judged & ~unfound
        above, below = free & (scores > self.positive).all(0), free & (scores < self.negative).all(0)
        query = np.repeat(np.arange(len(candidates.query_ids)), np.diff(candidates.offsets))
        has_judged = np.bincount(query[judged], minlength=len(candidates.query_ids)) > 0
        pseudo = self._best(above & ~has_judged[query], scores.mean(0), query)
        positive = np.bincount(query[judged | pseudo], minlength=len(candidates.query_ids)) > 0
        kept = (judged | pseudo | below | made) & positive[query]
        role = np.where(
            pseudo,
            Role.PSEUDO_POSITIVE,
            np.where(below & (candidates.role == Role.POSITIVE), Role.HARD, candidates.role),
        )
        statistics = self._account(kept, positive, query, {"judged": judged, "pseudo": pseudo, "made": made})
        left = free & ~kept & positive[query]
        statistics.unscored = int((left & np.isnan(scores).any(0)).sum())
        statistics.above = int((left & above).sum())
        statistics.unfound = int((unfound & positive[query]).sum())
        statistics.uncertain = int(left.sum()) - statistics.unscored - statistics.above
        labelled = replace(candidates, role=role.astype(np.int8)).keep(kept)
        return _without_empty(labelled), np.flatnonzero(kept), statistics

    def _told(self, members: np.ndarray) -> np.ndarray:
        """The scores of the members that decide [m, n], as the kind of the thresholds."""
        told = [
            convert(torch.from_numpy(members[row]), raw, self.kind).numpy()
            for row, raw in zip(self.rows, self.raw, strict=True)
        ]
        return np.stack(told)

    def _best(self, above: np.ndarray, scores: np.ndarray, query: np.ndarray) -> np.ndarray:
        """The first rows of each query by score, of equal ones those that stand first."""
        rows = np.flatnonzero(above)
        order = rows[np.lexsort((rows, -scores[rows], query[rows]))]
        _, first, sizes = np.unique(query[order], return_index=True, return_counts=True)
        place = np.arange(len(order)) - np.repeat(first, sizes)
        best = np.zeros_like(above)
        best[order[place < self.positives]] = True
        return best

    @staticmethod
    def _account(
        kept: np.ndarray, positive: np.ndarray, query: np.ndarray, kinds: Mapping[str, np.ndarray]
    ) -> LabelStatistics:
        count = len(positive)

        def queries(rows: np.ndarray) -> np.ndarray:
            return np.asarray(np.bincount(query[rows], minlength=count) > 0)

        negatives = kept & ~kinds["judged"] & ~kinds["pseudo"] & ~kinds["made"]
        return LabelStatistics(
            queries=count,
            judged=int(queries(kinds["judged"]).sum()),
            pseudo_labelled=int(queries(kinds["pseudo"]).sum()),
            without_positive=int((~positive).sum()),
            without_negatives=int((positive & ~queries(negatives)).sum()),
            positives=int((kept & kinds["judged"]).sum()),
            pseudo_positives=int(kinds["pseudo"].sum()),
            negatives=int(negatives.sum()),
            made=int((kept & kinds["made"]).sum()),
            of_dropped_queries=int((~positive[query]).sum()),
        )


def _convertible(name: str, raw: str | None, kind: ScoreKind) -> ScoreKind:
    if raw is None:
        raise ValueError(f"labels reads the raw scores of {name}, and its option does not say their score_kind")
    if not converts(ScoreKind(raw), kind):
        raise ValueError(
            f"labels.kind={kind}, and the teacher's member {name} gives {raw}; labels.kind={raw} with thresholds on"
            " that scale, or a teacher of logits such as scorer=cross_encoder, would fit"
        )
    return ScoreKind(raw)


def _without_empty(candidates: Candidates) -> Candidates:
    """Without the queries that have no candidate."""
    sizes = np.diff(candidates.offsets)
    names = [name for name, size in zip(candidates.query_ids, sizes.tolist(), strict=True) if size]
    return replace(candidates, query_ids=names, offsets=np.concatenate([[0], np.cumsum(sizes[sizes > 0])]))
