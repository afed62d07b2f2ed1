import pytest
import torch

from retrieval_kd.functional import similarity


@pytest.fixture
def states():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    return torch.randn(3, 4, 5), mask


def test_mean_is_the_loop_over_tokens(states):
    values, mask = states
    found = similarity.mean_pool(values, mask)
    for row in range(3):
        kept = [values[row, place] for place in range(4) if mask[row, place]]
        torch.testing.assert_close(found[row], torch.stack(kept).mean(0))


def test_padding_has_no_gradient(states):
    values, mask = states
    values.requires_grad_()
    similarity.mean_pool(values, mask).sum().backward()
    assert values.grad[mask == 0].abs().max() == 0
    assert values.grad[mask == 1].abs().min() > 0


def test_a_text_without_tokens_is_zero_not_nan(states):
    values, mask = states
    assert similarity.mean_pool(values, torch.zeros_like(mask)).abs().max() == 0


def test_first_token_is_the_first(states):
    values, mask = states
    assert torch.equal(similarity.first_token(values, mask), values[:, 0])


def test_half_precision_states_are_summed_in_float32():
    """In bfloat16 a running sum of 1 stops at 256."""
    values, mask = torch.ones(1, 4000, 1, dtype=torch.bfloat16), torch.ones(1, 4000)
    values[0, ::2] = 3.0
    found = similarity.mean_pool(values, mask)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(2.0, abs=1e-6)


def test_unit_length():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(similarity.unit_length(vectors), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_inner_products_make_no_ties_under_autocast():
    queries, passages = torch.randn(2, 64), torch.randn(400, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (queries @ passages.T).dtype == torch.bfloat16
        scores = similarity.inner_products(queries, passages)
    assert scores.dtype == torch.float32
    exact = (queries.double() @ passages.double().T).float()
    torch.testing.assert_close(scores, exact, atol=1e-4, rtol=1e-5)
    assert all(len(row.unique()) == 400 for row in scores)


def test_inner_products_of_half_vectors_are_accumulated_in_float32():
    vector = torch.full((1, 4096), 0.125, dtype=torch.bfloat16)
    assert similarity.inner_products(vector, vector).item() == 64.0
