import pytest

from retrieval_kd.functional.ramps import geometric, linear, quadratic


def test_quadratic_by_hand():
    assert [quadratic(progress, 0.5) for progress in (0.0, 0.25, 0.5, 1.0)] == [0, 0.25, 1, 1]
    assert quadratic(0.0, 0.0) == 1


def test_geometric_takes_equal_factors_in_equal_times():
    values = [geometric(progress, 0.4, 1000.0, 10.0) for progress in (0.0, 0.1, 0.2, 0.3, 0.4, 0.9)]
    assert values == pytest.approx([1000, 1000 / 10**0.5, 100, 10 * 10**0.5, 10, 10])
    assert geometric(0.0, 0.0, 1000.0, 10.0) == 10


def test_linear_goes_from_start_to_end_and_stays():
    assert [linear(progress, 0.5, 0.2, 1.0) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.2, 0.6, 1, 1])
    assert linear(0.5, 1.0, 1.0, 0.4) == pytest.approx(0.7)
    assert linear(0.0, 0.0, 0.2, 0.9) == 0.9
