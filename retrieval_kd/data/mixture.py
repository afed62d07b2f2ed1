"""Several training sets in one training: each batch is of one of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from retrieval_kd.contracts import Batch, UserError
from retrieval_kd.data.batches import BatchMaker
from retrieval_kd.data.sampler import EpochBatches, Item, share_of


class MixedBatches(EpochBatches):
    """Batches of several sets in a seeded order; a query's number counts on through the sets.

    An epoch has as many batches as the sets have together. ``shares`` of them are a set's; without, each set has its
    own number. A set that has more than that goes through its queries again, in another order and with other lists.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float] | None, batch_size: int, seed: int) -> None:
        super().__init__(sum(sizes), batch_size, seed)
        self.sizes = sizes
        self.shares = shares
        self.batch_sizes = [min(batch_size, size) for size in sizes]
        self.own = [size // batch for size, batch in zip(sizes, self.batch_sizes, strict=True)]

    def __len__(self) -> int:
        return sum(self.own)

    def __iter__(self) -> Iterator[list[Item]]:
        order = self._order()
        first = [0, *accumulate(self.sizes)]
        for index in range(self.start, len(order)):
            chosen = order[index]
            turn, number = divmod(int((order[:index] == chosen).sum()), self.own[chosen])
            shuffled = np.random.default_rng((self.seed, self.epoch, chosen, turn)).permutation(self.sizes[chosen])
            size = self.batch_sizes[chosen]
            queries = shuffled[number * size : (number + 1) * size][share_of(size)] + first[chosen]
            draw = self.epoch if turn == 0 else int(np.random.SeedSequence((self.epoch, turn)).generate_state(1)[0])
            yield [(int(query), draw) for query in queries]

    def _order(self) -> np.ndarray:
        """The set of every batch of the epoch."""
        counts = self.own if self.shares is None else apportioned(len(self), self.shares)
        order = np.repeat(np.arange(len(counts)), counts)
        return np.random.default_rng((self.seed, self.epoch)).permutation(order)


class MixedMaker:
    """The collate function: each batch by the maker of its set."""

    def __init__(self, makers: Sequence[BatchMaker]) -> None:
        self.makers = makers
        self.first = [0, *accumulate(len(maker.training) for maker in makers)]

    def __call__(self, items: Sequence[Item]) -> Batch:
        """A batch of these (query, epoch) pairs, all of one set."""
        chosen = bisect_right(self.first, items[0][0]) - 1
        return self.makers[chosen]([(query - self.first[chosen], epoch) for query, epoch in items])


def apportioned(total: int, shares: Sequence[float]) -> list[int]:
    """``total`` things in whole numbers by shares, by largest remainders; whoever has a share gets at least one."""
    if total < sum(share > 0 for share in shares):
        raise UserError(f"data.train: {total} batches an epoch do not give each of {len(shares)} sets one of them")
    exact = np.array(shares, dtype=np.float64) / sum(shares) * total
    counts = np.where(exact > 0, np.maximum(np.floor(exact), 1), 0).astype(int)
    while counts.sum() != total:
        step = 1 if counts.sum() < total else -1
        counts[np.argmax(np.where((step > 0) | (counts > 1), step * (exact - counts), -np.inf))] += step
    return [int(count) for count in counts]
