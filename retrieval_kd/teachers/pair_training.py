"""Preferences for training a pairwise cross-encoder, from graded lists or from a score teacher's; drawn each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.tokenize import GroupPlan
from retrieval_kd.teachers.cross_encoder_data import EpochOrder
from retrieval_kd.teachers.token_rows import PairBatch
from retrieval_kd.teachers.triple_tokens import TripleTokenizer


class WorthList(NamedTuple):
    """A query's passages, and what each is worth: its grade, or its teacher score; NaN where nothing is known."""

    query_id: str
    query: str
    passages: Sequence[str]
    worth: np.ndarray


class Triple(NamedTuple):
    """Two passages in the order in which they are read, and how certainly the first is the better one."""

    query: str
    first: str
    second: str
    preferred: float


@dataclass(frozen=True, slots=True)
class TripleBatch:
    """Triples of one training step."""

    rows: PairBatch
    preferred: Tensor  # [N] float32

    def to(self, device: torch.device | str) -> TripleBatch:
        """Copy on ``device``; Lightning finds this method by name."""
        return TripleBatch(self.rows.to(device), self.preferred.to(device))


def check_drawing(pairs: int, temperature: float | None) -> None:
    """Refuse settings by which nothing would be drawn, or no preference made."""
    if pairs < 1:
        raise UserError(f"teacher.judge.train.pairs={pairs}: a judge learns from at least one pair per query")
    if temperature is not None and temperature <= 0:
        raise UserError(f"teacher.judge.train.temperature={temperature}: a number above 0 is needed")


class DrawnTriples(Dataset[list[Triple]]):
    """``pairs`` pairs of unequal worth per query, a function of (seed, epoch, query id) alone.

    Each is read in one order, drawn too: over the epochs the model sees both, at half the cost, and cannot learn that
    the better one stands first. With ``temperature``, a preference is as certain as the sigmoid of the difference over
    it (teacher scores); with None the better one is preferred outright (grades).
    """

    def __init__(self, lists: Sequence[WorthList], pairs: int, seed: int, temperature: float | None) -> None:
        check_drawing(pairs, temperature)
        self.lists = [item for item in lists if len(np.unique(item.worth[~np.isnan(item.worth)])) > 1]
        if not self.lists:
            raise UserError(f"none of the {len(lists)} lists to train the judge on has two passages of unequal worth")
        self.pairs, self.seed, self.temperature = pairs, seed, temperature

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, key: tuple[int, int]) -> list[Triple]:
        """Triples of one query in one epoch."""
        epoch, number = key
        item = self.lists[number]
        generator = np.random.default_rng(int(text_digest(str(self.seed), str(epoch), item.query_id), 16))
        better, worse = np.nonzero(item.worth[:, None] > item.worth[None, :])
        drawn = generator.choice(len(better), min(self.pairs, len(better)), replace=False)
        swapped = generator.random(len(drawn)) < 0.5
        return [
            self._triple(item, *((int(worse[n]), int(better[n])) if swap else (int(better[n]), int(worse[n]))))
            for n, swap in zip(drawn, swapped, strict=True)
        ]

    def _triple(self, item: WorthList, first: int, second: int) -> Triple:
        gap = float(item.worth[first] - item.worth[second])
        preferred = float(gap > 0) if self.temperature is None else float((1 + np.tanh(gap / self.temperature / 2)) / 2)
        return Triple(item.query, item.passages[first], item.passages[second], preferred)


class TripleCollator:
    """Tokenizes the triples of some queries into a batch, in the groups of like length that ``plan`` cuts."""

    def __init__(self, reader: TripleTokenizer, plan: GroupPlan) -> None:
        self.reader = reader
        self.plan = plan

    def __call__(self, lists: Sequence[list[Triple]]) -> TripleBatch:
        """Rows and preferences."""
        queries, firsts, seconds, preferred = zip(*(triple for one in lists for triple in one), strict=True)
        columns = self.reader.encode(queries, firsts, seconds)
        return TripleBatch(self.reader.batch(columns, self.plan), torch.tensor(preferred, dtype=torch.float32))


def triple_loader(dataset: DrawnTriples, collator: TripleCollator, batch_size: int) -> DataLoader[list[Triple]]:
    """Loader of the triples of ``batch_size`` queries per step for ``Trainer.fit``."""
    order = EpochOrder(len(dataset), dataset.seed)
    return DataLoader(dataset, batch_size=batch_size, sampler=order, collate_fn=collator)
