import math

import numpy as np
import pytest

from retrieval_kd.callbacks import agreement as module
from retrieval_kd.callbacks.agreement import agreement

ONE = np.array([3.0, 2.0, 1.0, 5.0, 4.0, 1.0, 2.0], np.float32)
OTHER = np.array([0.3, 0.1, 0.2, 0.1, math.nan, 0.9, 0.5], np.float32)
OFFSETS = np.array([0, 3, 5, 7])


def test_by_hand():
    """Two of three pairs in order; a list with one passage that both know; one the other way round."""
    found = agreement(ONE, OTHER, OFFSETS)
    assert found.lists == 2
    assert found.kendall_tau == pytest.approx((1 / 3 - 1) / 2)
    assert found.same_top == pytest.approx(0.5)


def test_who_agrees_with_himself():
    found = agreement(ONE, ONE * 2 + 1, OFFSETS)
    assert (found.lists, found.kendall_tau, found.same_top) == (3, 1.0, 1.0)
    assert agreement(ONE, -ONE, OFFSETS).kendall_tau == -1.0


def test_nothing_in_common():
    found = agreement(ONE, np.full(7, np.nan, np.float32), OFFSETS)
    assert found.lists == 0
    assert math.isnan(found.kendall_tau)
    assert math.isnan(found.same_top)
    assert agreement(ONE[:0], ONE[:0], np.zeros(1, np.int64)).lists == 0


def test_many_lists_are_sampled(monkeypatch):
    monkeypatch.setattr(module, "MOST_LISTS", 10)
    scores = np.random.default_rng(0).normal(size=300).astype(np.float32)
    assert agreement(scores, scores, np.arange(0, 301, 3)).lists == 10
