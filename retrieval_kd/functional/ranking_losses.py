"""Losses that train a reranker on lists: scores, labels and mask are [Q, n]; False in the mask is padding.

Labels are grades of judged passages, or another teacher's scores.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from retrieval_kd.functional import divergence


def listwise_cross_entropy(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the list's softmax to its labels as a distribution; mean over lists that have a positive."""
    scores = scores.float().masked_fill(~mask, -torch.inf)
    labels = labels.float().masked_fill(~mask, 0.0)
    total = labels.sum(-1)
    # -inf · 0 is NaN, also in the gradient: padded places are set to 0 after the softmax, where no label looks.
    log_probabilities = scores.log_softmax(-1).masked_fill(~mask, 0.0)
    losses = -(labels * log_probabilities).sum(-1) / total.clamp_min(torch.finfo(total.dtype).tiny)
    taught = total > 0
    return torch.where(taught, losses, 0.0).sum() / taught.sum().clamp_min(1)


def pointwise_cross_entropy(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of each pair by itself, any label > 0 is relevant; mean over pairs."""
    targets = (labels > 0).float()
    losses = F.binary_cross_entropy_with_logits(scores.float(), targets, reduction="none")
    return losses.masked_fill(~mask, 0.0).sum() / mask.sum().clamp_min(1)


def listwise_kl(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """KL(softmax(labels) || softmax(scores)) of each list; mean over lists of two or more."""
    told = mask.sum(-1) > 1
    losses = divergence.listwise_kl(scores, labels, mask)
    return losses.masked_fill(~told, 0.0).sum() / told.sum().clamp_min(1)


def margin_mse(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of the margins between every two passages of a list; mean over lists of two or more."""
    count = mask.sum(-1)
    gap = (scores.float() - labels.float()).masked_fill(~mask, 0.0)
    centred = (gap - (gap.sum(-1) / count.clamp_min(1)).unsqueeze(-1)).masked_fill(~mask, 0.0)
    # The squares of all n(n - 1)/2 differences sum to n times those of the centred gaps.
    losses = 2 * centred.square().sum(-1) / (count - 1).clamp_min(1)
    return losses.sum() / (count > 1).sum().clamp_min(1)
