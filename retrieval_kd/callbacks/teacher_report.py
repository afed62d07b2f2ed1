"""What a teacher's scores are worth, before an hour is spent on learning them.

Plain functions: the report runs as part of a step, before any trainer exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from retrieval_kd.contracts import DARK_ROLES, Role

SATURATED = 0.99  # top probability from which the softmax of a list is one-hot for training
TOO_SHARP, TOO_FLAT = 0.1, 0.95  # normalised entropies between which a softmax tells a list's items apart
GOOD_ENTROPY = 0.5  # what a suggested temperature aims at
DEPTH = 10
MOST_LISTS = 20_000  # a longer input is sampled evenly; the report says how many lists it saw
ENOUGH_LISTS = 1_000  # to find a temperature, which is needed to two digits
OF_JUDGEMENTS = ("judged_lists", "positive_on_top", "pairwise_accuracy", "ndcg", "mrr")


@dataclass(frozen=True)
class TeacherReport:
    """Figures over lists; means leave out lists that they do not apply to, and are NaN when none is left."""

    lists: int  # looked at
    total_lists: int
    judged_lists: int  # with a scored positive and a scored other passage
    temperature: float
    missing: float  # share of passages without a score
    constant: float  # share of lists whose scores are all equal
    deviation: float  # standard deviation within a list, mean
    spread: float  # maximum - minimum, mean
    entropy: float  # of the softmax at the temperature, in nats, mean
    normalised_entropy: float  # divided by log n, mean
    saturated: float  # share of lists whose top probability exceeds SATURATED
    positive_on_top: float  # share of judged lists whose best score is a positive's, ties not counted
    pairwise_accuracy: float  # positive above other passage, ties half, mean over judged lists
    ndcg: float  # at DEPTH, reranking the list; ideal within the list
    mrr: float  # at DEPTH
    suggested_temperature: float | None  # where the mean normalised entropy is GOOD_ENTROPY

    def with_worth_of(self, other: TeacherReport) -> TeacherReport:
        """This report with the other's answers to how well the teacher agrees with judgements."""
        return replace(self, **{name: getattr(other, name) for name in OF_JUDGEMENTS})

    def lines(self) -> list[str]:
        """Log lines."""
        seen = f"{self.lists}" if self.lists == self.total_lists else f"{self.lists} of {self.total_lists}"
        figures = [
            f"teacher: {seen} lists, {self.missing:.1%} of passages unscored, {self.constant:.1%} of lists constant",
            f"teacher: within a list: standard deviation {self.deviation:.3g}, maximum - minimum {self.spread:.3g}",
            f"teacher: softmax at temperature {self.temperature:g}: entropy {self.entropy:.2f} nats"
            f" ({self.normalised_entropy:.0%} of uniform), {self.saturated:.1%} of lists saturated",
        ]
        if not self.judged_lists:
            return [*figures, "teacher: no list is judged: agreement and reranking are unknown"]
        return [
            *figures,
            f"teacher: {self.judged_lists} judged lists: positive on top {self.positive_on_top:.1%},"
            f" above another passage {self.pairwise_accuracy:.1%}",
            f"teacher: reranking its lists: nDCG@{DEPTH} {self.ndcg:.3f}, MRR@{DEPTH} {self.mrr:.3f}",
        ]

    def warnings(self, student_ndcg: float | None = None, softmax: bool = True) -> list[str]:
        """What to change before training.

        ``student_ndcg`` is the student's own reranking of the same lists; ``softmax=False`` where no objective takes
        the teacher's softmax, so that its temperature is nobody's concern.
        """
        advice = ""
        if self.suggested_temperature is not None:
            advice = f"; a teacher temperature of {self.suggested_temperature:.2g} would give {GOOD_ENTROPY:.0%}"
        found = []
        if softmax and (self.saturated > 0.5 or self.normalised_entropy < TOO_SHARP):
            found.append(
                f"the teacher saturates: {self.saturated:.0%} of its lists are one-hot at temperature"
                f" {self.temperature:g} (entropy {self.normalised_entropy:.0%} of uniform){advice}"
            )
        if softmax and self.normalised_entropy > TOO_FLAT:
            found.append(
                f"the teacher hardly tells passages apart at temperature {self.temperature:g}: entropy"
                f" {self.normalised_entropy:.0%} of uniform{advice}"
            )
        if self.constant > 0.1:
            found.append(f"{self.constant:.0%} of the teacher's lists are constant and teach no order")
        if student_ndcg is not None and self.ndcg <= student_ndcg:
            found.append(
                f"the teacher is no better than the student it is to teach: nDCG@{DEPTH} {self.ndcg:.3f} against"
                f" {student_ndcg:.3f} on the same lists"
            )
        return found


