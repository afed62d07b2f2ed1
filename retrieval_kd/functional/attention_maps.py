"""A cross-encoder's attention between two texts beside the similarities of a student's tokens, row by row.

Attention is a softmax already. Cut to the tokens of the other text its rows are renormalised, never softmaxed again:
exponents of numbers between 0 and 1 are nearly equal, and the target would be nearly uniform.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval_kd.functional.divergence import masked_log_softmax


def renormalised(attention: Tensor, columns: Tensor) -> Tensor:
    """Rows of [n, H, I, J] over the ``columns`` [n, J] alone, summing to one there; zeros where a row has no mass."""
    kept = attention.to(torch.float32).masked_fill(~columns[:, None, None], 0.0)
    return kept / kept.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def token_similarities(queries: Tensor, passages: Tensor, heads: int, cosine: bool) -> Tensor:
    """Of [n, I, D] and [n, J, D]: [n, heads, I, J], each head with its own part of the dimensions, in float32."""
    left, right = (
        states.to(torch.float32).unflatten(-1, (heads, states.shape[-1] // heads)).transpose(1, 2)
        for states in (queries, passages)
    )
    if cosine:
        left, right = F.normalize(left, dim=-1), F.normalize(right, dim=-1)
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.transpose(-1, -2)


def row_kl(teacher: Tensor, student: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """KL(teacher || softmax(student)) of each row, averaged over heads and rows [n].

    Args:
        teacher: Probabilities [n, H, I, J]; a row of zeros is not counted.
        student: Similarities [n, H, I, J].
        rows: Which of the I are no padding [n, I].
        columns: Which of the J are none [n, J].
    """
    gap = teacher.clamp_min(torch.finfo(torch.float32).tiny).log() - masked_log_softmax(student, columns[:, None, None])
    values = (teacher * gap.masked_fill(teacher == 0, 0.0)).sum(-1)
    counted = rows[:, None] & (teacher > 0).any(-1)
    return values.masked_fill(~counted, 0.0).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)
