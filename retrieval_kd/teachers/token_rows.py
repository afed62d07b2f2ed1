"""Rows of token numbers in padded groups of like length, and scoring texts group by group."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from retrieval_kd.contracts import UserError
from retrieval_kd.data.length_groups import budget_groups
from retrieval_kd.data.progress import track
from retrieval_kd.data.tokenize import GroupPlan

log = logging.getLogger(__name__)

Columns = dict[str, list[list[int]]]  # by model input: one list of numbers per row, without padding
WINDOW = 16_384  # rows tokenized and sorted by length together: bounds memory, costs no speed


@dataclass(frozen=True, slots=True)
class PairBatch:
    """N rows in padded groups; ``order[i]`` is the row that row i of the groups' concatenation holds."""

    groups: tuple[dict[str, Tensor], ...]  # each: input name -> [n, L]
    order: Tensor  # [N] int64, a permutation

    def to(self, device: torch.device | str) -> PairBatch:
        """Copy on ``device``."""
        groups = tuple({name: x.to(device, non_blocking=True) for name, x in group.items()} for group in self.groups)
        return PairBatch(groups, self.order.to(device, non_blocking=True))


class PaddedGroups:
    """Pads rows with what a tokenizer pads with; on the left for models that answer at the last position."""

    def __init__(self, tokenizer: Any, left: bool = False) -> None:
        self.tokenizer = tokenizer
        self.cut: set[str] = set()  # queries that lost their ends
        self._told = 0  # how many of them were told of
        self._left = left

    def tell_cut(self, who: str) -> None:
        """Warn of queries that lost their ends; again when they are twice as many."""
        if len(self.cut) >= max(1, 2 * self._told):
            self._told, first = len(self.cut), min(self.cut)[:60]
            log.warning("%s: %d queries left no room for a passage and were cut, such as %r", who, self._told, first)

    def batch(self, columns: Columns, plan: GroupPlan) -> PairBatch:
        """All rows in the groups of like length that ``plan`` cuts.

        The longest come first, so that a machine with too little memory fails at once and not at the end.
        """
        sizes = lengths(columns)
        ascending = np.argsort(sizes, kind="stable")
        rows = [ascending[start:end] for start, end in reversed(plan(sizes[ascending]))]
        return PairBatch(tuple(self.pad(columns, group) for group in rows), torch.from_numpy(np.concatenate(rows)))

    def pad(self, columns: Columns, rows: np.ndarray) -> dict[str, Tensor]:
        """Model inputs [n, L] of some rows."""
        sizes = lengths(columns)[rows]
        shape = (len(rows), int(sizes.max()))
        inside = np.arange(shape[1]) < sizes[:, None]
        if self._left:
            inside = inside[:, ::-1]
        fill = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": self.tokenizer.pad_token_type_id}
        group = {"attention_mask": torch.from_numpy(inside.astype(np.int64))}
        for name, values in columns.items():
            padded = np.full(shape, fill.get(name, 0), dtype=np.int64)
            padded[inside] = [number for row in rows for number in values[row]]
            group[name] = torch.from_numpy(padded)
        return group


def lengths(columns: Columns) -> np.ndarray:
    """int64 [N] tokens of each row."""
    return np.array([len(ids) for ids in columns["input_ids"]], dtype=np.int64)


class TextReader(Protocol):
    """Makes rows of tokens from columns of texts, and groups of them."""

    def encode(self, *texts: Sequence[str]) -> Columns:
        """One row for each entry of the columns."""

    def batch(self, columns: Columns, plan: GroupPlan) -> PairBatch:
        """Groups of like length."""

    def tell_cut(self, who: str) -> None:
        """Warn of what lost its end."""


def score_by_length(
    reader: TextReader,
    texts: Sequence[Sequence[str]],
    forward: Callable[[dict[str, Tensor]], Tensor],
    budget: int,
    who: str,
) -> np.ndarray:
    """float32 [N] of aligned columns of texts, the queries first; ``budget`` padded tokens a forward pass."""
    scores = np.empty(len(texts[0]), dtype=np.float32)
    for _ in track(_fill(scores, reader, texts, forward, budget), "score pairs", total=len(scores)):
        pass
    reader.tell_cut(who)
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        count = f"{bad.size} of {len(scores)} scores are not numbers"
        raise UserError(f"{who}: {count} (first query: {texts[0][bad[0]][:60]!r})")
    return scores


def _fill(
    scores: np.ndarray,
    reader: TextReader,
    texts: Sequence[Sequence[str]],
    forward: Callable[[dict[str, Tensor]], Tensor],
    budget: int,
) -> Iterator[int]:
    """Fill ``scores``, yielding each row's number when it is done."""
    for start in range(0, len(scores), WINDOW):
        columns = reader.encode(*(column[start : start + WINDOW] for column in texts))
        batch = reader.batch(columns, partial(budget_groups, budget=budget))
        done = 0
        for group in batch.groups:
            size = len(group["input_ids"])
            rows = start + batch.order[done : done + size].numpy()
            scores[rows] = forward(group).cpu().numpy()
            done += size
            yield from rows


def shares(lengths_of: Sequence[int], room: int) -> list[int]:
    """How many tokens of one or two passages fit into ``room``: half each, and what one leaves over to the other.

    The shares of two passages do not depend on which comes first, so both orders of a pair read the same texts.
    """
    if len(lengths_of) == 1:
        return [min(lengths_of[0], room)]
    one, other = lengths_of
    half = room // 2
    return [min(one, max(half, room - other)), min(other, max(half, room - one))]
