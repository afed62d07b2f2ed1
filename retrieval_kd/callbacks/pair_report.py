"""What a judge of pairs is worth, before anything is learned from it: plain functions, as for the score teacher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class JudgedPairs:
    """Pairs of passages with what is known of them; rows of a query may stand anywhere."""

    query: np.ndarray  # [K] int
    left: np.ndarray  # [K] int, what names passage i
    right: np.ndarray  # [K] int, what names passage j
    forward: np.ndarray  # [K] log-odds of i over j, i read first
    backward: np.ndarray  # [K] log-odds of i over j, j read first; NaN where it was not read so
    scores: np.ndarray  # [2, K] the score teacher's, of i and of j; NaN where it gave none
    grades: np.ndarray  # [2, K] relevance, 0 where nobody judged; NaN of what nobody could judge

    @property
    def log_odds(self) -> np.ndarray:
        """[K] of both orders where there are both."""
        return np.where(np.isnan(self.backward), self.forward, (self.forward + self.backward) / 2)


@dataclass(frozen=True)
class PairReport:
    """Figures over pairs; NaN where nothing is left to count."""

    pairs: int
    queries: int
    read_twice: int
    consistent: float  # share of pairs read twice whose better passage is the same either way
    order_bias: float  # log-odds that standing first is worth, mean over them
    certainty: float  # probability of the preferred passage, mean
    disagreement: float  # share of pairs that the score teacher, where it says anything, orders the other way
    triangles: int  # three passages of a query, all three pairs of which were judged
    violations: float  # share of triangles that go round: a over b over c over a
    judged_pairs: int  # of unequal grades, both with a score
    accuracy: float  # the better grade preferred, ties half
    base_accuracy: float  # the same of the score teacher, on the same pairs
    only_judge_right: int  # of the judged pairs: what a paired test is made of
    only_base_right: int

    def lines(self) -> list[str]:
        """Log lines."""
        found = [
            f"judge: {self.pairs:,} pairs of {self.queries:,} queries; the score teacher orders"
            f" {self.disagreement:.1%} the other way; the preferred passage has probability {self.certainty:.2f}"
        ]
        if self.read_twice:
            found.append(
                f"judge: read in both orders: {self.read_twice:,} pairs, {self.consistent:.1%} consistent; standing"
                f" first is worth {self.order_bias:+.2f} in log-odds"
            )
        if self.triangles:
            found.append(f"judge: {self.triangles:,} triangles, {self.violations:.1%} go round")
        if self.judged_pairs:
            found.append(
                f"judge: right in {self.accuracy:.1%} of {self.judged_pairs:,} judged pairs, the score teacher in"
                f" {self.base_accuracy:.1%} of the same ({self.only_judge_right:,} only the one,"
                f" {self.only_base_right:,} only the other)"
            )
        return found

    def warnings(self) -> list[str]:
        """What to know before training on them."""
        found = []
        if self.read_twice and self.consistent < 0.6:
            found.append(
                f"the judge contradicts itself in {1 - self.consistent:.0%} of the pairs when they are swapped: it"
                " hardly reads them"
            )
        differs = self.only_judge_right or self.only_base_right  # unlike the scores themselves turned into pairs
        if differs and self.accuracy <= self.base_accuracy:
            found.append(
                f"the judge of pairs is no better than the score teacher: {self.accuracy:.1%} against"
                f" {self.base_accuracy:.1%} of {self.judged_pairs} judged pairs"
            )
        return found


def pair_report(pairs: JudgedPairs) -> PairReport:
    """Figures of judged pairs."""
    log_odds = pairs.log_odds
    twice = ~np.isnan(pairs.backward)
    forward, backward = pairs.forward[twice], pairs.backward[twice]
    by_score = np.sign(pairs.scores[0] - pairs.scores[1])
    by_grade = np.sign(pairs.grades[0] - pairs.grades[1])
    scored = ~np.isnan(by_score)
    judged = scored & ~np.isnan(by_grade) & (by_grade != 0)  # where there is no score, nothing can be compared
    right = _agreement(np.sign(log_odds), by_grade)[judged]
    base_right = _agreement(by_score, by_grade)[judged]
    triangles, round_ones = count_triangles(pairs.query, pairs.left, pairs.right, log_odds)
    return PairReport(
        pairs=len(log_odds),
        queries=len(np.unique(pairs.query)),
        read_twice=int(twice.sum()),
        consistent=_mean(np.sign(forward) == np.sign(backward)),
        order_bias=_mean((forward - backward) / 2),
        certainty=_mean((1 + np.tanh(np.abs(log_odds) / 2)) / 2),
        disagreement=_mean((np.sign(log_odds) * by_score < 0)[scored]),
        triangles=triangles,
        violations=round_ones / triangles if triangles else float("nan"),
        judged_pairs=int(judged.sum()),
        accuracy=_mean(right),
        base_accuracy=_mean(base_right),
        only_judge_right=int((right > base_right).sum()),
        only_base_right=int((base_right > right).sum()),
    )


def count_triangles(query: np.ndarray, left: np.ndarray, right: np.ndarray, log_odds: np.ndarray) -> tuple[int, int]:
    """Triangles of judged pairs within queries, and how many of them go round; a tie breaks the round."""
    triangles = round_ones = 0
    order = np.argsort(query, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(query[order])) + 1):
        above: dict[tuple[int, int], float] = {}
        beside: dict[int, set[int]] = {}
        for i, j, odds in zip(left[rows].tolist(), right[rows].tolist(), log_odds[rows].tolist(), strict=True):
            above[i, j], above[j, i] = odds, -odds
            beside.setdefault(i, set()).add(j)
            beside.setdefault(j, set()).add(i)
        for a, neighbours in beside.items():
            for b in neighbours:
                for c in neighbours & beside[b] if a < b else ():
                    if b < c:
                        triangles += 1
                        round_ones += abs(sum(np.sign([above[a, b], above[b, c], above[c, a]]))) == 3
    return triangles, int(round_ones)


def _agreement(said: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """1 where signs agree, a half for who says nothing, else 0."""
    return np.where(said == 0, 0.5, (said == truth).astype(float))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
