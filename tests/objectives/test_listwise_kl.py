import math

import pytest
import torch
from evidence_case import SCORES, make_evidence, make_signals, value_and_gradient
from torch.nn import functional as F

from retrieval_kd.contracts import Role, Signal
from retrieval_kd.objectives.listwise_kl import ListwiseKL

SCORED = [[0, 1], [1, 2, 3, 4], [0, 3, 5]]  # the dark passage 4 is distilled where it is a candidate
# Without teacher mass, in the student's denominator: neither 3, a positive of query 0, nor the dark passage 4.
ADDED = [[2, 5], [0, 5], [1, 2]]


def by_hand(similarities, added, student_temperature, teacher_temperature):
    values = []
    for row, scored, extra in zip(range(3), SCORED, added, strict=True):
        teacher = [math.exp(SCORES[row, place].item() / teacher_temperature) for place in scored]
        student = [math.exp(similarities[row][place] / student_temperature) for place in (*scored, *extra)]
        pairs = zip(teacher, student, strict=False)
        values.append(sum(t / sum(teacher) * math.log((t / sum(teacher)) / (s / sum(student))) for t, s in pairs))
    return values


@pytest.mark.parametrize(("student", "teacher"), [(1.0, 1.0), (0.05, 2.0), (2.0, 0.5)])
@pytest.mark.parametrize(("unscored", "added"), [("exclude", [[], [], []]), ("zero", ADDED)])
def test_matches_the_loop(student, teacher, unscored, added):
    found, gradient, similarities = value_and_gradient(ListwiseKL(student, teacher, unscored))
    assert found == pytest.approx(sum(by_hand(similarities, added, student, teacher)) / 3, rel=1e-4)
    for row, (scored, extra) in enumerate(zip(SCORED, added, strict=True)):
        assert gradient[row].nonzero().flatten().tolist() == sorted(scored + extra)


@pytest.mark.parametrize("unscored", ["exclude", "zero"])
def test_a_query_that_the_teacher_left_out_is_not_counted(unscored):
    scores = SCORES.clone()
    scores[1] = float("nan")
    found, gradient, similarities = value_and_gradient(ListwiseKL(1.0, 1.0, unscored), make_signals(scores=scores))
    # Passage 4 is now nobody's scored candidate and still dark.
    losses = by_hand(similarities, ADDED if unscored == "zero" else [[], [], []], 1.0, 1.0)
    assert found == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-4)
    assert gradient[1].abs().max() == 0


def test_no_scores_at_all_is_zero_not_nan():
    found, gradient, _ = value_and_gradient(
        ListwiseKL(1.0, 1.0, "zero"), make_signals(scores=torch.full_like(SCORES, float("nan")))
    )
    assert found == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_weight_is_per_query():
    found, _, similarities = value_and_gradient(ListwiseKL(1.0, 1.0, "exclude"), weight=torch.tensor([0.5, 0.0, 2.0]))
    losses = by_hand(similarities, [[], [], []], 1.0, 1.0)
    assert found == pytest.approx((0.5 * losses[0] + 2 * losses[2]) / 3, rel=1e-4)


def test_the_filter_is_not_asked():
    whole, *_ = value_and_gradient(ListwiseKL(1.0, 1.0, "zero"))
    filtered, *_ = value_and_gradient(ListwiseKL(1.0, 1.0, "zero"), negative=torch.zeros(3, 6, dtype=torch.bool))
    assert filtered == whole


def test_a_list_of_found_passages_for_every_query():
    """As if the made passage 4 had no score."""
    term = ListwiseKL(1.0, 1.0, "exclude", dark=False, paced=False)
    found, gradient, similarities = value_and_gradient(term, weight=torch.tensor([0.0, 0.5, 2.0]))
    without = [[0, 1], [1, 2, 3], [0, 3, 5]]
    losses = []
    for row, places in enumerate(without):
        teacher = SCORES[row, places].double().softmax(0)
        student = torch.tensor(similarities, dtype=torch.float64)[row, places].log_softmax(0)
        losses.append((teacher * (teacher.log() - student)).sum().item())
    assert found == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert not gradient[:, 4].any()


def test_needs_scores_only():
    assert ListwiseKL.needs == {Signal.SCORE}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0.0, 1.0, "zero"), r"objective\.listwise_kl\.student_temperature"),
        ((1.0, -1.0, "zero"), r"objective\.listwise_kl\.teacher_temperature"),
        ((1.0, 1.0, "drop"), "exclude or zero, got drop"),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(ValueError, match=says):
        ListwiseKL(*arguments)


def test_a_teacher_of_the_whole_batch_is_heard_about_every_passage():
    """With scores of passages that are no candidates of the query, its list is the batch."""
    whole = torch.arange(18.0).view(3, 6).sin()
    similarities = torch.arange(18.0).view(3, 6).cos()
    signals = make_signals(scores=whole)
    loss = ListwiseKL(1.0, 1.0, "exclude")(make_evidence(similarities), signals, signals.positive, torch.ones(3))
    teacher, student = whole.softmax(1), similarities.log_softmax(1)
    assert loss.item() == pytest.approx((teacher * (teacher.log() - student)).sum(1).mean().item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:reduction")
def test_the_mean_is_over_queries_and_not_over_the_passages_of_their_lists():
    """Torch's ``batchmean``; ``mean``, as RocketQAv2's code has it, is smaller by the length of the lists."""
    generator = torch.Generator().manual_seed(7)
    teacher, student = (torch.randn(4, 128, generator=generator) for _ in range(2))
    role = torch.full((4, 128), int(Role.HARD), dtype=torch.int8)
    signals = make_signals(role, teacher, role == Role.POSITIVE)
    found = ListwiseKL(1.0, 1.0, "exclude")(make_evidence(student), signals, ~signals.positive, torch.ones(4))
    given = student.log_softmax(-1), teacher.log_softmax(-1)
    torch.testing.assert_close(found, F.kl_div(*given, log_target=True, reduction="batchmean"))
    torch.testing.assert_close(found, 128 * F.kl_div(*given, log_target=True, reduction="mean"))
