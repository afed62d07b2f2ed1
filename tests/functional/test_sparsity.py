import math

import numpy as np
import pytest
import torch

from retrieval_kd.functional import sparsity
from retrieval_kd.functional.sparsity import (
    active_terms,
    dense_terms,
    df_flops,
    df_weights,
    expected_flops,
    flops,
    flops_by_position,
    flops_over_idf,
    l0_masked_flops,
    l1,
    log_activation,
    padded_terms,
    term_shares,
)


@pytest.fixture
def reps():
    return (torch.randn(12, 40) - 0.3).relu()


def naive_flops(rows):
    """Python loops; ``rows`` is a list of lists."""
    return sum((sum(row[v] for row in rows) / len(rows)) ** 2 for v in range(len(rows[0])))


def test_log_activation_by_hand():
    x = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
    one, two = log_activation(x, 1), log_activation(x, 2)
    assert one.tolist() == pytest.approx([0, 0, math.log(2.5)], abs=1e-12)
    assert two.tolist() == pytest.approx([0, 0, math.log(1 + math.log(2.5))], abs=1e-12)
    with pytest.raises(ValueError, match="logs=3: it is 1 or 2"):
        log_activation(x, 3)


def test_flops_is_what_loops_say(reps):
    assert flops(reps).item() == pytest.approx(naive_flops(reps.tolist()), rel=1e-5)


def test_flops_falls_when_activations_are_spread():
    alike = torch.eye(4)[[0, 0, 0, 0]]
    assert flops(alike).item() == 1.0
    assert flops(torch.eye(4)).item() == pytest.approx(1 / 4)


def test_flops_by_position_is_a_sum_over_positions(reps):
    positions = torch.arange(12) % 3
    by_hand = sum(naive_flops(reps[positions == place].tolist()) for place in range(3))
    assert flops_by_position(reps, positions).item() == pytest.approx(by_hand, rel=1e-5)
    # What the tuning repository computes: [B, n, V], mean over B, sum of squares over n and V.
    assert reps.view(4, 3, 40).mean(0).square().sum().item() == pytest.approx(by_hand, rel=1e-5)
    assert flops_by_position(reps, torch.zeros(12, dtype=torch.int64)).item() == pytest.approx(flops(reps).item())


def test_what_is_in_no_list_is_left_out(reps):
    positions = torch.arange(12) % 3
    longer, more = torch.cat([reps, reps[:2] + 1]), torch.cat([positions, torch.tensor([-1, -1])])
    assert flops_by_position(longer, more).item() == pytest.approx(flops_by_position(reps, positions).item())
    assert flops_by_position(reps, torch.full((12,), -1)).item() == 0.0


def test_flops_over_idf_is_flops_before_the_weight(reps):
    idf = torch.rand(40) * 5 + 0.01
    idf[3] = 0.0  # a special token
    reps[:, 3] = 0.0
    assert flops_over_idf(reps * idf, idf).item() == pytest.approx(flops(reps).item(), rel=1e-5)
    weighted = (reps * idf).requires_grad_()
    flops_over_idf(weighted, idf).backward()
    assert weighted.grad.isfinite().all()


def test_l0_mask_spares_short_rows(reps):
    lengths = active_terms(reps)
    threshold = lengths.median().item()
    kept = [row if length > threshold else [0.0] * 40 for row, length in zip(reps.tolist(), lengths, strict=True)]
    assert 0 < sum(map(any, kept)) < 12
    assert l0_masked_flops(reps, threshold).item() == pytest.approx(naive_flops(kept), rel=1e-5)
    assert l0_masked_flops(reps, 40).item() == 0.0
    assert l0_masked_flops(reps, -1).item() == pytest.approx(flops(reps).item())
    leaf = reps.clone().requires_grad_()
    l0_masked_flops(leaf, threshold).backward()
    assert torch.equal(leaf.grad.abs().sum(1) > 0, lengths > threshold)


