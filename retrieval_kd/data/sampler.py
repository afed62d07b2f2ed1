"""Which queries make the next batch, and where a stopped epoch goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.utils.data import DataLoader, Sampler

from retrieval_kd.contracts import Batch, UserError

Item = tuple[int, int]  # query index, epoch


class EpochBatches(Sampler[list[Item]]):
    """Each epoch a seeded shuffle of all queries, cut into batches; with several processes each takes its share.

    Together, the shares of a batch are the batch of a single process, so training does not depend on their number.
    """

    def __init__(self, queries: int, batch_size: int, seed: int) -> None:
        self.queries = queries
        self.batch_size = min(batch_size, queries)
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.queries // self.batch_size

    def __iter__(self) -> Iterator[list[Item]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.queries)
        share = share_of(self.batch_size)
        for index in range(self.start, len(self)):
            batch = order[index * self.batch_size : (index + 1) * self.batch_size][share]
            yield [(int(query), self.epoch) for query in batch]


def share_of(batch_size: int) -> slice:
    """Every n-th query from the process's own number on; asked late, since processes may start after the loader."""
    if not (dist.is_available() and dist.is_initialized()):
        return slice(None)
    processes = dist.get_world_size()
    if batch_size < processes:
        raise UserError(f"trainer.batch_size: {batch_size} queries do not give each of {processes} processes its share")
    return slice(dist.get_rank(), None, processes)


class ResumableLoader(DataLoader[Batch]):
    """A loader that knows which batches were handed out; Lightning saves and restores that with a checkpoint."""

    def __init__(self, batches: EpochBatches, collate: Callable[[list[Item]], Batch], workers: int) -> None:
        self.batches = batches
        super().__init__(
            _Itself(),  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            self.batches.start += 1
            if self.batches.start == len(self.batches):  # before the yield: nothing runs after the last batch
                self.batches.start = 0
                self.batches.epoch += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch and number of batches handed out."""
        return {"epoch": self.batches.epoch, "start": self.batches.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the last batch that was handed out."""
        self.batches.epoch = state["epoch"]
        self.batches.start = state["start"]


class _Itself:
    """A data set whose item is its own index: the collate function does the work, for a whole batch at once."""

    def __getitem__(self, item: Item) -> Item:
        return item
