import math
from dataclasses import replace

import pytest
import torch
from evidence_case import make_signals, value_and_gradient

from retrieval_kd.objectives.pairwise import Pairwise

PAIRS = torch.tensor([[0, 0, 1], [0, 2, 1], [1, 1, 4], [2, 5, 0], [2, 3, 5]])
LOG_ODDS = torch.tensor([2.0, -0.5, 1.0, 0.25, -4.0])


def signals():
    return replace(make_signals(), pairs=PAIRS, log_odds=LOG_ODDS)


def oracle(similarities, student, teacher, weight=(1, 1, 1)):
    losses = []
    for (q, i, j), odds in zip(PAIRS.tolist(), LOG_ODDS.tolist(), strict=True):
        p = 1 / (1 + math.exp(-odds / teacher))
        s = 1 / (1 + math.exp(-(similarities[q][i] - similarities[q][j]) / student))
        losses.append(weight[q] * (p * math.log(p / s) + (1 - p) * math.log((1 - p) / (1 - s))))
    return losses


@pytest.mark.parametrize(("student", "teacher"), [(1.0, 1.0), (0.05, 1.0), (0.1, 3.0)])
def test_it_is_the_mean_over_pairs(student, teacher):
    value, _, similarities = value_and_gradient(Pairwise(student, teacher, "pairs"), signals())
    assert value == pytest.approx(sum(oracle(similarities, student, teacher)) / 5, rel=1e-5)


def test_a_weight_is_its_querys_and_queries_can_say_the_same():
    weight = (0.5, 2.0, 0.0)
    given = {"signals": signals(), "weight": torch.tensor(weight)}
    value, gradient, similarities = value_and_gradient(Pairwise(0.1, 1.0, "pairs"), **given)
    losses = oracle(similarities, 0.1, 1.0, weight)
    assert value == pytest.approx(sum(losses) / 5, rel=1e-5)
    assert (gradient[2] == 0).all()
    value, _, _ = value_and_gradient(Pairwise(0.1, 1.0, "queries"), **given)
    assert value == pytest.approx((sum(losses[:2]) / 2 + losses[2] + sum(losses[3:]) / 2) / 3, rel=1e-5)


def test_only_what_pairs_name_gets_a_gradient():
    _, gradient, _ = value_and_gradient(Pairwise(0.1, 1.0, "pairs"), signals())
    named = torch.zeros(3, 6, dtype=torch.bool)
    for q, i, j in PAIRS.tolist():
        named[q, i] = named[q, j] = True
    assert ((gradient != 0) == named).all()
    assert gradient.sum(1).abs().max() < 1e-6  # a difference: what one passage gains the other loses


def test_a_batch_without_pairs_gives_zero():
    value, gradient, _ = value_and_gradient(Pairwise(0.1, 1.0, "pairs"), make_signals())
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("bad", [{"student_temperature": 0}, {"teacher_temperature": -1}, {"average": "lists"}])
def test_bad_settings_are_refused(bad):
    (key,) = bad
    with pytest.raises(ValueError, match=rf"objective\.pairwise\.{key}"):
        Pairwise(**{"student_temperature": 1.0, "teacher_temperature": 1.0, "average": "pairs"} | bad)
