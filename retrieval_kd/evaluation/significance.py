"""Whether a difference between two systems on the same queries is real: paired tests, intervals, effect sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from retrieval_kd.contracts import UserError

PerQuery = Mapping[str, float]
CHUNK = 4_000_000  # numbers held at once while resampling
SAME = 1e-9  # two values of a measure that differ by less are a tie
LEVEL, POWER = 0.05, 0.8  # of a test that is asked which difference it could show; the usual ones


class PairedTest(StrEnum):
    """How the p-value is computed; both are two-sided and paired."""

    RANDOMISATION = "randomisation"  # of the signs of the differences; assumes no distribution
    T = "t"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One system against another, query by query; positive differences favour ``name``."""

    name: str
    baseline: str
    queries: int
    means: tuple[float, float]  # of name, of baseline
    difference: float
    interval: tuple[float, float]  # of the difference: 95 %, bootstrap over queries, percentiles
    effect_size: float  # Cohen's d_z: the difference in standard deviations of the differences
    wins: int
    ties: int
    losses: int
    test: PairedTest
    p: float
    p_corrected: float  # equals p until the comparison is corrected as part of a family
    spread: float  # standard deviation of the differences by query
    detectable: float  # the smallest true difference that so many queries would show, see ``detectable``


def compare(
    baseline: PerQuery,
    others: Mapping[str, PerQuery],
    baseline_name: str = "baseline",
    test: PairedTest = PairedTest.RANDOMISATION,
) -> list[Comparison]:
    """Compare each of ``others`` with ``baseline``, p-values corrected over all of them."""
    return corrected([paired(values, baseline, (name, baseline_name), test) for name, values in others.items()])


def paired(
    values: PerQuery,
    baseline: PerQuery,
    names: tuple[str, str],
    test: PairedTest = PairedTest.RANDOMISATION,
    seed: int = 0,
) -> Comparison:
    """Compare two systems that were measured on the same queries; ``names`` are theirs, in this order."""
    test = PairedTest(test)
    differences = _differences(values, baseline, names)
    spread = float(differences.std(ddof=1))
    mean = float(differences.mean())
    p = randomisation_test(differences, seed) if test is PairedTest.RANDOMISATION else t_test(differences)
    wins, losses = int((differences > SAME).sum()), int((differences < -SAME).sum())
    return Comparison(
        name=names[0],
        baseline=names[1],
        queries=len(differences),
        means=(float(np.mean(list(values.values()))), float(np.mean(list(baseline.values())))),
        difference=mean,
        interval=bootstrap_interval(differences, seed),
        effect_size=mean / spread if spread > 0 else math.copysign(math.inf, mean) if mean else 0.0,
        wins=wins,
        ties=len(differences) - wins - losses,
        losses=losses,
        test=test,
        p=p,
        p_corrected=p,
        spread=spread,
        detectable=detectable(spread, len(differences)),
    )


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of comparisons that are read together."""
    adjusted = holm([comparison.p for comparison in family])
    return [
        replace(one, p_corrected=float(p), detectable=detectable(one.spread, one.queries, len(family)))
        for one, p in zip(family, adjusted, strict=True)
    ]


def detectable(spread: float, queries: int, comparisons: int = 1, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference that a paired test would call significant with this power.

    ``(t(1 - level / (2 comparisons)) + t(power)) * spread / sqrt(queries)``, where t are quantiles of Student's
    distribution with queries - 1 degrees of freedom. Of several comparisons the level is that of Holm's first and
    strictest step.

    Args:
        spread: standard deviation of the differences by query.
        queries: how many.
        comparisons: how many are corrected together.
        level: of the two-sided test.
        power: chance that the difference is shown.
    """
    from scipy.special import stdtrit

    freedom = queries - 1
    quantiles = stdtrit(freedom, 1 - level / (2 * comparisons)) + stdtrit(freedom, power)
    return float(quantiles * spread / math.sqrt(queries))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: controls the chance of any false alarm, whatever the dependence."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def t_test(differences: np.ndarray) -> float:
    """Two-sided p of the paired t-test."""
    from scipy.special import stdtr

    if not differences.any():
        return 1.0
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return float(2 * stdtr(len(differences) - 1, -abs(differences.mean()) / error)) if error > 0 else 0.0


def randomisation_test(differences: np.ndarray, seed: int = 0, samples: int = 10_000) -> float:
    """Two-sided p of the paired randomisation test, which flips signs: if systems are alike, each sign is a coin.

    All 2^n flips where these are no more than ``samples``; else a random sample, in which what was observed counts as
    one, so that p is never 0.
    """
    moved = differences[differences != 0]  # a flipped 0 changes nothing
    if not len(moved):
        return 1.0
    exact = 2 ** len(moved) <= samples
    count = 2 ** len(moved) if exact else samples
    observed = abs(moved.sum()) * (1 - 1e-12)  # sums in another order differ in the last digits
    generator = np.random.default_rng(seed)
    extreme = 0
    step = max(1, CHUNK // len(moved))
    for start in range(0, count, step):
        rows = min(step, count - start)
        if exact:
            flipped = ((np.arange(start, start + rows)[:, None] >> np.arange(len(moved))) & 1).astype(np.uint8)
        else:
            bits = np.frombuffer(generator.bytes(rows * -(-len(moved) // 8)), dtype=np.uint8).reshape(rows, -1)
            flipped = np.unpackbits(bits, axis=1, count=len(moved))
        extreme += int((abs(moved.sum() - 2 * (flipped.astype(np.float64) @ moved)) >= observed).sum())
    return extreme / count if exact else (extreme + 1) / (count + 1)


def bootstrap_interval(
    differences: np.ndarray, seed: int = 0, samples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over queries drawn with replacement."""
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // len(differences))
    means = [
        differences[generator.integers(0, len(differences), (min(step, samples - start), len(differences)))].mean(1)
        for start in range(0, samples, step)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _differences(values: PerQuery, baseline: PerQuery, names: tuple[str, str]) -> np.ndarray:
    if values.keys() != baseline.keys():
        alone = sorted(values.keys() ^ baseline.keys())
        whose = names[0] if alone[0] in values else names[1]
        raise UserError(
            f"{names[0]} and {names[1]} were not measured on the same queries: {len(alone)} have only one of them, "
            f"the first is {alone[0]} (only in {whose}); evaluate both on the same collection and split"
        )
    if len(values) < 2:
        raise UserError(f"{names[0]} and {names[1]}: a paired test takes at least two queries, there are {len(values)}")
    return np.array([values[query_id] - baseline[query_id] for query_id in baseline], dtype=np.float64)
