"""Labels out of a teacher's scores: pseudo-positives and negatives by two thresholds, and an account of the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from retrieval_kd.contracts import DARK_ROLES, Role, ScoreKind
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.functional.score_kinds import check_threshold, convert, converts

KEEP, IGNORE = "keep", "ignore"
COMBINED = "combined"  # as a kind of scores: the teacher's own, as it combines its members over each list

Combine = Callable[[Candidates, np.ndarray], np.ndarray]
"""Candidates and raw scores [M, n] of each member -> the teacher's own scores [n]."""


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
    made_of_others: int = 0  # dropped: dark passages that hold words of what is no positive now
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
            f" {self.unscored} without a score, {self.unfound} that only judgements know of, {self.made_of_others} made"
            " of passages that are no positives,"
            f" {self.of_dropped_queries} of queries that are left out",
        ]


class Thresholds:
    """RocketQA's rule (https://arxiv.org/abs/2010.08191): what scores high is relevant, what scores low is not.

    A query's judged positives stay, and it gets no others. The best passage above ``positive`` of any other query is
    its pseudo-positive; without one, the query is left out. Dark passages get no label, and go with the positive that
    they were made of: where judgements are ignored, its words would tell what was judged.

    Args:
        members: What the teacher's raw scores mean, by member.
        judged: ``keep``, or ``ignore``: judged positives are passages like any other.
        member: Of a teacher with several; None: all must agree.
        kind: What the thresholds are of: raw scores are told as that; ``combined``: of the teacher's own scores.
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
        if kind not in (*ScoreKind, COMBINED):
            raise ValueError(f"labels.kind is {', '.join(ScoreKind)} or {COMBINED}, got {kind}")
        if member is not None and (member not in members or kind == COMBINED):
            told = "combined scores are of all" if kind == COMBINED else f"the teacher has {', '.join(members)}"
            raise ValueError(f"labels.member={member}: {told}")
        if not negative < positive:
            raise ValueError(
                f"labels.negative={negative:g} is not below labels.positive={positive:g}: negatives score below the"
                " first and positives above the second"
            )
        if positives < 1:
            raise ValueError(f"labels.positives must be at least 1, got {positives}")
        self.ignores_judgements = judged == IGNORE
        self.kind = kind
        self.positive, self.negative, self.positives = positive, negative, positives
        self.told = [] if kind == COMBINED else self._of_members(members, member, ScoreKind(kind))

    def _of_members(
        self, members: Mapping[str, str | None], member: str | None, kind: ScoreKind
    ) -> list[tuple[int, ScoreKind]]:
        """Rows of the members that decide, and what their raw scores are."""
        for name, value in (("positive", self.positive), ("negative", self.negative)):
            check_threshold(f"labels.{name}", value, kind)
        decide = [
            (row, _convertible(name, raw, kind))
            for row, (name, raw) in enumerate(members.items())
            if member in (None, name)
        ]
        if kind is ScoreKind.SIMILARITY and len(decide) > 1:
            raise ValueError(
                f"labels.positive={self.positive:g} is one threshold for similarities of {', '.join(members)}, whose"
                f" scales differ; labels.member={list(members)[-1]} would fit"
            )
        return decide

    def label(
        self,
        candidates: Candidates,
        members: np.ndarray,
        made_of: Mapping[str, str] | None = None,
        combine: Combine | None = None,
    ) -> tuple[Candidates, np.ndarray, LabelStatistics]:
        """Labelled candidates, which rows [n] of the given ones they are, and where the others went.

        Args:
            candidates: As they were found.
            members: Raw scores [M, n] of each member.
            made_of: The positive of which each dark passage was made, by their ids.
            combine: The teacher's rule, where thresholds are of its own scores.
        """
        made, judged = np.isin(candidates.role, DARK_ROLES), candidates.role == Role.POSITIVE
        if self.ignores_judgements:
            judged = np.zeros_like(judged)
        # Judgements alone know of these.
        unfound = (candidates.role == Role.POSITIVE) & (candidates.rank == 0) & ~judged
        scores = self._told(members) if self.told else _combined(candidates, members, ~unfound, combine)
        free = ~made & ~judged & ~unfound
        above, below = free & (scores > self.positive).all(0), free & (scores < self.negative).all(0)
        query = np.repeat(np.arange(len(candidates.query_ids)), np.diff(candidates.offsets))
        has_judged = np.bincount(query[judged], minlength=len(candidates.query_ids)) > 0
        pseudo = self._best(above & ~has_judged[query], scores.mean(0), query)
        positive = np.bincount(query[judged | pseudo], minlength=len(candidates.query_ids)) > 0
        fitting = _made_of_positives(candidates, judged | pseudo, query, made_of or {}) if made.any() else made
        kept = (judged | pseudo | below | fitting) & positive[query]
        role = np.where(
            pseudo,
            Role.PSEUDO_POSITIVE,
            np.where(below & (candidates.role == Role.POSITIVE), Role.HARD, candidates.role),
        )
        statistics = self._account(kept, positive, query, {"judged": judged, "pseudo": pseudo, "made": made})
        left = free & ~kept & positive[query]
        statistics.unscored = int((left & np.isnan(scores).any(0)).sum())
        statistics.made_of_others = int((made & ~fitting & positive[query]).sum())
        statistics.above = int((left & above).sum())
        statistics.unfound = int((unfound & positive[query]).sum())
        statistics.uncertain = int(left.sum()) - statistics.unscored - statistics.above
        labelled = replace(candidates, role=role.astype(np.int8)).keep(kept)
        return _without_empty(labelled), np.flatnonzero(kept), statistics

    def _told(self, members: np.ndarray) -> np.ndarray:
        """The scores of the members that decide [m, n], as the kind of the thresholds."""
        kind = ScoreKind(self.kind)
        return np.stack([convert(torch.from_numpy(members[row]), raw, kind).numpy() for row, raw in self.told])

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


def _made_of_positives(
    candidates: Candidates, positive: np.ndarray, query: np.ndarray, made_of: Mapping[str, str]
) -> np.ndarray:
    """Which candidates [n] were made of one of the positives of their query."""
    ids = candidates.passage_ids
    known = {(owner, ids[row]) for row, owner in zip(np.flatnonzero(positive), query[positive], strict=True)}
    found = [(owner, made_of.get(name)) in known for owner, name in zip(query, ids, strict=True)]
    return np.isin(candidates.role, DARK_ROLES) & np.array(found)


def _combined(candidates: Candidates, members: np.ndarray, known: np.ndarray, combine: Combine | None) -> np.ndarray:
    """The teacher's own scores [1, n] over lists without the candidates that nothing but judgements knows of."""
    assert combine is not None
    scores = np.full(len(candidates), np.nan, np.float32)
    scores[known] = combine(_without_empty(candidates.keep(known)), members[:, known])
    return scores[None]
