import numpy as np
import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.data.pairs import ScoredList
from retrieval_kd.pairs.closest import ClosestPairs
from retrieval_kd.pairs.disagreement import DisagreementPairs
from retrieval_kd.pairs.uniform import UniformPairs
from retrieval_kd.pairs.window import WindowPairs

SAMPLERS = [
    (WindowPairs, {"window": 3}),
    (UniformPairs, {}),
    (DisagreementPairs, {}),
    (ClosestPairs, {"among": 3}),
]


@pytest.fixture
def scored():
    """Twelve passages, two without a score; the run's order is not the teacher's, two are not in it."""
    generator = np.random.default_rng(4)
    scores = generator.normal(size=12).astype(np.float32)
    scores[[3, 7]] = np.nan
    rank = generator.permutation(12) + 1
    rank[[0, 5]] = 0
    return ScoredList(scores, rank.astype(np.int32), np.zeros(12, bool))


def ranked(scored):
    return sorted((i for i in range(12) if scored.scores[i] == scored.scores[i]), key=lambda i: -scored.scores[i])


def everything(sampler, settings, scored, top=12):
    return [tuple(pair) for pair in sampler(per_query=1000, top=top, seed=0, **settings).draw("q", scored).tolist()]


@pytest.mark.parametrize(("sampler", "settings"), SAMPLERS)
def test_pairs_are_distinct_scored_and_the_better_one_comes_first(sampler, settings, scored):
    for number in range(20):
        found = sampler(per_query=5, top=8, seed=number, **settings).draw("q", scored).tolist()
        assert len(found) == 5
        assert len({frozenset(pair) for pair in found}) == 5
        for i, j in found:
            assert scored.scores[i] > scored.scores[j]
            assert {i, j} <= set(ranked(scored)[:8])


@pytest.mark.parametrize(("sampler", "settings"), SAMPLERS)
def test_the_draw_is_one_of_seed_and_query(sampler, settings, scored):
    draw = [
        sampler(per_query=3, top=12, seed=seed, **settings).draw(query, scored).tolist()
        for seed, query in ((1, "a"), (1, "a"), (2, "a"), (1, "b"))
    ]
    assert draw[0] == draw[1]
    assert draw[0] != draw[2] or draw[0] != draw[3]


def test_a_window_is_of_ranks(scored):
    order = ranked(scored)
    expected = {(order[a], order[b]) for a in range(10) for b in range(a + 1, min(a + 4, 10))}
    assert set(everything(WindowPairs, {"window": 3}, scored)) == expected


def test_uniform_takes_any_two_of_the_top(scored):
    order = ranked(scored)
    expected = {(order[a], order[b]) for a in range(6) for b in range(a + 1, 6)}
    assert set(everything(UniformPairs, {}, scored, top=6)) == expected
    seen = {tuple(p) for s in range(300) for p in UniformPairs(2, 6, s).draw("q", scored).tolist()}
    assert seen == expected


def test_disagreement_is_with_the_run(scored):
    order = ranked(scored)
    rank = [one or 999 for one in scored.rank.tolist()]
    expected = {(order[a], order[b]) for a in range(10) for b in range(a + 1, 10) if rank[order[a]] > rank[order[b]]}
    assert set(everything(DisagreementPairs, {}, scored)) == expected
    agreeing = scored._replace(rank=np.argsort(np.argsort(-scored.scores)) + 1)
    assert everything(DisagreementPairs, {}, agreeing) == []


def test_of_made_passages_the_run_says_nothing(scored):
    """They have no rank because no run could list them, not because it did not find them."""
    order = ranked(scored)
    made = np.zeros(12, bool)
    made[order[:2]] = True
    found = everything(DisagreementPairs, {}, scored._replace(rank=np.where(made, 0, scored.rank), made=made))
    whole = everything(DisagreementPairs, {}, scored)
    assert set(found) == {pair for pair in whole if not made[list(pair)].any()}
    assert 0 < len(found) < len(whole)
    assert any(made[list(pair)].any() for pair in everything(UniformPairs, {}, scored._replace(made=made)))


def test_the_closest_are_of_the_smallest_differences(scored):
    gaps = {(i, j): scored.scores[i] - scored.scores[j] for i, j in everything(UniformPairs, {}, scored)}
    closest = set(sorted(gaps, key=gaps.get)[:6])
    seen = {tuple(p) for s in range(100) for p in ClosestPairs(2, 12, s, among=3).draw("q", scored).tolist()}
    assert seen == closest


def test_short_lists_give_what_they_have():
    one = ScoredList(np.array([1.0, np.nan], np.float32), np.array([1, 2]), np.zeros(2, bool))
    two = one._replace(scores=np.array([1.0, 1.0], np.float32))
    for sampler, settings in SAMPLERS:
        assert sampler(per_query=3, top=9, seed=0, **settings).draw("q", one).shape == (0, 2)
    assert UniformPairs(3, 9, 0).draw("q", two).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("sampler", "settings", "key"),
    [
        (WindowPairs, {"window": 0}, "window"),
        (ClosestPairs, {"among": 0}, "among"),
        (UniformPairs, {"per_query": 0}, "per_query"),
        (UniformPairs, {"top": 1}, "top"),
    ],
)
def test_bad_settings_are_refused(sampler, settings, key):
    with pytest.raises(UserError, match=rf"pairs\.{key} must be at least"):
        sampler(**{"per_query": 2, "top": 4, "seed": 0} | settings)
