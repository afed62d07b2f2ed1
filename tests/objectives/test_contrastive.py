import math

import pytest
import torch
from evidence_case import HARD, POSITIVES, ROLE, SCORES, make_negative, make_signals, value_and_gradient

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


@pytest.mark.parametrize("own", [True, False])
def test_the_teachers_top_is_the_positive(own):
    """Scores put another passage first than the roles: 2 of query 1; the dark one, which scores higher, never is."""
    scores = SCORES.clone()
    scores[1, 2], scores[1, 4] = 5.0, 9.0
    positive = torch.zeros_like(POSITIVES)  # nobody judged anything
    role = torch.where(ROLE == Role.POSITIVE, int(HARD), ROLE.int()).to(torch.int8)
    signals = make_signals(role, scores, positive)
    objective = Contrastive(0.7, in_batch=True, positive="teacher_top", own=own)
    found, gradient, similarities = value_and_gradient(objective, signals)
    listed = role != Role.NONE
    lists = []
    for query, target in enumerate([0, 2, 5]):
        others = [p for p in range(6) if p not in (target, 4) and (own or not listed[query, p])]
        lists.append((target, others))
    assert found == pytest.approx(sum(by_hand(similarities, lists, 0.7)) / 3, rel=1e-5)
    for row, (target, negatives) in enumerate(lists):
        assert gradient[row].nonzero().flatten().tolist() == sorted([target, *negatives])


def test_without_a_score_there_is_no_top():
    signals = make_signals(scores=torch.full_like(SCORES, torch.nan))
    found, gradient, _ = value_and_gradient(Contrastive(1.0, True, positive="teacher_top"), signals)
    assert found == 0
    assert gradient.abs().max() == 0


def test_the_teachers_top_needs_its_scores():
    assert Contrastive(1.0, True, positive="teacher_top").needs == {Signal.SCORE}
    assert Contrastive(1.0, True).needs == {Signal.JUDGEMENTS}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"positive": "best"}, r"positive is judged or teacher_top"), ({"in_batch": False, "own": False}, "no negatives")],
)
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        Contrastive(**{"temperature": 1.0, "in_batch": True} | settings)


def test_needs_judgements_only():
    assert Contrastive.needs == {Signal.JUDGEMENTS}


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match=r"objective\.contrastive\.temperature"):
        Contrastive(temperature, True)
