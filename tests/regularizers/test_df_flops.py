import math

import pytest
import torch
from penalty_case import H, N, P, representations, signals_of

from retrieval_kd.functional.sparsity import flops_by_position
from retrieval_kd.regularizers.df_flops import DfFlops


def make(every=3, reduction="pooled"):
    return DfFlops(0.5, 0.0, 0.0, reduction, alpha=0.25, beta=3.0, every=every)


def weight(share):
    """The published formula, in plain floats."""
    if share == 0:
        return 0.0
    return 1 / (1 + (share ** (math.log(2) / math.log(0.25)) - 1) ** 3)


def batches(count):
    return [representations(5, seed=seed) for seed in range(count)]


def test_before_the_first_step_it_is_flops():
    passages = batches(1)[0]
    mean = passages["activations"].mean(0)
    assert make()({}, passages, 1.0).item() == pytest.approx(0.5 * mean.square().sum().item())


def test_terms_are_weighted_by_how_many_passages_hold_them():
    regularizer, passages = make(), batches(1)[0]
    regularizer.step({}, passages, 0.0)
    rows = passages["activations"].tolist()
    expected = 0.0
    for term in range(9):
        column = [row[term] for row in rows]
        expected += (weight(sum(value > 0 for value in column) / 5) * sum(column) / 5) ** 2
    assert regularizer({}, passages, 1.0).item() == pytest.approx(0.5 * expected)
    assert not regularizer.df.requires_grad


def test_half_at_alpha_and_nothing_for_terms_that_nobody_holds():
    assert weight(0.25) == pytest.approx(0.5)
    regularizer = make()
    passages = {"activations": torch.tensor([[1.0, 0, 3], [0, 0, 3], [0, 0, 3], [0, 0, 3]], requires_grad=True)}
    regularizer.step({}, passages, 0.0)
    other = {"activations": torch.ones(2, 3, requires_grad=True)}
    regularizer({}, other, 1.0).backward()
    assert other["activations"].grad[0].tolist() == pytest.approx([0.5 * 0.5**2, 0, 0.5])


def test_estimates_are_of_the_steps_since_the_last_one():
    regularizer, seen = make(every=3), batches(8)
    found = []
    for passages in seen:
        regularizer.step({}, passages, 0.0)
        found.append(regularizer.df.clone())
    held = [(passages["activations"] > 0).float() for passages in seen]
    first, second, third = held[0].mean(0), torch.cat(held[1:3]).mean(0), torch.cat(held[3:6]).mean(0)
    expected = [first, first, second, second, second, third, third, third]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_by_position():
    regularizer, passages = make(reduction="by_position"), batches(1)[0]
    regularizer.step({}, passages, 0.0)
    weighted = passages["activations"] * torch.tensor([weight(share) for share in regularizer.df.tolist()])
    signals = signals_of([[P, H, N, N, N], [N, N, P, H, N]])
    expected = 0.5 * flops_by_position(weighted, torch.tensor([0, 1, 0, 1, -1]))
    torch.testing.assert_close(regularizer({}, passages, 1.0, signals), expected)


def test_a_loaded_state_goes_on_bit_for_bit():
    """Also into a module that has not seen how many terms there are."""
    one, seen = make(), batches(7)
    for passages in seen[:4]:
        one.step({}, passages, 0.0)
    other = torch.nn.ModuleDict({"part": make()})
    other.load_state_dict({f"part.{name}": value.clone() for name, value in one.state_dict().items()})
    for passages in seen[4:]:
        for regularizer in (one, other["part"]):
            regularizer.step({}, passages, 0.0)
        assert torch.equal(one({}, passages, 1.0), other["part"]({}, passages, 1.0))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other["part"].state_dict()[name]), name


def test_a_step_between_forward_and_backward_changes_no_gradient():
    """That is where a training calls it."""
    regularizer, (first, passages) = make(every=1), batches(2)
    regularizer.step({}, first, 0.0)
    penalty = regularizer({}, passages, 1.0)
    expected = torch.autograd.grad(penalty, passages["activations"], retain_graph=True)[0]
    regularizer.step({}, passages, 0.0)
    penalty.backward()
    assert torch.equal(passages["activations"].grad, expected)


@pytest.mark.parametrize(("alpha", "beta", "every"), [(0.0, 1.0, 1), (1.0, 1.0, 1), (0.1, 0.0, 1), (0.1, 1.0, 0)])
def test_wrong_settings_are_refused(alpha, beta, every):
    with pytest.raises(ValueError, match="regularizer"):
        DfFlops(1.0, 0.0, 0.0, "pooled", alpha, beta, every)
