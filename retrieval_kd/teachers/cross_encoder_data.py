"""Judged or scored lists for training a cross-encoder: the best passage and some others, drawn anew each epoch."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.tokenize import GroupPlan
from retrieval_kd.teachers.pair_tokens import PairTokenizer
from retrieval_kd.teachers.token_rows import PairBatch


class LabelledList(NamedTuple):
    """A query's candidates; a grade > 0 is relevant, 0 is a negative; or another teacher's scores, NaN where none."""

    query_id: str
    query: str
    passages: Sequence[str]
    labels: Sequence[float]


@dataclass(frozen=True, slots=True)
class ListBatch:
    """Lists of one training step; pair number i stands at the i-th True of ``mask``, row by row."""

    pairs: PairBatch
    labels: Tensor  # [Q, n] float32, 0 where padded
    mask: Tensor  # [Q, n] bool

    def to(self, device: torch.device | str) -> ListBatch:
        """Copy on ``device``; Lightning finds this method by name."""
        return ListBatch(self.pairs.to(device), self.labels.to(device), self.mask.to(device))


class DrawnLists(Dataset[LabelledList]):
    """One positive and ``negatives`` negatives per query, a function of (seed, epoch, query id) alone.

    Items are asked for by (epoch, number); lists without a positive or without a negative teach nothing and are left
    out. A query with fewer negatives gives a shorter list.
    """

    def __init__(self, lists: Sequence[LabelledList], negatives: int, seed: int) -> None:
        _check_negatives(negatives)
        self.lists = [item for item in lists if any(x > 0 for x in item.labels) and not all(x > 0 for x in item.labels)]
        if not self.lists:
            raise UserError(
                f"none of the {len(lists)} lists to train the cross-encoder on has a positive and a negative"
            )
        self.negatives = negatives
        self.seed = seed

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, key: tuple[int, int]) -> LabelledList:
        """List of 1 + n passages, the positive first."""
        epoch, number = key
        item = self.lists[number]
        generator = _generator(self.seed, epoch, item.query_id)
        return _drawn(item, [label > 0 for label in item.labels], self.negatives, generator)


class DrawnScores(Dataset[LabelledList]):
    """The passage of each query that another teacher scores highest, and ``negatives`` others that it scored.

    Like ``DrawnLists``, for collections without judgements too; labels are the scores over ``temperature``. Lists of
    equal scores teach nothing and are left out.
    """

    def __init__(self, lists: Sequence[LabelledList], negatives: int, seed: int, temperature: float) -> None:
        _check_negatives(negatives)
        if temperature <= 0:
            raise UserError(f"temperature={temperature}: another teacher's scores are divided by a number above 0")
        told = [_told(item, temperature) for item in lists]
        self.lists = [item for item in told if len(set(item.labels)) > 1]
        if not self.lists:
            raise UserError(
                f"none of the {len(lists)} lists to train the cross-encoder on has two passages of unequal scores"
            )
        self.negatives = negatives
        self.seed = seed

    def __len__(self) -> int:
        return len(self.lists)

    def __getitem__(self, key: tuple[int, int]) -> LabelledList:
        """List of 1 + n passages, the best first."""
        epoch, number = key
        item = self.lists[number]
        best, generator = max(item.labels), _generator(self.seed, epoch, item.query_id)
        return _drawn(item, [score == best for score in item.labels], self.negatives, generator)


def _told(item: LabelledList, temperature: float) -> LabelledList:
    """The passages that have a score, and their scores over the temperature."""
    told = [i for i, score in enumerate(item.labels) if not math.isnan(score)]
    return item._replace(passages=[item.passages[i] for i in told], labels=[item.labels[i] / temperature for i in told])


def _drawn(item: LabelledList, first: Sequence[bool], others: int, generator: random.Random) -> LabelledList:
    """One of the passages that may stand first, and so many of the rest."""
    places = [i for i, may in enumerate(first) if may]
    rest = [i for i, may in enumerate(first) if not may]
    drawn = [generator.choice(places), *generator.sample(rest, min(others, len(rest)))]
    return item._replace(passages=[item.passages[i] for i in drawn], labels=[item.labels[i] for i in drawn])


def _check_negatives(negatives: int) -> None:
    if negatives < 1:
        raise UserError(f"negatives={negatives}: a cross-encoder needs at least one negative per list")


class EpochOrder(Sampler[tuple[int, int]]):
    """(epoch, number) keys in an order drawn from (seed, epoch); Lightning calls ``set_epoch``."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(range(self.size))
        _generator(self.seed, self.epoch, "order").shuffle(order)
        return iter([(self.epoch, number) for number in order])


class ListCollator:
    """Tokenizes lists into a batch, its pairs in the groups of like length that ``plan`` cuts."""

    def __init__(self, pairs: PairTokenizer, plan: GroupPlan) -> None:
        self.pairs = pairs
        self.plan = plan

    def __call__(self, lists: Sequence[LabelledList]) -> ListBatch:
        """Pairs, labels and mask of the lists."""
        sizes = torch.tensor([len(item.passages) for item in lists])
        mask = torch.arange(int(sizes.max())) < sizes[:, None]
        labels = torch.zeros(mask.shape)
        labels[mask] = torch.tensor([float(label) for item in lists for label in item.labels])
        queries = [item.query for item in lists for _ in item.passages]
        columns = self.pairs.encode(queries, [passage for item in lists for passage in item.passages])
        return ListBatch(self.pairs.batch(columns, self.plan), labels, mask)


def training_loader(
    dataset: DrawnLists | DrawnScores, collator: ListCollator, batch_size: int
) -> DataLoader[LabelledList]:
    """Loader of ``batch_size`` lists per step for ``Trainer.fit``."""
    order = EpochOrder(len(dataset), dataset.seed)
    return DataLoader(dataset, batch_size=batch_size, sampler=order, collate_fn=collator)


def _generator(seed: int, epoch: int, name: str) -> random.Random:
    return random.Random(int(text_digest(str(seed), str(epoch), name), 16))
