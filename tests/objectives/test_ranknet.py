import math

import pytest
import torch
from evidence_case import SCORES, value_and_gradient

from retrieval_kd.objectives.ranknet import RankNet


def oracle(similarities, temperature):
    """Losses of each query, over all scored pairs in the teacher's order."""
    losses = []
    for row, taught in enumerate(SCORES.tolist()):
        losses.append(
            [
                math.log(1 + math.exp(-(similarities[row][i] - similarities[row][j]) / temperature))
                for i in range(6)
                for j in range(6)
                if taught[i] > taught[j]
            ]
        )
    return losses


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_it_is_the_logistic_loss_of_every_ordered_pair(temperature):
    value, _, similarities = value_and_gradient(RankNet(temperature, "pairs"))
    losses = [loss for own in oracle(similarities, temperature) for loss in own]
    assert len(losses) == 1 + 6 + 3
    assert value == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    value, _, _ = value_and_gradient(RankNet(temperature, "queries"), weight=torch.tensor([1.0, 0.0, 0.5]))
    one, _, three = (sum(own) / len(own) for own in oracle(similarities, temperature))
    assert value == pytest.approx((one + 0.5 * three) / 3, rel=1e-5)


def test_passages_without_a_score_are_left_out():
    _, gradient, _ = value_and_gradient(RankNet(0.1, "pairs"))
    assert (gradient[SCORES.isnan()] == 0).all()
    assert (gradient[~SCORES.isnan()] != 0).all()


@pytest.mark.parametrize("bad", [{"student_temperature": 0}, {"average": "lists"}])
def test_bad_settings_are_refused(bad):
    (key,) = bad
    with pytest.raises(ValueError, match=rf"objective\.ranknet\.{key}"):
        RankNet(**{"student_temperature": 1.0, "average": "pairs"} | bad)
