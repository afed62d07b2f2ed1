import math
import statistics

import numpy as np
import pytest

from retrieval_kd.functional.normalisation import NORMALISATIONS, min_max, unchanged, weighted_mean, z_score

NAN = math.nan


def oracle(scores, reference):
    used = [s for s, r in zip(scores, reference, strict=True) if r and not math.isnan(s)]
    if not used:
        return [NAN] * len(scores)
    low, high = min(used), max(used)
    return [NAN if math.isnan(s) else 0.0 if high == low else (s - low) / (high - low) for s in scores]


def standard(scores, reference):
    used = [s for s, r in zip(scores, reference, strict=True) if r and not math.isnan(s)]
    if not used:
        return [NAN] * len(scores)
    mean, deviation = statistics.fmean(used), statistics.pstdev(used)
    return [NAN if math.isnan(s) else 0.0 if min(used) == max(used) else (s - mean) / deviation for s in scores]


@pytest.mark.parametrize(("rule", "oracle"), [(min_max, oracle), (z_score, standard)])
def test_matches_oracle_list_by_list(rule, oracle):
    generator = np.random.default_rng(0)
    scores = generator.normal(3, 10, (50, 6)).round(0).astype(np.float32)
    scores[generator.random(scores.shape) < 0.2] = np.nan
    scores[7] = 2.5
    reference = generator.random(scores.shape) < 0.7
    reference[8] = False
    expected = [oracle(row.tolist(), mask) for row, mask in zip(scores, reference, strict=True)]
    np.testing.assert_allclose(rule(scores, reference), expected, rtol=1e-6, atol=1e-7)


def test_closed_form_with_a_made_item_outside_the_scale():
    result = min_max(np.array([2.0, 4.0, 3.0, 6.0, 1.0]), np.array([True, True, True, False, False]))
    np.testing.assert_array_equal(result, np.array([0, 1, 0.5, 2, -0.5], dtype=np.float32))
    assert result.dtype == np.float32


@pytest.mark.parametrize("min_max", [min_max, z_score])
@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (0.01, -5.0), (1e4, 1e6)])
def test_scale_and_shift_do_not_matter(min_max, scale, shift):
    scores = np.array([0.5, -1.25, 3.0, 2.0])
    mask = np.array([True, True, False, True])
    np.testing.assert_allclose(min_max(scores * scale + shift, mask), min_max(scores, mask), atol=1e-5)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_no_items_give_no_scores(name):
    assert NORMALISATIONS[name](np.zeros((2, 0)), np.zeros((2, 0), dtype=bool)).shape == (2, 0)


def test_z_scores_by_hand_with_a_made_item():
    result = z_score(np.array([2.0, 4.0, 9.0]), np.array([True, True, False]))
    np.testing.assert_array_equal(result, np.array([-1, 1, 6], dtype=np.float32))
    assert result.dtype == np.float32


@pytest.mark.parametrize("rule", [min_max, z_score])
@pytest.mark.parametrize("value", [0.1, -7e8, 1e-30])
def test_a_constant_list_says_nothing(rule, value):
    """Exactly: the mean of equal numbers is not always that number."""
    result = rule(np.array([value] * 3 + [value + 1, NAN]), np.array([True, True, True, False, True]))
    np.testing.assert_array_equal(result, [0, 0, 0, 0, NAN])


def test_scores_that_lie_close_together_far_from_zero_keep_their_differences():
    scores = 1e8 + np.array([0.0, 1.0, 2.0, 5.0])
    np.testing.assert_allclose(z_score(scores, np.ones(4, bool)), z_score(scores - 1e8, np.ones(4, bool)), rtol=1e-6)


def test_the_published_epsilon_changes_less_than_a_millionth_of_the_range():
    scores = np.random.default_rng(0).normal(size=(100, 8)) * 10
    low, width = scores.min(1, keepdims=True), np.ptp(scores, 1, keepdims=True)
    published = (scores - low) / (width + 1e-6)
    assert (np.abs(min_max(scores, np.ones(8, bool)) - published) < 1e-6 / width + 1e-7).all()


def test_none_leaves_raw_scores():
    scores = np.array([3.0, NAN, -1.0])
    np.testing.assert_array_equal(unchanged(scores, np.array([True, True, False])), scores.astype(np.float32))
    assert NORMALISATIONS["none"] is unchanged


def test_weighted_mean_ignores_members_without_weight_and_nothing_else():
    values = np.array([[1.0, NAN, 3.0], [3.0, 1.0, NAN]])
    np.testing.assert_array_equal(weighted_mean(values, np.array([1.0, 3.0])), [2.5, NAN, NAN])
    np.testing.assert_array_equal(weighted_mean(values, np.array([0.0, 3.0])), [3.0, 1.0, NAN])
