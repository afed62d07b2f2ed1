"""One pool from every process's share of a batch, so that a loss over it equals the loss of one big batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from retrieval_kd.contracts import TARGET_ROLES, Batch, Representations, Role, Signals, has_role
from retrieval_kd.functional.padding import widen
from retrieval_kd.functional.processes import gather_rows, process_count


class Pool(NamedTuple):
    """All queries against all distinct passages; what came from other processes carries no gradient."""

    queries: Representations
    passages: Representations
    signals: Signals
    processes: int


def gather_pool(queries: Representations, passages: Representations, batch: Batch) -> Pool:
    """The batch itself in a single process, else the union over processes, each passage once.

    Every process then computes the whole loss, but differentiates only through its own share; times ``processes``,
    and averaged over processes as DDP does, that is the gradient of one big batch.
    """
    processes = process_count()
    if processes == 1:
        return Pool(queries, passages, batch.signals, 1)
    keys = gather_rows(batch.passage_keys)
    known = gather_rows(widen(batch.known_positives, _largest(batch.known_positives.shape[1]), -1))
    counts = [(len(part_q), len(part_p)) for part_q, part_p in zip(known, keys, strict=True)]
    distinct, column, first = _first_occurrences(torch.cat(keys))
    columns = list(column.split([p for _, p in counts]))
    signals = batch.signals
    role = _spread(signals.role[None], counts, columns, len(distinct), int(Role.NONE))[0]
    return Pool(
        {name: torch.cat(_gather_with_own_gradient(value)) for name, value in _aligned(queries).items()},
        {name: torch.cat(_gather_with_own_gradient(value))[first] for name, value in _aligned(passages).items()},
        Signals(
            positive=_match(torch.cat(known), distinct) | has_role(role, TARGET_ROLES),
            role=role,
            scores=_spread(signals.scores[None], counts, columns, len(distinct), float("nan"))[0],
            members=_spread(signals.members, counts, columns, len(distinct), float("nan")),
            pairs=_pairs(signals.pairs, counts, columns),
            log_odds=torch.cat(gather_rows(signals.log_odds)),
            own=None if signals.own is None else _spread(signals.own, counts, columns, len(distinct), float("nan")),
        ),
        processes,
    )


def _match(known: Tensor, keys: Tensor) -> Tensor:
    """[Q, m] known positives against [P] keys: [Q, P], one column of ``known`` at a time."""
    positive = torch.zeros(len(known), len(keys), dtype=torch.bool, device=keys.device)
    for column in known.unbind(1):
        positive |= column.unsqueeze(1) == keys.unsqueeze(0)
    return positive


def _first_occurrences(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct keys, the distinct column of each key, and where each distinct key stands first."""
    distinct, column = torch.unique(keys, return_inverse=True)
    first = torch.full_like(distinct, len(keys))
    first.scatter_reduce_(0, column, torch.arange(len(keys), device=keys.device), reduce="amin")
    return distinct, column, first


def _largest(size: int) -> int:
    sizes: list[int | None] = [None] * dist.get_world_size()
    dist.all_gather_object(sizes, size)
    return max(value for value in sizes if value is not None)


def _aligned(representations: Representations) -> Representations:
    """Widths (token counts, say) made equal over processes by zero padding; the leading size may differ."""
    return {
        name: widen(value, _largest(value.shape[1])) if value.ndim > 1 else value
        for name, value in sorted(representations.items())
    }


def _gather_with_own_gradient(value: Tensor) -> list[Tensor]:
    parts = gather_rows(value)
    parts[dist.get_rank()] = value
    return parts


def _spread(value: Tensor, counts: list[tuple[int, int]], columns: list[Tensor], width: int, fill: float) -> Tensor:
    """[M, q, p] of each process into [M, Q, P]: rows one process after the other, columns where the passage stands."""
    flat = gather_rows(value.permute(1, 2, 0).flatten(0, 1))
    blocks = []
    for part, (rows, own), column in zip(flat, counts, columns, strict=True):
        block = part.new_full((rows, width, len(value)), fill)
        block[:, column] = part.reshape(rows, own, len(value))
        blocks.append(block)
    return torch.cat(blocks).permute(2, 0, 1)


def _pairs(pairs: Tensor, counts: list[tuple[int, int]], columns: list[Tensor]) -> Tensor:
    parts = []
    offset = 0
    for part, (rows, _), column in zip(gather_rows(pairs), counts, columns, strict=True):
        parts.append(torch.stack([part[:, 0] + offset, column[part[:, 1]], column[part[:, 2]]], dim=1))
        offset += rows
    return torch.cat(parts)
