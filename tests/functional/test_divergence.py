import math

import pytest
import torch

from retrieval_kd.functional import divergence


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 6, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 6, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 0], [1, 1, 0, 0, 0, 1]], dtype=torch.bool)
    return student, teacher, mask


def kl_by_hand(student, teacher, mask):
    values = []
    for s_row, t_row, m_row in zip(student.tolist(), teacher.tolist(), mask.tolist(), strict=True):
        s = [x for x, m in zip(s_row, m_row, strict=True) if m]
        t = [x for x, m in zip(t_row, m_row, strict=True) if m]
        zs, zt = sum(map(math.exp, s)), sum(map(math.exp, t))
        values.append(
            sum(math.exp(b) / zt * ((b - math.log(zt)) - (a - math.log(zs))) for a, b in zip(s, t, strict=True))
        )
    return values


def test_kl_is_the_loop_over_floats(case):
    assert divergence.listwise_kl(*case).tolist() == pytest.approx(kl_by_hand(*case), rel=1e-5)


def test_kl_golden():
    student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 0.0, 1.0]])
    assert divergence.listwise_kl(student, teacher, torch.ones(1, 3, dtype=torch.bool)).item() == pytest.approx(
        0.153740, abs=1e-5
    )


def test_kl_is_zero_with_zero_gradient_when_scores_differ_by_a_constant(case):
    student, _, mask = case
    value = divergence.listwise_kl(student, student.detach() + 5.0, mask)
    assert value.abs().max() < 1e-6
    value.sum().backward()
    assert student.grad.abs().max() < 1e-6


def test_kl_gives_masked_entries_no_gradient(case):
    student, teacher, mask = case
    divergence.listwise_kl(student, teacher, mask).sum().backward()
    assert student.grad[~mask].abs().max() == 0
    assert student.grad[mask].abs().min() > 0


def test_kl_gradient_is_softmax_difference(case):
    student, teacher, mask = case
    divergence.listwise_kl(student, teacher, mask).sum().backward()
    expected = student.detach().masked_fill(~mask, -1e9).softmax(-1) - teacher.masked_fill(~mask, -1e9).softmax(-1)
    torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=1e-5)


def test_kl_entry_without_teacher_mass_stands_in_the_denominator():
    student = torch.tensor([[0.0, 0.0]], requires_grad=True)
    value = divergence.listwise_kl(student, torch.tensor([[0.0, -math.inf]]), torch.ones(1, 2, dtype=torch.bool))
    assert value.item() == pytest.approx(math.log(2))
    value.backward()
    assert student.grad[0].tolist() == pytest.approx([-0.5, 0.5])


def test_kl_of_an_empty_row_is_zero_without_nan():
    student = torch.randn(1, 4, requires_grad=True)
    value = divergence.listwise_kl(student, torch.full((1, 4), -math.inf), torch.zeros(1, 4, dtype=torch.bool))
    value.sum().backward()
    assert value.item() == 0
    assert torch.isfinite(student.grad).all()


def test_contrastive_is_cross_entropy_for_one_target():
    scores = torch.randn(4, 8)
    target = torch.zeros(4, 8, dtype=torch.bool)
    target[range(4), range(4)] = True
    value = divergence.contrastive(scores, target, ~target)
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(4), reduction="none")
    torch.testing.assert_close(value, expected)


def test_contrastive_leaves_other_positives_out_of_the_denominator():
    scores = torch.tensor([[1.0, 2.0, 0.5]])
    target = torch.tensor([[True, False, False]])
    negative = torch.tensor([[False, False, True]])
    expected = -math.log(math.exp(1.0) / (math.exp(1.0) + math.exp(0.5)))
    assert divergence.contrastive(scores, target, negative).item() == pytest.approx(expected)


def test_contrastive_averages_over_targets():
    scores = torch.tensor([[1.0, 2.0, 0.5]])
    negative = torch.tensor([[False, False, True]])
    one = divergence.contrastive(scores, torch.tensor([[True, False, False]]), negative)
    other = divergence.contrastive(scores, torch.tensor([[False, True, False]]), negative)
    both = divergence.contrastive(scores, torch.tensor([[True, True, False]]), negative)
    torch.testing.assert_close(both, (one + other) / 2)


def test_contrastive_without_targets_or_negatives_is_zero_and_finite():
    scores = torch.randn(2, 3, requires_grad=True)
    target = torch.tensor([[True, False, False], [False, False, False]])
    negative = torch.tensor([[False, False, False], [True, True, True]])
    value = divergence.contrastive(scores, target, negative)
    value.sum().backward()
    assert value.tolist() == [0.0, 0.0]
    assert torch.isfinite(scores.grad).all()


def test_contrastive_half_precision_does_not_overflow():
    scores = torch.randn(2, 4).to(torch.float16) * 1000
    target = torch.tensor([[True, False, False, False]] * 2)
    assert torch.isfinite(divergence.contrastive(scores, target, ~target)).all()


def margin_mse_by_hand(student, teacher, positive, other):
    values = []
    for row in range(len(student)):
        pairs = [
            ((student[row, i] - student[row, j]) - (teacher[row, i] - teacher[row, j])).item() ** 2
            for i in range(student.shape[1])
            for j in range(student.shape[1])
            if positive[row, i] and other[row, j]
        ]
        values.append(sum(pairs) / len(pairs) if pairs else 0.0)
    return values


def test_margin_mse_is_the_loop_over_pairs():
    student, teacher = torch.randn(4, 6) * 10 + 100, torch.randn(4, 6) * 3
    positive = torch.zeros(4, 6, dtype=torch.bool)
    positive[:, 0] = True
    positive[1, 3] = True
    positive[3] = False
    other = ~positive
    other[2, 4:] = False
    found = divergence.margin_mse(student, teacher, positive, other)
    assert found.tolist() == pytest.approx(margin_mse_by_hand(student, teacher, positive, other), rel=1e-3)


def test_margin_mse_gradient_is_that_of_the_loop():
    student, teacher = torch.randn(3, 5, dtype=torch.float32, requires_grad=True), torch.randn(3, 5)
    positive = torch.tensor([[True, False, False, False, False]] * 3)
    divergence.margin_mse(student, teacher, positive, ~positive).sum().backward()
    fast = student.grad.clone()
    student.grad = None
    gap = student - teacher
    ((gap[:, :1] - gap[:, 1:]) ** 2).mean(-1).sum().backward()
    torch.testing.assert_close(fast, student.grad, atol=1e-5, rtol=1e-5)


def test_mean_over_queries_counts_only_rows_that_say_something():
    losses, valid = torch.tensor([2.0, 100.0, 4.0]), torch.tensor([True, False, True])
    assert divergence.mean_over_queries(losses, valid, torch.ones(3)).item() == 3.0
    assert divergence.mean_over_queries(losses, valid, torch.tensor([1.0, 1.0, 0.5])).item() == 2.0
