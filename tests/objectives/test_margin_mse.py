import pytest
import torch
from evidence_case import ROLE, SCORES, make_signals, value_and_gradient

from retrieval_kd.contracts import Role, Signal
from retrieval_kd.objectives.margin_mse import MarginMSE

LISTS = [(0, [1]), (1, [2, 3, 4]), (5, [0, 3])]  # of each query: the positive and the scored others


def by_hand(similarities, student_scale, teacher_scale):
    values = []
    for row, (positive, others) in enumerate(LISTS):
        gaps = []
        for other in others:
            student = student_scale * (similarities[row][positive] - similarities[row][other])
            teacher = teacher_scale * (SCORES[row, positive] - SCORES[row, other]).item()
            gaps.append((student - teacher) ** 2)
        values.append(sum(gaps) / len(gaps))
    return values


@pytest.mark.parametrize(("student", "teacher"), [(1.0, 1.0), (20.0, 0.5)])
def test_matches_the_loop(student, teacher):
    found, gradient, similarities = value_and_gradient(MarginMSE(student, teacher))
    assert found == pytest.approx(sum(by_hand(similarities, student, teacher)) / 3, rel=1e-5)
    for row, (positive, others) in enumerate(LISTS):
        assert gradient[row].nonzero().flatten().tolist() == sorted([positive, *others])


@pytest.mark.parametrize("hole", ["no role positive", "positive unscored", "others unscored"])
def test_a_query_without_a_margin_is_not_counted(hole):
    role, scores = ROLE.clone(), SCORES.clone()
    if hole == "no role positive":
        role[0, 0] = Role.HARD
    else:
        scores[0, 0 if hole == "positive unscored" else 1] = float("nan")
    found, gradient, similarities = value_and_gradient(MarginMSE(1.0, 1.0), make_signals(role, scores))
    assert found == pytest.approx(sum(by_hand(similarities, 1.0, 1.0)[1:]) / 2, rel=1e-5)
    assert gradient[0].abs().max() == 0


def test_no_margin_at_all_is_zero_not_nan():
    scores = torch.full_like(SCORES, float("nan"))
    found, gradient, _ = value_and_gradient(MarginMSE(1.0, 1.0), make_signals(scores=scores))
    assert found == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_weight_is_per_query():
    found, _, similarities = value_and_gradient(MarginMSE(1.0, 1.0), weight=torch.tensor([0.5, 0.0, 2.0]))
    losses = by_hand(similarities, 1.0, 1.0)
    assert found == pytest.approx((0.5 * losses[0] + 2 * losses[2]) / 3, rel=1e-5)


def test_the_filter_is_not_asked():
    whole, *_ = value_and_gradient(MarginMSE(1.0, 1.0))
    filtered, *_ = value_and_gradient(MarginMSE(1.0, 1.0), negative=torch.zeros(3, 6, dtype=torch.bool))
    assert filtered == whole


def test_needs_both_signals():
    assert MarginMSE.needs == {Signal.SCORE, Signal.JUDGEMENTS}
