import torch

from retrieval_kd.regularizers.none import NoPenalty


def test_is_zero_without_a_gradient():
    vectors = {"vectors": torch.randn(2, 3, requires_grad=True)}
    penalty = NoPenalty()(vectors, vectors, 0.5)
    assert penalty.shape == ()
    assert penalty.item() == 0
    assert not penalty.requires_grad
