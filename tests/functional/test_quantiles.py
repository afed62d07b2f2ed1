import math

import pytest
import torch

from retrieval_kd.functional.quantiles import threshold_of_share

VALUES = torch.tensor([0.3, float("nan"), -2.0, 5.0, 0.3, 1.0, float("nan"), 0.9, 7.0, -1.0, 2.0, 4.0])


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 0.99, 1.0])
def test_so_many_values_reach_it(share):
    known = sorted((value for value in VALUES.tolist() if not math.isnan(value)), reverse=True)
    wanted = max(1, math.ceil(round(share * len(known), 6)))
    assert threshold_of_share(VALUES, share).item() == pytest.approx(known[wanted - 1])


def test_the_whole_share_is_the_minimum():
    assert threshold_of_share(VALUES, 1.0).item() == -2.0


def test_a_larger_share_is_never_stricter():
    thresholds = [threshold_of_share(VALUES, share / 50).item() for share in range(51)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert len(set(thresholds)) > 5
