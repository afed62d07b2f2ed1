import itertools

import numpy as np
import pytest
from scipy import stats

from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation.significance import (
    PairedTest,
    bootstrap_interval,
    compare,
    corrected,
    detectable,
    holm,
    paired,
    randomisation_test,
    t_test,
)


def by_query(values):
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def test_t_test_is_that_of_scipy():
    generator = np.random.default_rng(0)
    for size in (2, 3, 30, 500):
        first, second = generator.normal(0.1, 1, size), generator.normal(0, 1, size)
        assert t_test(first - second) == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-9)


@pytest.mark.parametrize(
    "differences", [[0.1, 0.2, -0.05, 0.3, 0, 0.1], [1, 1, 1, 1], [0.5], [0.1, -0.1, 0.2, -0.2, 0.3]]
)
def test_few_queries_are_enumerated(differences):
    observed = abs(sum(differences))
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    assert randomisation_test(np.array(differences)) == np.mean([abs(total) >= observed - 1e-9 for total in sums])


def test_sampled_signs_agree_with_enumeration_and_are_seeded():
    differences = np.random.default_rng(3).normal(0.25, 1, 12)
    exact = randomisation_test(differences)
    sampled = randomisation_test(differences, samples=4000)
    assert 0.05 < exact < 0.95
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4000))
    assert sampled == randomisation_test(differences, samples=4000)
    assert sampled != randomisation_test(differences, seed=1, samples=4000)


def test_many_queries_agree_with_the_t_test():
    differences = np.random.default_rng(1).normal(0.02, 0.3, 900)
    assert randomisation_test(differences) == pytest.approx(t_test(differences), abs=0.02)
    assert randomisation_test(differences + 1) == 1 / 10_001


def test_no_difference_at_all():
    (comparison,) = compare(by_query([0.1, 0.2]), {"same": by_query([0.1, 0.2])})
    assert (comparison.p, comparison.p_corrected, comparison.difference, comparison.effect_size) == (1, 1, 0, 0)
    assert comparison.interval == (0, 0)
    assert (comparison.wins, comparison.ties, comparison.losses) == (0, 2, 0)
    assert t_test(np.zeros(3)) == 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm([0.2]).tolist() == [0.2]


def test_interval_is_the_normal_one_for_many_queries():
    differences = np.random.default_rng(2).normal(0.1, 0.5, 2000)
    low, high = bootstrap_interval(differences)
    half = 1.96 * differences.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=half * 0.05)
    assert (low, high) == bootstrap_interval(differences)


def test_a_comparison():
    values, baseline = by_query([0.5, 0.7, 0.2, 0.4]), by_query([0.4, 0.4, 0.2, 0.5])
    shuffled = dict(reversed(values.items()))
    comparison = paired(shuffled, baseline, ("new", "old"))
    assert (comparison.name, comparison.baseline, comparison.queries) == ("new", "old", 4)
    assert comparison.means == pytest.approx((0.45, 0.375))
    assert comparison.difference == pytest.approx(0.075)
    assert comparison.effect_size == pytest.approx(0.075 / np.std([0.1, 0.3, 0, -0.1], ddof=1))
    assert (comparison.wins, comparison.ties, comparison.losses) == (2, 1, 1)
    assert comparison.interval[0] <= comparison.difference <= comparison.interval[1]
    assert (
        comparison.p == 0.75
    )  # of the eight flips of .1 .3 -.1 only +++ and ++- and their mirrors reach .3 or more: 6
    assert paired(values, baseline, ("new", "old"), "t").test is PairedTest.T
    assert paired(values, baseline, ("new", "old"), "t").p == pytest.approx(
        stats.ttest_rel(list(values.values()), list(baseline.values())).pvalue
    )


def test_a_family_is_corrected_together():
    generator = np.random.default_rng(5)
    baseline = generator.normal(0, 1, 40)
    others = {f"s{i}": by_query(baseline + generator.normal(0.1 * i, 0.5, 40)) for i in range(4)}
    comparisons = compare(by_query(baseline), others, "base")
    assert [comparison.name for comparison in comparisons] == list(others)
    assert [c.p_corrected for c in comparisons] == pytest.approx(holm([c.p for c in comparisons]).tolist())
    assert corrected(comparisons[:1])[0].p_corrected == comparisons[0].p


def test_other_queries_are_refused():
    with pytest.raises(
        UserError, match=r"new and old were not measured on the same queries.*first is q2 \(only in new\)"
    ):
        paired(by_query([1, 2, 3]), by_query([1, 2]), ("new", "old"))
    with pytest.raises(UserError, match="at least two"):
        paired(by_query([1]), by_query([2]), ("new", "old"))


@pytest.mark.parametrize(("queries", "comparisons"), [(12, 1), (60, 1), (60, 5)])
def test_a_difference_of_the_detectable_size_is_shown_four_times_in_five(queries, comparisons):
    """By simulation: in that share of experiments p is below the level of Holm's first step."""
    size = detectable(0.3, queries, comparisons)
    differences = np.random.default_rng(7).normal(size, 0.3, (3000, queries))
    shown = np.mean([t_test(one) < 0.05 / comparisons for one in differences])
    assert shown == pytest.approx(0.8, abs=0.04 if queries < 20 else 0.025)


def test_what_could_be_shown_is_told_with_a_comparison():
    generator = np.random.default_rng(8)
    baseline = generator.normal(0, 1, 40)
    others = {f"s{i}": by_query(baseline + generator.normal(0, 0.5, 40)) for i in range(3)}
    comparisons = compare(by_query(baseline), others, "base")
    for name, one in zip(others, comparisons, strict=True):
        spread = np.std(np.array(list(others[name].values())) - baseline, ddof=1)
        assert one.spread == pytest.approx(spread)
        assert one.detectable == pytest.approx(detectable(spread, 40, 3))
        quantiles = stats.t.ppf([1 - 0.05 / 6, 0.8], 39).sum()
        assert one.detectable == pytest.approx(quantiles * spread / np.sqrt(40))
    assert detectable(0.3, 400) == pytest.approx(detectable(0.3, 100) / 2, rel=0.02)
    assert detectable(0.0, 10) == 0
