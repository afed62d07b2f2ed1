import pytest
import torch

from retrieval_kd.functional import late_interaction
from retrieval_kd.functional.late_interaction import max_sim, max_sim_of_tokens, without_padding

D = 5
QUERIES, PASSAGES = [3, 1, 4], [6, 2, 1, 7, 3]


def padded(lengths, dtype=torch.float64, width=None):
    """Random tokens; what stands behind a length is as large as can be, and must never count."""
    tokens = torch.randn(len(lengths), width or max(lengths), D, dtype=dtype)
    lengths = torch.tensor(lengths)
    tokens[~late_interaction.inside(lengths, tokens.shape[1])] = 1e6
    return tokens.requires_grad_(), lengths


def loop(queries, query_lengths, passages, passage_lengths):
    """The definition, token by token."""
    rows = []
    for query, m in zip(queries, query_lengths.tolist(), strict=True):
        row = []
        for passage, n in zip(passages, passage_lengths.tolist(), strict=True):
            row.append(sum(max(query[i] @ passage[j] for j in range(n)) for i in range(m)))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def plain(queries, query_lengths, passages, passage_lengths):
    """The tensor of all token products."""
    every = torch.einsum("qid,pjd->qpij", queries, passages)
    every = every.masked_fill(~late_interaction.inside(passage_lengths, passages.shape[1])[:, None], -torch.inf)
    best = every.amax(3)
    return (best * late_interaction.inside(query_lengths, queries.shape[1])[:, None]).sum(2)


@pytest.mark.parametrize("at_once", [1, 7, 4096])
@pytest.mark.parametrize("entries", [3, 512])
def test_value_and_gradients_are_those_of_the_plain_form(at_once, entries, monkeypatch):
    monkeypatch.setattr(late_interaction, "ENTRIES_AT_ONCE", entries)
    queries, passages = padded(QUERIES), padded(PASSAGES, width=9)
    flat = [without_padding(*side) for side in (queries, passages)]
    found = max_sim_of_tokens(flat[0], queries[1], flat[1], passages[1], at_once)
    torch.testing.assert_close(found, loop(*queries, *passages), atol=1e-12, rtol=0)
    expected = plain(*queries, *passages)
    factors = torch.randn(found.shape, dtype=torch.float64)
    leaves = (queries[0], passages[0])
    pairs = zip(
        torch.autograd.grad((found * factors).sum(), leaves),
        torch.autograd.grad((expected * factors).sum(), leaves),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert torch.equal(max_sim(*queries, *passages), max_sim_of_tokens(flat[0], queries[1], flat[1], passages[1]))


def test_gradcheck():
    (queries, query_lengths), (passages, passage_lengths) = padded([2, 1]), padded([3, 1, 2])
    assert torch.autograd.gradcheck(
        lambda left, right: max_sim(left, query_lengths, right, passage_lengths), (queries, passages)
    )


def test_padding_is_no_match_even_where_all_matches_are_negative():
    query, passage = torch.tensor([[[1.0]]]), torch.tensor([[[-2.0], [-1.0], [0.0]]])
    scores = max_sim(query, torch.tensor([1]), passage, torch.tensor([2]))
    assert scores.tolist() == [[-1.0]]


def test_texts_without_tokens():
    queries, passages = padded([2, 0]), padded([3, 0, 0])
    with torch.no_grad():
        found = max_sim(*queries, *passages)
        assert torch.isneginf(found[:, 1:]).all()
        assert found[1, 0] == 0
        assert max_sim(*queries, passages[0][:0], passages[1][:0]).shape == (2, 0)
        assert max_sim(queries[0][:0], queries[1][:0], *passages).shape == (0, 3)
        assert torch.isneginf(max_sim(*queries, passages[0][1:], passages[1][1:])).all()
    scores = max_sim(*queries, *passages)[:, 0].sum()
    gradients = torch.autograd.grad(scores, (queries[0], passages[0]))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_only_the_best_matches_have_a_gradient_and_the_first_of_equal_ones():
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], requires_grad=True)
    passage = torch.tensor([[[2.0, 0.0], [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]], requires_grad=True)
    scores = max_sim(query, torch.tensor([2]), passage, torch.tensor([4]))
    assert scores.item() == 5.0
    scores.sum().backward()
    assert passage.grad[0].tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]]
    assert query.grad[0].tolist() == [[2, 0], [0, 3]]


def test_scores_are_float32_whatever_the_encoder_computes_in():
    queries, passages = padded(QUERIES, torch.float32), padded(PASSAGES, torch.float32)
    exact = max_sim(*queries, *passages)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(max_sim(*queries, *passages), exact)
        half = max_sim(queries[0].bfloat16(), queries[1], passages[0].bfloat16(), passages[1])
    assert half.dtype == exact.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.1, rtol=0)


def test_products_of_all_tokens_are_never_held(monkeypatch):
    monkeypatch.setattr(late_interaction, "TOKENS_AT_ONCE", 64)
    monkeypatch.setattr(late_interaction, "ENTRIES_AT_ONCE", 16)
    queries, passages = padded([20] * 6, torch.float32), padded([30] * 20, torch.float32)
    flat = [without_padding(*side).detach().requires_grad_() for side in (queries, passages)]
    kept, largest = [], [0]

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, tuple | list) else [result]:
                if isinstance(value, torch.Tensor):
                    largest[0] = max(largest[0], value.numel())
            return result

    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x), Sizes():
        max_sim_of_tokens(flat[0], queries[1], flat[1], passages[1], 64).sum().backward()
    matches = 6 * 20 * 20
    assert largest[0] <= max(matches, 2 * flat[1].numel())  # of 6 * 20 * 20 * 30 products
    assert sum(value.numel() for value in kept if not value.is_floating_point()) <= 3 * matches
