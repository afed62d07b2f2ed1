import math

import pytest
import torch
from torch import nn

from retrieval_kd.functional.dropout import LEVELS, QuickDropout, attention, dropout, quicken_dropout
from retrieval_kd.students.backbone import load_encoder


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_and_the_mean(probability):
    torch.manual_seed(0)
    value = torch.ones(400, 1001)  # no multiple of four values
    out = dropout(value, probability)
    zeros = (out == 0).double().mean()
    level = round(probability * LEVELS) / LEVELS
    assert abs(zeros - level) < 5 * math.sqrt(level * (1 - level) / value.numel())
    assert out[out != 0].unique().tolist() == [pytest.approx(1 / (1 - level), rel=1e-6)]
    for part in (out[:200], out[:, ::2], out[:, 1::2], out[:, :500]):  # neighbours of one number of 64 bits are unalike
        assert abs((part == 0).double().mean() - level) < 5 * math.sqrt(level / part.numel())


def test_neighbours_are_independent():
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(400_000), 0.5) == 0).double() - 0.5
    for distance in (1, 2, 3, 4, 1024):
        assert abs((dropped[distance:] * dropped[:-distance]).mean()) < 5 * 0.25 / math.sqrt(400_000)


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(2)
    value = torch.rand(50, 7, dtype=torch.float64) + 1
    value.requires_grad_()
    out = dropout(value, 0.3)
    (out * 2).sum().backward()
    torch.testing.assert_close(value.grad, 2 * out.detach() / value.detach())


def test_torchs_seed_decides_and_no_two_masks_are_equal():
    value = torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(value, 0.5), dropout(value, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(value, 0.5))
    assert torch.equal(second, dropout(value, 0.5))
    assert not torch.equal(first, second)


def test_nothing_is_dropped_outside_training():
    value = torch.rand(5, 3)
    assert torch.equal(QuickDropout(0.5).eval()(value), value)
    assert torch.equal(dropout(value, 0.0), value)
    assert dropout(torch.empty(0, 3), 0.5).shape == (0, 3)


@pytest.mark.parametrize("masked", ["bool", "float", "none"])
def test_attention_is_that_of_torch(masked):
    torch.manual_seed(4)
    query, key, value = torch.randn(3, 2, 4, 6, 8, dtype=torch.float64).unbind()
    kept = torch.arange(6).expand(2, 1, 1, 6) < torch.tensor([6, 4]).view(2, 1, 1, 1)
    mask = {"bool": kept, "float": torch.zeros(2, 1, 1, 6).double().masked_fill(~kept, -torch.inf), "none": None}[
        masked
    ]
    found = attention(query, key, value, mask, 0.0, 8**-0.5)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_weights_of_attention_are_dropped():
    """A value of ones makes the sum of the weights visible: 1 without dropout, 1 on average with it."""
    torch.manual_seed(5)
    query, key = torch.randn(2, 8, 4, 64, 16).unbind()
    sums = attention(query, key, torch.ones(8, 4, 64, 1), None, 0.5, 0.25)
    assert sums.std() > 0.05
    assert abs(sums.mean() - 1) < 0.02


def test_a_model_in_training_is_that_of_transformers_up_to_its_masks(tiny):
    """Dropout off, the outputs are equal; on, their mean over many masks is that of transformers' own dropout."""
    from transformers import AutoModel

    own, plain = load_encoder(tiny), AutoModel.from_pretrained(tiny)
    assert not any(type(module) is nn.Dropout for module in own.modules())
    ids = torch.randint(5, 20, (64, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[::2, 6:] = 0
    with torch.no_grad():
        still = [model.eval()(ids, mask).last_hidden_state for model in (own, plain)]
        torch.testing.assert_close(*still)
        torch.manual_seed(6)
        spreads = []
        for model in (own, plain):
            model.train()
            spreads.append(torch.stack([model(ids, mask).last_hidden_state for _ in range(40)]))
    kept = mask.bool()
    ours, theirs = (spread[:, kept] for spread in spreads)
    assert ours.std(0).mean() == pytest.approx(theirs.std(0).mean().item(), rel=0.03)
    assert (ours.mean(0) - theirs.mean(0)).abs().mean() < 0.2 * theirs.std(0).mean()


def test_what_is_saved_names_no_attention_of_ours(tiny, tmp_path):
    model = load_encoder(tiny)
    quicken_dropout(model)
    model.save_pretrained(tmp_path)
    assert "retrieval_kd" not in (tmp_path / "config.json").read_text()