def teacher_report(
    scores: np.ndarray,
    roles: np.ndarray,
    offsets: np.ndarray,
    temperature: float,
    relevance: np.ndarray | None = None,
) -> TeacherReport:
    """Report on lists given end to end: list i is ``offsets[i]:offsets[i + 1]``.

    Args:
        scores: Combined teacher scores [N], NaN where there is none.
        roles: ``Role`` of each passage [N]; made passages count for the softmax, not for agreement or reranking.
        offsets: [Q + 1].
        temperature: Of the teacher's softmax in the objective.
        relevance: Graded judgements [N]; 1 for each positive when absent.
    """
    grades = _grades(roles, relevance)
    chosen = _chosen(len(offsets) - 1)
    values = _padded(scores, offsets, chosen, np.nan)
    gains = _padded(grades, offsets, chosen, 0.0)
    made = _padded(np.isin(roles, DARK_ROLES), offsets, chosen, 1.0) > 0
    sizes = np.diff(offsets)[chosen]
    inside = np.arange(values.shape[1]) < sizes[:, None]

    scored = ~np.isnan(values)
    spread = _spread(values, scored)
    told = scored.sum(1) > 1
    varied = told & (spread > 0)
    probabilities, entropy, normalised = _entropies(values, scored, temperature)
    on_top, accuracy = _agreement(values, gains, scored & ~made)
    ndcg, mrr = _reranking(values, gains, inside & ~made)
    return TeacherReport(
        lists=len(chosen),
        total_lists=len(offsets) - 1,
        judged_lists=int((~np.isnan(on_top)).sum()),
        temperature=temperature,
        missing=1 - _mean(scored[inside].astype(float)),
        constant=_mean((spread == 0)[told].astype(float)),
        deviation=_mean(_deviation(values, scored)[told]),
        spread=_mean(spread[told]),
        entropy=_mean(entropy[told]),
        normalised_entropy=_mean(normalised[told]),
        saturated=_mean((probabilities.max(1, initial=0.0) > SATURATED)[told].astype(float)),
        positive_on_top=_mean(on_top),
        pairwise_accuracy=_mean(accuracy),
        ndcg=_mean(ndcg),
        mrr=_mean(mrr),
        suggested_temperature=suggest_temperature(values[varied]),
    )


def reranking_ndcg(
    scores: np.ndarray, roles: np.ndarray, offsets: np.ndarray, relevance: np.ndarray | None = None
) -> float:
    """Mean nDCG of lists ordered by any scores, the student's say, over the very lists that a report looks at."""
    chosen = _chosen(len(offsets) - 1)
    found = np.arange(np.diff(offsets).max(initial=0)) < np.diff(offsets)[chosen][:, None]
    found &= _padded(np.isin(roles, DARK_ROLES), offsets, chosen, 1.0) == 0
    gains = _padded(_grades(roles, relevance), offsets, chosen, 0.0)
    return _mean(_reranking(_padded(scores, offsets, chosen, np.nan), gains, found)[0])


