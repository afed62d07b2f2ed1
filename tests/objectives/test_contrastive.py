import math

import pytest
import torch
from evidence_case import HARD, ROLE, make_negative, make_signals, value_and_gradient

from retrieval_kd.contracts import Role, Signal
from retrieval_kd.objectives.contrastive import Contrastive

# Of each query: its target, and what may stand against it; passage 4 is dark, 3 is another positive of query 0.
IN_BATCH = [(0, [1, 2, 5]), (1, [0, 2, 3, 5]), (5, [0, 1, 2, 3])]
OWN = [(0, [1, 2]), (1, [2, 3]), (5, [0, 3])]


def by_hand(similarities, lists, temperature):
    values = []
    for row, (target, negatives) in zip(similarities, lists, strict=True):
        powers = [math.exp(row[place] / temperature) for place in (target, *negatives)]
        values.append(-math.log(powers[0] / sum(powers)))
    return values


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize(("in_batch", "lists"), [(True, IN_BATCH), (False, OWN)])
def test_matches_the_loop(temperature, in_batch, lists):
    found, gradient, similarities = value_and_gradient(Contrastive(temperature, in_batch))
    assert found == pytest.approx(sum(by_hand(similarities, lists, temperature)) / 3, rel=1e-5)
    for row, (target, negatives) in enumerate(lists):
        touched = gradient[row].nonzero().flatten().tolist()
        assert touched == sorted([target, *negatives])


def test_a_dark_passage_is_nobodys_negative():
    _, gradient, _ = value_and_gradient(Contrastive(1.0, in_batch=True))
    assert gradient[:, 4].abs().max() == 0


def test_what_the_filter_drops_is_no_negative():
    signals = make_signals()
    negative = make_negative(signals)
    negative[1, 2] = False
    found, gradient, similarities = value_and_gradient(Contrastive(1.0, in_batch=False), negative=negative)
    assert gradient[1, 2] == 0
    lists = [(0, [1, 2]), (1, [3]), (5, [0, 3])]
    assert found == pytest.approx(sum(by_hand(similarities, lists, 1.0)) / 3, rel=1e-5)


def test_a_query_without_target_is_not_counted():
    role = ROLE.clone()
    role[0, 0] = HARD
    found, gradient, similarities = value_and_gradient(Contrastive(1.0, in_batch=False), make_signals(role))
    assert found == pytest.approx(sum(by_hand(similarities, OWN, 1.0)[1:]) / 2, rel=1e-5)
    assert gradient[0].abs().max() == 0


def test_a_batch_without_any_target_is_zero_not_nan():
    role = torch.full_like(ROLE, int(Role.HARD))
    found, gradient, _ = value_and_gradient(Contrastive(1.0, in_batch=True), make_signals(role))
    assert found == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_pacing_is_not_asked():
    plain, *_ = value_and_gradient(Contrastive(1.0, True))
    found, *_ = value_and_gradient(Contrastive(1.0, True), weight=torch.tensor([0.5, 0.0, 2.0]))
    assert found == plain > 0


def test_needs_judgements_only():
    assert Contrastive.needs == {Signal.JUDGEMENTS}


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match=r"objective\.contrastive\.temperature"):
        Contrastive(temperature, True)
