import pytest
import torch
from penalty_case import H, N, P, representations, signals_of

from retrieval_kd.regularizers.flops import Flops


def test_gradient_by_hand():
    """Of sum_v (mean_n d_nv)^2: twice the mean, divided by N."""
    passages = representations(5)
    Flops(0.3, 0.0, 0.0, "pooled")({}, passages, 1.0).backward()
    values = passages["activations"]
    expected = 0.3 * 2 * values.detach().mean(0) / 5
    torch.testing.assert_close(values.grad, expected.expand(5, -1))


@pytest.mark.parametrize("reduction", ["pooled", "by_position"])
def test_over_idf_equals_idf_in_the_score(reduction):
    """Activations that carry IDF (u = idf * d) and are penalised over it: same value, same gradient."""
    idf = torch.tensor([0.5, 2.0, 3.0, 0.1, 1.0, 7.0, 4.0, 0.0, 2.5])
    signals = signals_of([[P, H, N, N], [N, H, P, N], [N, N, H, P]])
    plain, queries = representations(4), representations(3, seed=2)
    with torch.no_grad():
        for side in (plain, queries):
            side["activations"][:, 7] = 0  # a term of weight 0 adds nothing to either
    weighted, weighted_queries = (
        {"activations": (side["activations"].detach() * idf).requires_grad_()} for side in (plain, queries)
    )
    one = Flops(0.3, 0.2, 0.0, reduction)(queries, plain, 1.0, signals)
    other = Flops(0.3, 0.2, 0.0, reduction, idf=idf)(weighted_queries, weighted, 1.0, signals)
    torch.testing.assert_close(one, other)
    one.backward()
    other.backward()
    torch.testing.assert_close(plain["activations"].grad, weighted["activations"].grad * idf)
    assert weighted["activations"].grad.isfinite().all()


def test_has_no_state():
    assert not Flops(1.0, 1.0, 0.5, "pooled", idf=torch.ones(3)).state_dict()
