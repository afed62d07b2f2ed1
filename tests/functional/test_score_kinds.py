import math

import pytest
import torch

from retrieval_kd.contracts import ScoreKind
from retrieval_kd.functional.score_kinds import check_threshold, convert, converts

LOGIT, LOG_ODDS, SIMILARITY, PROBABILITY = ScoreKind


@pytest.mark.parametrize("kind", [LOGIT, LOG_ODDS])
def test_odds_and_probabilities_are_told_as_each_other(kind):
    scores = torch.tensor([-2.0, 0.0, 5.0, math.nan])
    probabilities = convert(scores, kind, PROBABILITY)
    expected = [1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-5)), math.nan]
    assert probabilities.tolist() == pytest.approx(expected, nan_ok=True)
    torch.testing.assert_close(convert(probabilities, PROBABILITY, kind), scores, equal_nan=True, atol=1e-4, rtol=0)


def test_certain_probabilities_have_finite_log_odds():
    assert convert(torch.tensor([0.0, 1.0]), PROBABILITY, LOGIT).abs().max() < 14


@pytest.mark.parametrize("kind", ScoreKind)
def test_a_kind_is_itself(kind):
    scores = torch.tensor([-3.0, 0.25, math.nan])
    assert converts(kind, kind)
    assert convert(scores, kind, kind) is scores


@pytest.mark.parametrize("other", [LOGIT, LOG_ODDS, PROBABILITY])
def test_a_similarity_is_nothing_else(other):
    for kind, to in ((SIMILARITY, other), (other, SIMILARITY)):
        assert not converts(kind, to)
        with pytest.raises(ValueError, match=f"no way from {kind} to {to}"):
            convert(torch.zeros(1), kind, to)


@pytest.mark.parametrize(
    ("value", "kind"), [(0.0, PROBABILITY), (1.0, PROBABILITY), (5.0, PROBABILITY), (math.nan, LOGIT)]
)
def test_thresholds_outside_of_what_scores_can_be(value, kind):
    with pytest.raises(ValueError, match=r"filter\.start="):
        check_threshold("filter.start", value, kind)


@pytest.mark.parametrize(("value", "kind"), [(0.9, PROBABILITY), (-7.0, LOGIT), (25.0, SIMILARITY)])
def test_thresholds_that_scores_can_be_on_both_sides_of(value, kind):
    check_threshold("filter.start", value, kind)
