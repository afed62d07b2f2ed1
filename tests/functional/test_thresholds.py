import math

import numpy as np
import pytest
import torch

from retrieval_kd.functional.thresholds import below_share, exceeds_all, quantiles, weakest_target

NAN = math.nan


def drawn(members=3, queries=5, passages=7):
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(members, queries, passages, generator=generator)
    scores[torch.rand(scores.shape, generator=generator) < 0.3] = NAN
    return scores, torch.rand(queries, passages, generator=generator) < 0.4


def test_weakest_target_matches_the_loop():
    scores, target = drawn()
    target[3] = False
    found = weakest_target(scores, target)
    for member in range(3):
        for query in range(5):
            values = [s for s, t in zip(scores[member, query].tolist(), target[query], strict=True) if t and s == s]
            assert found[member, query].item() == pytest.approx(min(values, default=NAN), nan_ok=True)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_quantiles_are_numpys(share):
    values = drawn()[0].flatten(1)
    expected = np.nanquantile(values.double().numpy(), share, axis=1)
    np.testing.assert_allclose(quantiles(values, share).numpy(), expected, rtol=1e-5)


def test_quantiles_of_nothing_are_unknown():
    assert quantiles(torch.full((2, 3), NAN), 0.5).isnan().tolist() == [True, True]
    assert quantiles(torch.empty(2, 0), 0.5).isnan().tolist() == [True, True]


def test_a_share_lies_below_also_of_scores_below_zero():
    assert below_share(torch.tensor([2.0, -2.0, 0.0]), 0.9).tolist() == pytest.approx([1.8, -2.2, 0.0])


def test_exceeds_all_matches_the_loop():
    scores, _ = drawn()
    limits = torch.tensor([[-0.5], [0.0], [0.2]]).expand(3, 5).clone()
    limits[0, 1] = NAN
    found = exceeds_all(scores, limits.unsqueeze(-1))
    for query in range(5):
        for passage in range(7):
            said = [m for m in range(3) if not scores[m, query, passage].isnan()]
            expected = bool(said) and all(scores[m, query, passage] > limits[m, query] for m in said)
            assert bool(found[query, passage]) == expected
    assert found.any()


def test_a_higher_limit_never_takes_more():
    scores, _ = drawn()
    before = exceeds_all(scores, torch.full((3, 1, 1), -3.0))
    for limit in torch.linspace(-2, 3, 20):
        taken = exceeds_all(scores, torch.full((3, 1, 1), float(limit)))
        assert not (taken & ~before).any()
        before = taken
    assert not before.any()