def test_df_weights_at_known_shares():
    found = df_weights(torch.tensor([0.0, 0.1, 1.0, 0.01]), 0.1, 10.0)
    assert found[:3].tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-5)
    # share = alpha^2 gives share^(log_alpha 2) = 4
    assert found[3].item() == pytest.approx(1 / (1 + 3**10), rel=1e-3)
    shares = torch.linspace(0, 1, 50)
    assert (df_weights(shares, 0.2, 4.0).diff() >= 0).all()
    for alpha, beta in [(0.0, 1.0), (1.0, 1.0), (0.1, 0.0)]:
        with pytest.raises(ValueError, match="alpha lies between 0 and 1, beta above 0"):
            df_weights(shares, alpha, beta)


def test_df_flops_weighs_the_means(reps):
    shares = torch.rand(40)
    weights = df_weights(shares, 0.1, 2.0).tolist()
    rows = [[w * x for w, x in zip(weights, row, strict=True)] for row in reps.tolist()]
    assert df_flops(reps, shares, 0.1, 2.0).item() == pytest.approx(naive_flops(rows), rel=1e-5)
    assert df_flops(reps, torch.ones(40), 0.1, 2.0).item() == pytest.approx(flops(reps).item(), rel=1e-5)


def test_l1_and_active_terms_by_hand():
    reps = torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 0.5]])
    assert l1(reps).item() == pytest.approx(1.75)
    assert active_terms(reps).tolist() == [2.0, 1.0]


@pytest.mark.parametrize("penalty", [flops, l1, lambda reps: l0_masked_flops(reps, 1)])
def test_penalties_are_float32_in_half_precision(penalty, reps):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = penalty(reps.bfloat16())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(penalty(reps).item(), rel=2e-2)


def test_expected_flops_is_the_mean_overlap(monkeypatch):
    monkeypatch.setattr(sparsity, "BLOCK", 3)  # blocks end within texts
    generator = np.random.default_rng(0)
    queries = [generator.choice(20, generator.integers(0, 5), replace=False) for _ in range(7)]
    passages = [generator.choice(20, generator.integers(1, 12), replace=False) for _ in range(9)]
    overlaps = [len(np.intersect1d(q, p)) for q in queries for p in passages]
    found = expected_flops(np.concatenate(queries).astype(np.int32), 7, np.concatenate(passages), 9, 20)
    assert found == pytest.approx(np.mean(overlaps))
    shares = term_shares(np.concatenate(passages), 9, 20)
    assert shares.tolist() == pytest.approx([np.mean([v in p for p in passages]) for v in range(20)])
    assert expected_flops(np.array([], np.int32), 0, np.concatenate(passages), 9, 20) == 0.0


def test_padded_terms_by_hand():
    reps = torch.tensor([[0.0, 0.2, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0], [4.0, 0.4, 0.41, 1.0]])
    found = padded_terms(reps)
    assert found["terms"].tolist() == [[1, 3, 0, 0], [0, 0, 0, 0], [0, 1, 2, 3]]
    assert found["terms"].dtype == torch.int32
    assert found["lengths"].tolist() == [2, 0, 4]
    assert torch.equal(dense_terms(found["terms"], found["weights"], 4), reps)
    pruned = padded_terms(reps, 0.1)  # 0.2 and 0.4 are a tenth of the largest: dropped
    assert pruned["terms"].tolist() == [[3, 0, 0], [0, 0, 0], [0, 2, 3]]
    assert pruned["lengths"].tolist() == [1, 0, 3]


@pytest.mark.parametrize("shape", [(0, 5), (3, 5), (1, 0)])
def test_padded_terms_of_nothing(shape):
    found = padded_terms(torch.zeros(shape))
    assert found["terms"].shape == found["weights"].shape == (shape[0], 0)
    assert found["lengths"].tolist() == [0] * shape[0]
    assert torch.equal(dense_terms(found["terms"], found["weights"], shape[1]), torch.zeros(shape))


def test_padded_terms_give_back_what_was_dense(reps):
    found = padded_terms(reps)
    assert torch.equal(dense_terms(found["terms"], found["weights"], 40), reps)
    assert torch.equal(found["lengths"].float(), active_terms(reps))
    assert found["terms"].shape[1] == int(active_terms(reps).max())
