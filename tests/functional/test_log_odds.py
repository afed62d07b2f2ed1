import numpy as np
import pytest

from retrieval_kd.functional.log_odds import from_probability


def test_probabilities_become_log_odds_and_come_back():
    p = np.array([0.01, 0.5, 0.9])
    odds = from_probability(p)
    assert odds.dtype == np.float32
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), p, rtol=1e-6)
    assert np.isfinite(from_probability(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_what_is_no_probability_is_named(bad):
    with pytest.raises(ValueError, match=r"entry 2 is .*, a probability is within 0 and 1"):
        from_probability(np.array([0.5, bad]))
