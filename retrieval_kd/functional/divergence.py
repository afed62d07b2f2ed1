"""What objectives compute, as functions of plain matrices: one value per query, masks instead of missing entries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Log-softmax over the entries of each row that ``mask`` keeps; the others hold a large negative number."""
    return scores.to(torch.float32).masked_fill(~mask, torch.finfo(torch.float32).min).log_softmax(-1)


def contrastive(similarities: Tensor, target: Tensor, negative: Tensor) -> Tensor:
    """-log( e^s+ / (e^s+ + sum over negatives e^s-) ), averaged over each row's targets [Q]; 0 without a target.

    A row's other positives are in neither numerator nor denominator: they are no evidence against the target.
    """
    scores = similarities.to(torch.float32)
    against = scores.masked_fill(~negative, torch.finfo(torch.float32).min).logsumexp(-1, keepdim=True)
    losses = F.softplus(against - scores).masked_fill(~target, 0.0)
    return losses.sum(-1) / target.sum(-1).clamp_min(1)


def listwise_kl(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each row over the entries that ``mask`` keeps [Q].

    A teacher entry of minus infinity has no mass and still stands in the student's denominator.
    """
    student_log = masked_log_softmax(student, mask)
    teacher_log = masked_log_softmax(teacher, mask)
    mass = teacher_log.exp()
    gap = (teacher_log - student_log).masked_fill(~mask | (mass == 0), 0.0)
    return (mass * gap).sum(-1)


def margin_mse(student: Tensor, teacher: Tensor, positive: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of the margins s(positive) - s(other) of student and teacher [Q]; all are [Q, P].

    The sum over pairs is expanded, so nothing of size [Q, P, P] exists; gaps are centred first, against cancellation.
    """
    gap = (student.to(torch.float32) - teacher.to(torch.float32)).masked_fill(~(positive | other), 0.0)
    n_positive, n_other = positive.sum(-1), other.sum(-1)
    centre = gap.detach().masked_fill(~positive, 0.0).sum(-1) / n_positive.clamp_min(1)
    gap = gap - centre.unsqueeze(-1)
    left, right = gap.masked_fill(~positive, 0.0), gap.masked_fill(~other, 0.0)
    squared = n_other * left.square().sum(-1) + n_positive * right.square().sum(-1) - 2 * left.sum(-1) * right.sum(-1)
    return squared / (n_positive * n_other).clamp_min(1)


def mean_over_queries(losses: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
    """Weighted losses [Q] over the number of queries for which the term says anything."""
    return (losses * weight).masked_fill(~valid, 0.0).sum() / valid.sum().clamp_min(1)
