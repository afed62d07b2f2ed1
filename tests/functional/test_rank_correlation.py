import pytest
import torch
from scipy.stats import kendalltau

from retrieval_kd.functional.rank_correlation import kendall_tau


@pytest.mark.parametrize("ties", [False, True])
def test_matches_scipy(ties):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 9, 14, generator=generator, dtype=torch.float64)
    if ties:
        left, right = left.round(), (right * 2).round() / 2
    mask = torch.rand(9, 14, generator=generator) < 0.6
    mask[3] = False
    mask[4] = torch.arange(14) == 5
    right[5] = 1.0  # no order at all
    found = kendall_tau(left, right, mask).tolist()
    for row in range(9):
        kept = mask[row]
        expected = kendalltau(left[row][kept], right[row][kept]).statistic if kept.sum() > 1 else float("nan")
        assert found[row] == pytest.approx(expected, nan_ok=True, abs=1e-12)
    assert torch.isnan(torch.tensor(found)[[3, 4, 5]]).all()


def test_what_is_masked_may_have_no_score():
    left = torch.tensor([[1.0, 2.0, float("nan"), 3.0]])
    mask = ~left.isnan()
    assert kendall_tau(left, -left, mask).tolist() == [-1.0]
    assert kendall_tau(left, left * 2 + 1, mask).tolist() == [1.0]
    assert kendall_tau(left[:0], left[:0], mask[:0]).tolist() == []