def suggest_temperature(scores: np.ndarray) -> float | None:
    """Temperature at which lists [Q, n] (NaN: no score) have a mean normalised entropy of one half, by bisection.

    Entropy grows with temperature in every list that is not constant; None where ties alone keep it above the aim.
    """
    if not len(scores):
        return None
    scores = scores[:: max(1, len(scores) // ENOUGH_LISTS)]
    scored = ~np.isnan(scores)
    scale = _mean(_spread(scores, scored))
    low, high = np.log(scale * 1e-6), np.log(scale * 1e6)
    for _ in range(50):
        middle = (low + high) / 2
        if _mean(_entropies(scores, scored, float(np.exp(middle)))[2]) < GOOD_ENTROPY:
            low = middle
        else:
            high = middle
    reached = _mean(_entropies(scores, scored, float(np.exp(high)))[2])
    return float(np.exp(high)) if abs(reached - GOOD_ENTROPY) < 0.01 else None


def _grades(roles: np.ndarray, relevance: np.ndarray | None) -> np.ndarray:
    positive = roles == Role.POSITIVE
    return positive.astype(float) if relevance is None else np.where(positive, np.maximum(relevance, 1), 0.0)


def _chosen(lists: int) -> np.ndarray:
    return np.unique(np.linspace(0, lists - 1, min(lists, MOST_LISTS)).astype(np.int64)) if lists else np.zeros(0, int)


def _padded(flat: np.ndarray, offsets: np.ndarray, chosen: Sequence[int] | np.ndarray, fill: float) -> np.ndarray:
    """Chosen lists as rows [Q, n]."""
    sizes = np.diff(offsets)
    rows = np.full((len(chosen), int(sizes.max(initial=0))), fill)
    places = np.asarray(offsets)[chosen][:, None] + np.arange(rows.shape[1])
    inside = np.arange(rows.shape[1]) < sizes[chosen][:, None]
    rows[inside] = np.asarray(flat, dtype=float)[places[inside]]
    return rows


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _spread(values: np.ndarray, scored: np.ndarray) -> np.ndarray:
    high = np.where(scored, values, -np.inf).max(1, initial=-np.inf)
    low = np.where(scored, values, np.inf).min(1, initial=np.inf)
    return np.where(scored.any(1), high - low, np.nan)


def _deviation(values: np.ndarray, scored: np.ndarray) -> np.ndarray:
    count = np.maximum(scored.sum(1, keepdims=True), 1)
    mean = np.where(scored, values, 0.0).sum(1, keepdims=True) / count
    squares = np.where(scored, values - mean, 0.0) ** 2
    return np.sqrt(squares.sum(1) / count[:, 0])


def _entropies(values: np.ndarray, scored: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Softmax probabilities [Q, n], their entropy [Q], and the same divided by log n (NaN for n < 2)."""
    scaled = np.where(scored, values, -np.inf) / temperature
    top = scaled.max(1, keepdims=True, initial=-np.inf)
    exponents = np.where(scored, scaled - np.where(np.isfinite(top), top, 0.0), -np.inf)
    weights = np.exp(exponents)
    total = np.maximum(weights.sum(1, keepdims=True), np.finfo(float).tiny)
    probabilities = weights / total
    # H = log Z - sum p x: exact where a probability underflows to 0, as its x is taken as 0 then.
    entropy = np.log(total[:, 0]) - (probabilities * np.where(probabilities > 0, exponents, 0.0)).sum(1)
    count = scored.sum(1)
    uniform = np.log(np.maximum(count, 2))
    return probabilities, entropy, np.where(count > 1, entropy / uniform, np.nan)


def _agreement(values: np.ndarray, gains: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positive strictly on top [Q], and share of (positive, other) pairs in order, ties half [Q]; NaN: not judged."""
    positive, other = usable & (gains > 0), usable & (gains <= 0)
    judged = positive.any(1) & other.any(1)
    best_positive = np.where(positive, values, -np.inf).max(1, initial=-np.inf)
    best_other = np.where(other, values, -np.inf).max(1, initial=-np.inf)
    wins, pairs = np.zeros(len(values)), positive.sum(1) * other.sum(1)
    for column in range(values.shape[1]):  # one column against all: [Q, n, n] would not fit
        mine = values[:, column : column + 1]
        points = (mine > values) + 0.5 * (mine == values)
        wins += np.where(other, points, 0.0).sum(1) * positive[:, column]
    accuracy = wins / np.maximum(pairs, 1)
    return np.where(judged, best_positive > best_other, np.nan), np.where(judged, accuracy, np.nan)


def _reranking(values: np.ndarray, gains: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NDCG [Q] and reciprocal rank [Q] at DEPTH; NaN without a positive.

    Among equal scores the positive comes last, so that a teacher that says nothing earns nothing; what has no score
    comes after what has one.
    """
    gains = np.where(inside, gains, 0.0)
    ranks = np.where(np.isnan(values), -np.inf, values)
    order = np.lexsort((gains, -ranks, ~inside), axis=-1)[:, :DEPTH]
    ordered = np.take_along_axis(gains, order, 1)
    discounts = 1 / np.log2(np.arange(2, ordered.shape[1] + 2))
    ideal = (-np.sort(-gains, 1)[:, :DEPTH] * discounts).sum(1)
    judged = ideal > 0
    ndcg = (ordered * discounts).sum(1) / np.where(judged, ideal, 1.0)
    relevant = ordered > 0
    reciprocal = np.where(relevant.any(1), 1 / (relevant.argmax(1) + 1), 0.0) if relevant.shape[1] else np.zeros(0)
    return np.where(judged, ndcg, np.nan), np.where(judged, reciprocal, np.nan)
