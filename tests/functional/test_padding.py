import torch

from retrieval_kd.functional.padding import widen


def test_new_columns_are_filled_and_old_ones_kept():
    value = torch.randn(2, 3, 4)
    found = widen(value, 5, -1.0)
    assert torch.equal(found[:, :3], value)
    assert torch.equal(found[:, 3:], torch.full((2, 2, 4), -1.0))
    assert found.dtype == value.dtype


def test_integers_stay_integers():
    assert widen(torch.tensor([[7]]), 2, -1).tolist() == [[7, -1]]


def test_right_width_is_left_alone():
    value = torch.randn(2, 3)
    assert widen(value, 3) is value


def test_gradient_goes_to_the_old_columns():
    value = torch.randn(2, 2, requires_grad=True)
    widen(value, 4).mul(torch.arange(4.0)).sum().backward()
    assert value.grad.tolist() == [[0.0, 1.0]] * 2
