import pytest
import torch
from torch.utils.checkpoint import checkpoint

from retrieval_kd.functional import max_head
from retrieval_kd.functional.max_head import max_logits, max_products

LENGTHS = [5, 1, 0, 7, 3]
D, V = 6, 23


def plain(states, lengths, weight, bias):
    """All logits, then the maximum of each text."""
    logits = states @ weight.T + bias
    rows = [part.amax(0) if len(part) else torch.full((len(weight),), -torch.inf) for part in logits.split(lengths)]
    return torch.stack(rows).relu()


def case(lengths, dtype=torch.float64, shift=0.0):
    states, weight = torch.randn(sum(lengths), D, dtype=dtype), torch.randn(V, D, dtype=dtype)
    bias = torch.randn(V, dtype=dtype) + shift
    text = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return text, [value.requires_grad_() for value in (states, weight, bias)]


def gradients(found, factors, leaves):
    return torch.autograd.grad((found * factors).sum(), leaves)


@pytest.mark.parametrize("chunk", [1, 4, 23, 512])
@pytest.mark.parametrize("shift", [0.0, -4.0, 50.0, -1e4])  # some, few, all and no entries above 0
@pytest.mark.parametrize("lengths", [LENGTHS, [4], [0, 2]])
def test_value_and_gradients_are_those_of_the_plain_form(chunk, shift, lengths):
    text, (states, weight, bias) = case(lengths, shift=shift)
    factors = torch.randn(len(lengths), V, dtype=torch.float64)
    found, expected = max_logits(states, text, len(lengths), weight, bias, chunk), plain(states, lengths, weight, bias)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    pairs = zip(
        gradients(found, factors, (states, weight, bias)),
        gradients(expected, factors, (states, weight, bias)),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("few", [0.0, 1.0])  # how the token of a maximum is found
def test_gradcheck(few, monkeypatch):
    monkeypatch.setattr(max_head, "FEW", few)
    text, leaves = case(LENGTHS)
    assert torch.autograd.gradcheck(lambda s, w, b: max_logits(s, text, len(LENGTHS), w, b, chunk=7), leaves)


@pytest.mark.parametrize("few", [0.0, 1.0])
def test_first_of_equal_tokens_gets_the_gradient(few, monkeypatch):
    monkeypatch.setattr(max_head, "FEW", few)
    states = torch.tensor([[1.0], [2.0], [2.0], [0.0], [3.0], [3.0]], requires_grad=True)
    text = torch.tensor([0, 0, 0, 0, 1, 1])
    found = max_logits(states, text, 2, torch.ones(1, 1), torch.zeros(1))
    assert found.tolist() == [[2.0], [3.0]]
    found.sum().backward()
    assert states.grad.flatten().tolist() == [0, 1, 0, 0, 1, 0]


def test_nothing_flows_where_the_maximum_is_exactly_zero():
    states = torch.zeros(2, D, requires_grad=True)
    max_logits(states, torch.tensor([0, 0]), 1, torch.ones(V, D), torch.zeros(V)).sum().backward()
    assert states.grad.count_nonzero() == 0


def test_without_gradient_the_value_is_the_same():
    text, (states, weight, bias) = case(LENGTHS)
    with torch.no_grad():
        quiet = max_logits(states, text, len(LENGTHS), weight, bias, 5)
    assert torch.equal(quiet, max_logits(states, text, len(LENGTHS), weight, bias, 5))
    assert not quiet.requires_grad


def test_only_what_is_asked_for_has_a_gradient():
    text, (states, weight, bias) = case(LENGTHS)
    max_logits(states.detach(), text, len(LENGTHS), weight.detach(), bias).sum().backward()
    assert bias.grad is not None
    assert states.grad is None
    assert weight.grad is None


def test_minus_infinity_silences_an_entry():
    text, (states, weight, bias) = case(LENGTHS, shift=50.0)
    bias.data[3] = -torch.inf
    found = max_logits(states, text, len(LENGTHS), weight, bias)
    assert found[:, 3].count_nonzero() == 0
    found.sum().backward()
    assert weight.grad.isfinite().all()
    assert weight.grad[3].count_nonzero() == 0


def test_max_products_is_not_clipped():
    text, (states, weight, _) = case(LENGTHS)
    found = max_products(states, text, len(LENGTHS), weight, 4)
    parts = (states @ weight.T).split(LENGTHS)
    for row, part in zip(found, parts, strict=True):
        expected = part.amax(0) if len(part) else torch.full((V,), -torch.inf, dtype=torch.float64)
        torch.testing.assert_close(row, expected, atol=1e-12, rtol=0)
    assert torch.equal(max_products(states.detach(), text, len(LENGTHS), weight.detach(), 4), found)


@pytest.mark.parametrize("few", [0.0, 1.0])
def test_gradients_of_max_products_are_those_of_the_plain_form(few, monkeypatch):
    monkeypatch.setattr(max_head, "FEW", few)
    text, (states, weight, _) = case(LENGTHS)
    factors = torch.randn(len(LENGTHS), V, dtype=torch.float64)[[0, 1, 3, 4]]
    found = max_products(states, text, len(LENGTHS), weight, 5)[[0, 1, 3, 4]]  # those that have tokens
    expected = torch.stack([part.amax(0) for part in (states @ weight.T).split(LENGTHS) if len(part)])
    pairs = zip(*(gradients(each, factors, (states, weight)) for each in (found, expected)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_half_precision_is_added_up_in_float32():
    """Thousands of texts whose gradients meet in one row: bfloat16 sums would stop growing at 256."""
    count = 1000
    text = torch.arange(count)
    states, weight = torch.ones(count, 1, requires_grad=True), torch.ones(1, 1, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = max_logits(states, text, count, weight, bias)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert weight.grad.item() == count
    assert bias.grad.item() == count


def test_bfloat16_autocast_is_close_to_float32():
    text, leaves = case(LENGTHS, torch.float32)
    states, weight, bias = leaves
    factors = torch.rand(len(LENGTHS), V)
    exact = max_logits(states, text, len(LENGTHS), weight, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = max_logits(states, text, len(LENGTHS), weight, bias)
        from_half = max_logits(states.bfloat16(), text, len(LENGTHS), weight, bias)
    torch.testing.assert_close(half, exact, atol=0.05, rtol=0.02)
    torch.testing.assert_close(from_half, half, atol=0, rtol=0)
    found, wanted = gradients(half, factors, leaves), gradients(exact, factors, leaves)
    assert all(value.dtype == torch.float32 for value in found)
    # A rounded logit may hand its entry to another token; most of the gradient stays where it was.
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.98


def test_weight_shared_with_the_input_embeddings_and_recomputed():
    ids = torch.randint(0, V, (sum(LENGTHS),))
    text, (_, weight, bias) = case(LENGTHS)
    factors = torch.randn(len(LENGTHS), V, dtype=torch.float64)

    def tied(head):
        return head(torch.tanh(weight[ids]))

    wanted = gradients(tied(lambda s: plain(s, LENGTHS, weight, bias)), factors, (weight, bias))
    direct = tied(lambda s: max_logits(s, text, len(LENGTHS), weight, bias, 5))
    again = checkpoint(tied, lambda s: max_logits(s, text, len(LENGTHS), weight, bias, 5), use_reentrant=False)
    for found in (direct, again):
        for ours, theirs in zip(gradients(found, factors, (weight, bias)), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_no_logits_are_held():
    """Between forward and backward only what is active is kept, and no tensor is ever as large as the logits."""
    lengths = [40] * 10
    text = torch.repeat_interleave(torch.arange(10), 40)
    states, weight = torch.randn(400, D, requires_grad=True), torch.randn(1000, D, requires_grad=True)
    bias = torch.full((1000,), -5.0, requires_grad=True)
    kept, largest = [], [0]

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, tuple | list) else [result]:
                if isinstance(value, torch.Tensor):
                    largest[0] = max(largest[0], value.untyped_storage().nbytes())
            return result

    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x), Sizes():
        found = max_logits(states, text, len(lengths), weight, bias, 50)
        found.sum().backward()
    active = int((found > 0).sum())
    assert 0 < active < 5000
    assert sum(x.numel() for x in kept) == states.numel() + weight.numel() + 2 * active
    assert largest[0] <= 4 * 400 * 50
