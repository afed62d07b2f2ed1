"""The weight of a query is on every term that learns from a teacher, and on no other; the filter is for the others."""

from dataclasses import replace

import pytest
import torch
from evidence_case import make_evidence, make_negative, make_signals

from retrieval_kd.objectives.contrastive import Contrastive
from retrieval_kd.objectives.listwise_kl import ListwiseKL
from retrieval_kd.objectives.margin_mse import MarginMSE
from retrieval_kd.objectives.pairwise import Pairwise
from retrieval_kd.objectives.ranknet import RankNet

SOFT = [
    ListwiseKL(1.0, 1.0, "exclude"),
    ListwiseKL(1.0, 1.0, "zero"),
    MarginMSE(1.0, 1.0),
    Pairwise(1.0, 1.0, "pairs"),
    Pairwise(1.0, 1.0, "queries"),
    RankNet(1.0, "pairs"),
    RankNet(1.0, "queries"),
]


def gradient(term, weight, kept=None):
    signals = replace(
        make_signals(), pairs=torch.tensor([[0, 0, 1], [1, 1, 2], [1, 3, 2], [2, 0, 5]]), log_odds=torch.arange(4.0)
    )
    similarities = (torch.arange(18.0).view(3, 6) / 5).sin().requires_grad_()
    negative = make_negative(signals) if kept is None else make_negative(signals) & kept
    value = term(make_evidence(similarities), signals, negative, torch.tensor(weight))
    return torch.autograd.grad(value, similarities)[0]


@pytest.mark.parametrize("term", SOFT)
def test_soft_labels_are_weighted_query_by_query(term):
    whole, some = gradient(term, [1.0, 1.0, 1.0]), gradient(term, [0.0, 1.0, 0.25])
    assert (whole.abs().sum(1) > 0).all()
    assert not some[0].any()
    torch.testing.assert_close(some[1:], whole[1:] * torch.tensor([[1.0], [0.25]]))


def test_hard_labels_are_not():
    assert torch.equal(gradient(Contrastive(1.0, True), [0.0, 1.0, 0.25]), gradient(Contrastive(1.0, True), [1.0] * 3))


@pytest.mark.parametrize("term", SOFT)
def test_soft_labels_keep_the_list_whole_whatever_the_filter_drops(term):
    dropped = torch.zeros(3, 6, dtype=torch.bool)
    assert torch.equal(gradient(term, [1.0] * 3, dropped), gradient(term, [1.0] * 3))
    hard = Contrastive(1.0, True)
    assert not torch.equal(gradient(hard, [1.0] * 3, dropped), gradient(hard, [1.0] * 3))
