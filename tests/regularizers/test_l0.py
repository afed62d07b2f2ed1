import pytest
import torch
from penalty_case import H, N, P, oracle_flops, representations, signals_of

from retrieval_kd.regularizers.flops import Flops
from retrieval_kd.regularizers.l0 import L0


@pytest.fixture
def passages():
    """Of 3, 1, 4 and 2 active terms."""
    values = torch.tensor([[1.0, 2, 3, 0, 0], [0, 0, 0, 9, 0], [4, 1, 2, 2, 0], [0, 0, 0, 5, 5]])
    return {"activations": values.requires_grad_()}


def test_short_passages_are_zeros_in_the_mean(passages):
    rows = passages["activations"].tolist()
    rows[1], rows[3] = [0.0] * 5, [0.0] * 5
    penalty = L0(0.5, 0.0, 0.0, "pooled", threshold=2)({}, passages, 1.0)
    assert penalty.item() == pytest.approx(0.5 * oracle_flops(rows))
    penalty.backward()
    gradient = passages["activations"].grad.abs().sum(1)
    assert (gradient > 0).tolist() == [True, False, True, False]


def test_by_position(passages):
    signals = signals_of([[P, H, N, N], [N, N, P, H]])
    rows = passages["activations"].tolist()
    expected = oracle_flops([rows[0], rows[2]]) + oracle_flops([[0.0] * 5, [0.0] * 5])
    assert L0(1.0, 0.0, 0.0, "by_position", threshold=2)({}, passages, 1.0, signals).item() == pytest.approx(expected)


def test_queries_have_no_mask(passages):
    queries = representations(3)
    both = [kind(0.0, 2.0, 0.0, "pooled", *rest)(queries, passages, 1.0) for kind, *rest in ((Flops,), (L0, 1000))]
    assert both[0] == both[1] > 0


def test_when_all_are_short_nothing_is_pushed(passages):
    assert L0(1.0, 0.0, 0.0, "pooled", threshold=4)({}, passages, 1.0).item() == 0


def test_a_negative_threshold_is_refused():
    with pytest.raises(ValueError, match=r"regularizer.threshold is a number of terms"):
        L0(1.0, 0.0, 0.0, "pooled", threshold=-1)
