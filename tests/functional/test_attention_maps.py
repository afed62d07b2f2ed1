import math

import pytest
import torch

from retrieval_kd.functional.attention_maps import renormalised, row_kl, token_similarities

ROWS = torch.tensor([[True, True, True], [True, False, False]])
COLUMNS = torch.tensor([[True, True, True, False], [True, True, False, False]])


def drawn(heads=2, seed=3):
    """Attention of whole pairs: of each row a good part lies outside of the passage."""
    generator = torch.Generator().manual_seed(seed)
    whole = (4 * torch.randn(2, heads, 3, 9, generator=generator)).softmax(-1)
    return whole[..., 2:6], torch.randn(2, heads, 3, 4, generator=generator)


def by_hand(attention, similar):
    """Plain loops in double precision."""
    values = []
    for pair in range(2):
        found = []
        for head in range(attention.shape[1]):
            for row in range(3):
                if not ROWS[pair, row]:
                    continue
                columns = [c for c in range(4) if COLUMNS[pair, c]]
                mass = [attention[pair, head, row, c].item() for c in columns]
                powers = [math.exp(similar[pair, head, row, c].item()) for c in columns]
                teacher = [m / sum(mass) for m in mass]
                student = [p / sum(powers) for p in powers]
                found.append(sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True)))
        values.append(sum(found) / len(found))
    return values


@pytest.mark.parametrize("heads", [1, 2])
def test_row_kl_of_renormalised_rows_matches_the_loop(heads):
    attention, similar = drawn(heads)
    found = row_kl(renormalised(attention, COLUMNS), similar, ROWS, COLUMNS)
    assert found.tolist() == pytest.approx(by_hand(attention, similar), rel=1e-5)


def test_renormalised_rows_sum_to_one_over_the_passage():
    rows = renormalised(drawn()[0], COLUMNS)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 2, 3))
    assert (rows[1, ..., 2:] == 0).all()
    assert (rows[0, ..., 3:] == 0).all()


def test_a_second_softmax_would_be_seen():
    """Who softmaxes attention again gets rows that are nearly uniform; the student that is right would lose."""
    attention, _ = drawn()
    teacher = renormalised(attention, COLUMNS)
    right = teacher.clamp_min(1e-30).log()
    assert row_kl(teacher, right, ROWS, COLUMNS).abs().max() < 1e-6
    twice = attention.masked_fill(~COLUMNS[:, None, None], -torch.inf).softmax(-1)
    assert row_kl(renormalised(twice, COLUMNS), right, ROWS, COLUMNS).min() > 0.1


def test_what_is_padding_changes_nothing():
    attention, similar = drawn()
    expected = row_kl(renormalised(attention, COLUMNS), similar, ROWS, COLUMNS)
    order = torch.tensor([0, 1, 3, 2])  # of the second pair both are padding
    changed = attention[1:, ..., order], similar[1:, ..., order]
    found = row_kl(renormalised(changed[0], COLUMNS[1:]), changed[1], ROWS[1:], COLUMNS[1:])
    torch.testing.assert_close(found, expected[1:])
    attention, similar = attention.clone(), similar.clone()
    attention[1, :, :, 2:] = attention[1, :, 1:] = 9.0
    similar[1, :, :, 2:] = similar[1, :, 1:] = 50.0
    torch.testing.assert_close(row_kl(renormalised(attention, COLUMNS), similar, ROWS, COLUMNS), expected)


def test_padding_gets_no_gradient():
    attention, similar = drawn()
    similar.requires_grad_()
    row_kl(renormalised(attention, COLUMNS), similar, ROWS, COLUMNS).sum().backward()
    inside = ROWS[:, None, :, None] & COLUMNS[:, None, None]
    assert (similar.grad[~inside.expand_as(similar)] == 0).all()
    assert (similar.grad[inside.expand_as(similar)] != 0).any()


def test_rows_without_mass_are_not_counted():
    attention, similar = drawn(heads=1)
    expected = by_hand(attention, similar)
    attention = torch.cat([attention, torch.zeros_like(attention)], dim=1)  # a head that looks elsewhere
    similar = torch.cat([similar, similar], dim=1)
    found = row_kl(renormalised(attention, COLUMNS), similar, ROWS, COLUMNS)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    nothing = row_kl(torch.zeros(1, 1, 3, 4), similar[:1, :1], ROWS[:1], torch.zeros(1, 4, dtype=torch.bool))
    assert nothing.tolist() == [0]


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
def test_token_similarities_match_the_loop(heads, cosine):
    generator = torch.Generator().manual_seed(1)
    queries, passages = torch.randn(2, 3, 6, generator=generator), torch.randn(2, 4, 6, generator=generator)
    found = token_similarities(queries, passages, heads, cosine)
    assert found.shape == (2, heads, 3, 4)
    size = 6 // heads
    for pair, head, row, column in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        part = slice(head * size, (head + 1) * size)
        left, right = queries[pair, row, part].double(), passages[pair, column, part].double()
        expected = (left @ right) / (left.norm() * right.norm() if cosine else 1)
        assert found[pair, head, row, column].item() == pytest.approx(expected.item(), abs=1e-5)
