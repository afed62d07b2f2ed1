"""A white box that the processes of a training ask together: each about its part of the pairs."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from retrieval_kd.contracts import Attention, WhiteBox, WordPairs
from retrieval_kd.functional.processes import gather_rows, process_count


class SharedOut:
    """All processes must ask about the same pairs, as they do of evidence that was gathered; each is told of all."""

    def __init__(self, teacher: WhiteBox) -> None:
        self.teacher = teacher

    def attention(self, pairs: WordPairs, averaged: bool) -> Attention:
        """As the teacher alone would give it."""
        found = self.teacher.attention(_mine(pairs), averaged)
        return Attention(*(_whole(part, len(pairs.queries)) for part in found))

    def features(self, pairs: WordPairs) -> Tensor:
        """As the teacher alone would give them."""
        return _whole(self.teacher.features(_mine(pairs)), len(pairs.queries))


def _mine(pairs: WordPairs) -> WordPairs:
    """Every so many-th pair."""
    processes = process_count()
    return pairs if processes == 1 else WordPairs(*(part[dist.get_rank() :: processes] for part in pairs))


def _whole(part: Tensor, count: int) -> Tensor:
    """The rows of all processes back where their pairs stood."""
    if process_count() == 1:
        return part
    parts = gather_rows(part)
    whole = torch.empty((count, *part.shape[1:]), dtype=part.dtype, device=part.device)
    for rank, rows in enumerate(parts):
        whole[rank :: len(parts)] = rows
    return whole
