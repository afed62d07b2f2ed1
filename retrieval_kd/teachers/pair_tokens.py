"""(query, passage) pairs as token groups of like length, ready for a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrieval_kd.data.tokenize import GroupPlan, ordinary, spelled_specials

Columns = dict[str, list[list[int]]]  # by model input: one list of numbers per pair, without padding


@dataclass(frozen=True, slots=True)
class PairBatch:
    """N pairs in padded groups; ``order[i]`` is the pair that row i of the groups' concatenation holds."""

    groups: tuple[dict[str, Tensor], ...]  # each: input name -> [n, L]
    order: Tensor  # [N] int64, a permutation

    def to(self, device: torch.device | str) -> PairBatch:
        """Copy on ``device``."""
        groups = tuple({name: x.to(device, non_blocking=True) for name, x in group.items()} for group in self.groups)
        return PairBatch(groups, self.order.to(device, non_blocking=True))


class PairTokenizer:
    """Encodes pairs as the model was trained to read them, with user text as ordinary text.

    A pair that is too long loses the end of its passage. Only where a query alone leaves no room for a passage is the
    longer of the two cut first.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        max_length: In tokens, special tokens included.
        templates: For the query, holding ``{query}``, and the passage, holding ``{passage}``.
    """

    def __init__(self, tokenizer: Any, max_length: int, templates: tuple[str, str]) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.templates = templates
        self._spelled = spelled_specials(tokenizer)

    def encode(self, queries: Sequence[str], passages: Sequence[str]) -> Columns:
        """Token ids (and segment ids where the model has them) of each pair, cut to ``max_length``."""
        firsts = [self.templates[0].replace("{query}", query) for query in queries]
        seconds = [self.templates[1].replace("{passage}", passage) for passage in passages]
        long = self._too_long(firsts)
        # The tokenizer refuses a whole batch if it may cut passages only and one query leaves no room.
        parts = [
            (rows, self._call([firsts[i] for i in rows], [seconds[i] for i in rows], strategy))
            for strategy, rows in (
                ("only_second", [i for i, first in enumerate(firsts) if first not in long]),
                ("longest_first", [i for i, first in enumerate(firsts) if first in long]),
            )
            if rows
        ]
        columns: Columns = {}
        for rows, encoded in parts:
            for name, values in encoded.items():
                column = columns.setdefault(name, [[]] * len(firsts))
                for row, value in zip(rows, values, strict=True):
                    column[row] = value
        return columns

    def _call(self, firsts: list[str], seconds: list[str], strategy: str) -> Columns:
        encoded = self.tokenizer(
            firsts,
            seconds,
            truncation=strategy,
            max_length=self.max_length,
            split_special_tokens=True,
            return_attention_mask=False,
            return_special_tokens_mask=bool(self._spelled),
        )
        columns = dict(encoded)
        if self._spelled:
            added = columns.pop("special_tokens_mask")
            columns["input_ids"] = ordinary(columns["input_ids"], added, self._spelled, self.tokenizer.unk_token_id)
        return columns

    def _too_long(self, firsts: list[str]) -> set[str]:
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
        distinct = list(dict.fromkeys(firsts))
        ids = self.tokenizer(
            distinct, add_special_tokens=False, split_special_tokens=True, truncation=False, verbose=False
        )["input_ids"]
        return {text for text, tokens in zip(distinct, ids, strict=True) if len(tokens) >= room}

    def batch(self, columns: Columns, plan: GroupPlan) -> PairBatch:
        """All pairs in the groups of like length that ``plan`` cuts.

        The longest come first, so that a machine with too little memory fails at once and not at the end.
        """
        sizes = lengths(columns)
        ascending = np.argsort(sizes, kind="stable")
        rows = [ascending[start:end] for start, end in reversed(plan(sizes[ascending]))]
        return PairBatch(tuple(self.pad(columns, group) for group in rows), torch.from_numpy(np.concatenate(rows)))

    def pad(self, columns: Columns, rows: np.ndarray) -> dict[str, Tensor]:
        """Model inputs [n, L] of some pairs, padded on the right."""
        sizes = lengths(columns)[rows]
        shape = (len(rows), int(sizes.max()))
        inside = np.arange(shape[1]) < sizes[:, None]
        fill = {"input_ids": self.tokenizer.pad_token_id, "token_type_ids": self.tokenizer.pad_token_type_id}
        group = {"attention_mask": torch.from_numpy(inside.astype(np.int64))}
        for name, values in columns.items():
            padded = np.full(shape, fill.get(name, 0), dtype=np.int64)
            padded[inside] = [number for row in rows for number in values[row]]
            group[name] = torch.from_numpy(padded)
        return group


def lengths(columns: Columns) -> np.ndarray:
    """int64 [N] tokens of each pair."""
    return np.array([len(ids) for ids in columns["input_ids"]], dtype=np.int64)
