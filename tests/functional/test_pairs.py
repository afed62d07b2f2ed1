"""Against loops over pairs in float64, and the identity with soft binary cross-entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from retrieval_kd.functional.pairs import (
    bernoulli_kl,
    differences,
    mean_of_each_query,
    mean_over_pairs,
    ordered_pairs,
    ranknet,
)

NAN = float("nan")


@pytest.fixture
def case():
    """Scores [5, 9], 30 pairs of queries 0 to 3, log-odds, weights; queries differ in their number of pairs."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(5, 9, generator=generator) * 3
    query = torch.randint(0, 4, (30,), generator=generator).sort().values
    left = torch.randint(0, 9, (30,), generator=generator)
    right = (left + torch.randint(1, 9, (30,), generator=generator)) % 9
    log_odds = torch.randn(30, generator=generator) * 4
    weight = torch.rand(5, generator=generator)
    return scores, torch.stack([query, left, right], 1), log_odds, weight


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def loop(scores, pairs, log_odds):
    """As one writes it down, pair by pair, in float64."""
    losses = []
    for (q, i, j), odds in zip(pairs.tolist(), log_odds.double().tolist(), strict=True):
        s_i, s_j = scores[q, i].double().exp(), scores[q, j].double().exp()
        student = s_i / (s_i + s_j)
        p = sigmoid(odds)
        losses.append(p * torch.log(p / student) + (1 - p) * torch.log((1 - p) / (1 - student)))
    return torch.stack(losses)


def test_it_is_the_loop_over_pairs_with_its_gradient(case):
    scores, pairs, log_odds, _ = case
    mine, its = scores.clone().requires_grad_(), scores.double().requires_grad_()
    losses, expected = bernoulli_kl(differences(mine, pairs), log_odds), loop(its, pairs, log_odds)
    assert (losses - expected).abs().max() < 1e-6 * expected.max()
    losses.mean().backward()
    expected.mean().backward()
    assert (mine.grad - its.grad).abs().max() < 1e-6


def test_it_is_the_soft_cross_entropy_less_the_teachers_entropy(case):
    scores, pairs, log_odds, _ = case
    mine, its = scores.double().requires_grad_(), scores.double().requires_grad_()
    query, left, right = pairs.T
    p = torch.sigmoid(log_odds.double())
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    soft = F.binary_cross_entropy_with_logits(its[query, left] - its[query, right], p, reduction="none")
    losses = bernoulli_kl(differences(mine, pairs).double(), log_odds.double())
    assert (losses - (soft - entropy)).abs().max() < 1e-6
    losses.mean().backward()
    soft.mean().backward()
    assert (mine.grad - its.grad).abs().max() < 1e-6


def test_equal_preferences_cost_nothing_and_extremes_are_finite():
    log_odds = torch.tensor([0.0, 3.0, -50.0, 200.0])
    assert bernoulli_kl(log_odds, log_odds).tolist() == [0.0] * 4
    far = bernoulli_kl(torch.tensor([200.0, -200.0]), torch.tensor([-200.0, 200.0]))
    assert far.tolist() == [200.0, 200.0]


def test_golden():
    """0.8 against 0.6 by hand: .8 ln(.8/.6) + .2 ln(.2/.4)."""
    odds = [torch.tensor(math.log(p / (1 - p))) for p in (0.6, 0.8)]
    assert bernoulli_kl(*odds).item() == pytest.approx(0.0915162218, abs=1e-6)


def test_swapping_both_changes_nothing(case):
    scores, pairs, log_odds, _ = case
    swapped = pairs[:, [0, 2, 1]]
    torch.testing.assert_close(
        bernoulli_kl(differences(scores, swapped), -log_odds), bernoulli_kl(differences(scores, pairs), log_odds)
    )


def test_means_are_those_of_loops(case):
    _, pairs, losses, weight = case
    losses = losses.abs()
    queries = pairs[:, 0].tolist()
    over_pairs = sum(loss * weight[q].item() for q, loss in zip(queries, losses.tolist(), strict=True)) / len(queries)
    assert mean_over_pairs(losses, pairs, weight).item() == pytest.approx(over_pairs, rel=1e-6)
    present = sorted(set(queries))
    assert len(present) < len(weight)
    own = {q: [loss for other, loss in zip(queries, losses.tolist(), strict=True) if other == q] for q in present}
    assert len({len(found) for found in own.values()}) > 1
    of_queries = sum(weight[q].item() * sum(found) / len(found) for q, found in own.items()) / len(present)
    assert mean_of_each_query(losses, pairs, weight).item() == pytest.approx(of_queries, rel=1e-6)
    assert over_pairs != pytest.approx(of_queries)


@pytest.mark.parametrize("mean", [mean_over_pairs, mean_of_each_query])
def test_no_pair_is_zero_with_a_gradient(mean):
    scores = torch.randn(2, 3, requires_grad=True)
    pairs = torch.empty((0, 3), dtype=torch.int64)
    value = mean(bernoulli_kl(differences(scores, pairs), torch.empty(0)), pairs, torch.ones(2))
    value.backward()
    assert value.item() == 0
    assert (scores.grad == 0).all()


def test_ordered_pairs_are_those_of_a_loop():
    scores = torch.tensor([[2.0, NAN, 1.0, 2.0, NAN], [NAN, NAN, NAN, NAN, NAN], [0.0, 5.0, NAN, NAN, -1.0]])
    expected = [
        (q, i, j) for q in range(3) for i in range(5) for j in range(5) if scores[q, i].item() > scores[q, j].item()
    ]
    assert sorted(map(tuple, ordered_pairs(scores).tolist())) == expected
    assert ordered_pairs(scores[1:2]).shape == (0, 3)
    assert ordered_pairs(torch.empty(0, 4)).shape == (0, 3)


def test_ranknet_is_the_cross_entropy_to_a_sure_preference():
    difference = torch.tensor([-3.0, 0.0, 2.0])
    expected = F.binary_cross_entropy_with_logits(difference, torch.ones(3), reduction="none")
    torch.testing.assert_close(ranknet(difference), expected)
