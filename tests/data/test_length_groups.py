import itertools

import numpy as np
import pytest

from retrieval_kd.data.length_groups import budget_groups, plan_groups


def cost(lengths, groups, overhead):
    return sum((end - start) * lengths[end - 1] + overhead for start, end in groups)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("overhead", [0, 7, 50])
def test_plan_costs_as_little_as_any_cut(seed, overhead):
    lengths = np.sort(np.random.default_rng(seed).integers(1, 30, size=9))
    cheapest = min(
        cost(lengths, list(itertools.pairwise([0, *cuts, 9])), overhead)
        for count in range(9)
        for cuts in itertools.combinations(range(1, 9), count)
    )
    groups = plan_groups(lengths, overhead)
    assert cost(lengths, groups, overhead) == cheapest
    assert [start for start, _ in groups] == [0, *(end for _, end in groups[:-1])]
    assert groups[-1][1] == 9


def test_no_texts_no_groups():
    assert plan_groups(np.array([], dtype=np.int64), 5) == []
    assert budget_groups(np.array([], dtype=np.int64), 5) == []


def test_budget_holds_and_groups_are_as_large_as_it_allows():
    lengths = np.sort(np.random.default_rng(0).integers(1, 40, size=200))
    groups = budget_groups(lengths, 100)
    for start, end in groups:
        assert (end - start) * lengths[end - 1] <= 100
        assert end == 200 or (end + 1 - start) * lengths[end] > 100
    assert list(itertools.chain.from_iterable(range(*group) for group in groups)) == list(range(200))


def test_a_text_longer_than_the_budget_is_a_group_of_its_own():
    assert budget_groups(np.array([3, 500]), 100) == [(0, 1), (1, 2)]
