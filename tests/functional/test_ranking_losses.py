import math

import pytest
import torch

from retrieval_kd.functional.ranking_losses import (
    listwise_cross_entropy,
    listwise_kl,
    margin_mse,
    pointwise_cross_entropy,
)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 5, generator=generator, dtype=torch.float32) * 3
    labels = torch.tensor([[1, 0, 0, 0, 0], [2, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]).float()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]).bool()
    return scores.requires_grad_(), labels, mask


def rows(scores, labels, mask):
    for row, (row_labels, inside) in enumerate(zip(labels.tolist(), mask.tolist(), strict=True)):
        yield [(scores[row, i].item(), label) for i, label in enumerate(row_labels) if inside[i]]


def listwise_oracle(*case):
    losses = []
    for row in rows(*case):
        total = sum(label for _, label in row)
        partition = sum(math.exp(score) for score, _ in row)
        if total:
            losses.append(-sum(label / total * math.log(math.exp(score) / partition) for score, label in row))
    return sum(losses) / len(losses)


def pointwise_oracle(*case):
    pairs = [pair for row in rows(*case) for pair in row]
    return sum(math.log1p(math.exp(-score if label else score)) for score, label in pairs) / len(pairs)


def kl_oracle(*case):
    losses = []
    for row in rows(*case):
        said, told = zip(*row, strict=True)
        log_said, log_told = ([x - math.log(sum(map(math.exp, of))) for x in of] for of in (said, told))
        losses.append(sum(math.exp(t) * (t - s) for s, t in zip(log_said, log_told, strict=True)))
    return sum(losses) / len(losses)


def margin_oracle(*case):
    losses = []
    for row in rows(*case):
        pairs = [(one, other) for place, one in enumerate(row) for other in row[:place]]
        squares = [((one[0] - other[0]) - (one[1] - other[1])) ** 2 for one, other in pairs]
        losses.append(sum(squares) / len(squares))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("loss", "oracle"),
    [
        (listwise_cross_entropy, listwise_oracle),
        (pointwise_cross_entropy, pointwise_oracle),
        (listwise_kl, kl_oracle),
        (margin_mse, margin_oracle),
    ],
)
class TestAll:
    def test_matches_oracle(self, loss, oracle, case):
        assert loss(*case).item() == pytest.approx(oracle(*case), rel=1e-5)

    def test_padding_has_no_say_and_no_gradient(self, loss, oracle, case):
        scores, labels, mask = case
        before = loss(scores, labels, mask)
        before.backward()
        assert torch.isfinite(scores.grad).all()
        assert scores.grad[~mask].abs().max() == 0
        assert scores.grad[mask].abs().max() > 0
        other = torch.where(mask, scores, torch.full_like(scores, 1e4))
        noisy = torch.where(mask, labels, torch.ones_like(labels))
        assert loss(other, noisy, mask).item() == pytest.approx(before.item(), rel=1e-6)

    def test_half_precision_is_computed_in_single(self, loss, oracle, case):
        scores, labels, mask = case
        half = scores.detach().bfloat16()
        assert loss(half, labels, mask).dtype == torch.float32
        assert loss(half, labels, mask).item() == pytest.approx(oracle(half.float(), labels, mask), rel=1e-5)

    def test_gradient_is_that_of_differences(self, loss, oracle, case):
        scores, labels, mask = case
        loss(scores, labels, mask).backward()
        step = 1e-2
        for row, column in ((0, 0), (1, 1), (3, 1)):
            nudge = torch.zeros_like(scores)
            nudge[row, column] = step
            up, down = oracle(scores + nudge, labels, mask), oracle(scores - nudge, labels, mask)
            assert scores.grad[row, column].item() == pytest.approx((up - down) / (2 * step), abs=1e-4)


def test_listwise_golden():
    loss = listwise_cross_entropy(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1, 0, 0]]), torch.ones(1, 3).bool())
    assert loss.item() == pytest.approx(0.407606, abs=1e-6)  # log(1 + 1/e + 1/e²)


def test_lists_without_a_positive_alone_give_zero():
    scores = torch.randn(2, 3, requires_grad=True)
    loss = listwise_cross_entropy(scores, torch.zeros(2, 3), torch.ones(2, 3).bool())
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.abs().max() == 0


@pytest.mark.parametrize("loss", [listwise_kl, margin_mse])
def test_nothing_is_left_to_learn_of_ones_own_scores(loss):
    """Up to a constant of each list; a list of one passage says nothing."""
    labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    scores = (labels + torch.tensor([[2.0], [-1.0], [5.0]])).requires_grad_()
    found = loss(scores, labels, mask)
    found.backward()
    assert abs(found.item()) < 1e-6
    assert scores.grad.abs().max() < 1e-6
    alone = loss(torch.randn(1, 4), labels[2:], mask[2:])
    assert alone.item() == 0
