import math

import numpy as np
import pytest

from retrieval_kd.functional.normalisation import min_max, weighted_mean

NAN = math.nan


def oracle(scores, reference):
    used = [s for s, r in zip(scores, reference, strict=True) if r and not math.isnan(s)]
    if not used:
        return [NAN] * len(scores)
    low, high = min(used), max(used)
    return [NAN if math.isnan(s) else 0.0 if high == low else (s - low) / (high - low) for s in scores]


def test_matches_oracle_list_by_list():
    generator = np.random.default_rng(0)
    scores = generator.normal(3, 10, (50, 6)).round(0).astype(np.float32)
    scores[generator.random(scores.shape) < 0.2] = np.nan
    scores[7] = 2.5
    reference = generator.random(scores.shape) < 0.7
    reference[8] = False
    expected = [oracle(row.tolist(), mask) for row, mask in zip(scores, reference, strict=True)]
    np.testing.assert_allclose(min_max(scores, reference), expected, rtol=1e-6)


def test_closed_form_with_a_made_item_outside_the_scale():
    result = min_max(np.array([2.0, 4.0, 3.0, 6.0, 1.0]), np.array([True, True, True, False, False]))
    np.testing.assert_array_equal(result, np.array([0, 1, 0.5, 2, -0.5], dtype=np.float32))
    assert result.dtype == np.float32


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (0.01, -5.0), (1e4, 1e6)])
def test_scale_and_shift_do_not_matter(scale, shift):
    scores = np.array([0.5, -1.25, 3.0, 2.0])
    mask = np.array([True, True, False, True])
    np.testing.assert_allclose(min_max(scores * scale + shift, mask), min_max(scores, mask), atol=1e-5)


def test_no_items_give_no_scores():
    assert min_max(np.zeros((2, 0)), np.zeros((2, 0), dtype=bool)).shape == (2, 0)


def test_weighted_mean_ignores_members_without_weight_and_nothing_else():
    values = np.array([[1.0, NAN, 3.0], [3.0, 1.0, NAN]])
    np.testing.assert_array_equal(weighted_mean(values, np.array([1.0, 3.0])), [2.5, NAN, NAN])
    np.testing.assert_array_equal(weighted_mean(values, np.array([0.0, 3.0])), [3.0, 1.0, NAN])
