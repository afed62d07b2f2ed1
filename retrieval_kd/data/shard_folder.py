"""Values by key that many processes add to: what the score store and the vector store share.

A folder holds shards (renamed in when complete, never changed), claims (keys that a living process computes now) and
a lock. Files are listed and changed under the lock only, so a temporary file that the lock's holder meets belongs to a
process that was killed. A claim lives as long as its owner's ``flock``: the kernel drops it with the process, whatever
ends it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import numpy as np

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import atomic_file
from retrieval_kd.data.progress import track
from retrieval_kd.data.shards import Shard, locate, run_starts, shortened

log = logging.getLogger(__name__)

SMALL = 1 << 20  # bytes: smaller shards are merged
MANY = 128  # so many small shards become one
BLOCK = 1 << 20  # keys looked up at once: bounds the memory of a look-up to about 100 MB


@contextmanager
def _locked(path: Path, write: bool = True) -> Iterator[None]:
    """Hold the lock alone, or, to read, with other readers (a store on a read-only disk can be read)."""
    descriptor = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing would not do: a forked child may hold a copy
        os.close(descriptor)


class Claim:
    """Keys that this process computes, told to the others by a file that it keeps locked."""

    def __init__(self, folder: Path, keys: np.ndarray, positions: np.ndarray) -> None:
        self.positions = positions
        self._path = folder / f"{uuid4().hex}.claim"
        with atomic_file(self._path) as temporary:
            self._stream = temporary.open("rb+")
            fcntl.flock(self._stream, fcntl.LOCK_EX)
            Shard.of(keys, np.empty((len(keys), 0), np.float32)).write(self._stream)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._path.unlink(missing_ok=True)
        fcntl.flock(self._stream, fcntl.LOCK_UN)
        self._stream.close()


def _living_claims(folder: Path) -> dict[Path, Shard]:
    """Read what others compute now, under the lock; what a killed process left is removed."""
    living = {}
    for path in folder.glob("*.claim"):
        with suppress(FileNotFoundError):  # released meanwhile, which happens after its values were stored
            with path.open("rb+") as stream, suppress(BlockingIOError):
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                continue
            living[path] = Shard.open(path)
    return living


def _wait_for(claim: Path) -> None:
    """Return when the claim's owner has stored its values, given up or died."""
    with suppress(FileNotFoundError), claim.open("rb+") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)


class ShardFolder:
    """A folder of values [D] by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, Shard] = {}

    def declare(self, facts: Mapping[str, str]) -> None:
        """Write down what the values are, or refuse facts that differ from those written down."""
        about = self.folder / "about.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / "lock"):
            if not about.exists():
                now = datetime.now(UTC).isoformat(timespec="seconds")
                with atomic_file(about) as temporary:
                    temporary.write_text(json.dumps({**facts, "created": now}, indent=1) + "\n")
        known = self.facts()
        for name, value in facts.items():
            if known.get(name) != value:
                raise UserError(
                    f"{about}: {name} is {shortened(str(known.get(name)))}, the teacher now says {shortened(value)}; "
                    "a teacher that changed needs another fingerprint (or delete this folder)"
                )

    def facts(self) -> dict[str, str]:
        """What was declared; empty for a folder that is not there."""
        about = self.folder / "about.json"
        return json.loads(about.read_text()) if about.exists() else {}

    def count(self) -> int:
        """Keys that are stored."""
        return sum(len(shard.high) for shard in self._current())

    def has(self, keys: np.ndarray) -> np.ndarray:
        """Bool [N]."""
        return _each_block(keys, lambda block: locate(block, self._current())[0] >= 0)

    def width(self) -> int | None:
        """Numbers in a row of values; None while nothing is stored."""
        return next((shard.values.shape[1] for shard in self._current()), None)

    def read(self, keys: np.ndarray, out: np.ndarray) -> None:
        """Copy values into the rows of ``out`` [N, D]; rows of absent keys stay as they are."""
        for start in range(0, len(keys), BLOCK):
            shards = self._current()
            shard, row = locate(keys[start : start + BLOCK], shards)
            order = np.argsort(shard, kind="stable")
            ends = np.searchsorted(shard[order], np.arange(len(shards) + 1))
            for number, one in enumerate(shards):
                some = order[ends[number] : ends[number + 1]]
                out[start + some] = one.values[row[some]]

    def append(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Store values [N, D] of keys that are not there yet, all of them or, if anything goes wrong, none."""
        new = Shard.of(keys, values)
        with _locked(self.folder / "lock"):
            self._refresh()
            self._sweep()
            shards = list(self._open.values())
            if shards and shards[0].values.shape[1] != values.shape[1]:
                raise UserError(
                    f"{self.folder}: the teacher now gives {values.shape[1]} numbers for a text, before it gave "
                    f"{shards[0].values.shape[1]}; a teacher that changed needs another fingerprint"
                )
            self._add(new, shards)
            self._merge()

    def fill(self, keys: np.ndarray, compute: Callable[[np.ndarray], np.ndarray], chunk: int, what: str) -> None:
        """Compute what is absent, each distinct key once among all processes that fill at the same time.

        ``compute`` gets positions in ``keys`` and gives their values [n, D]. Each chunk is stored when it is computed;
        an error or a kill loses the chunk in hand.
        """
        work = _Work(self, keys, chunk)
        if not len(work.todo):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        log.info(
            "%s: %d of %d are stored, %d are computed", what, len(keys) - len(work.todo), len(keys), len(work.todo)
        )
        for claim in track(iter(work.take, None), f"{what}, {chunk} a step", math.ceil(len(work.todo) / chunk)):
            with claim:
                self.append(keys[claim.positions], compute(claim.positions))

    def _current(self) -> list[Shard]:
        """Every shard that is there now."""
        if (self.folder / "lock").exists():
            with _locked(self.folder / "lock", write=False):
                self._refresh()
        return list(self._open.values())

    def _refresh(self) -> None:
        """Under the lock: open what is new, forget what was merged."""
        there = {path.name: path for path in self.folder.glob("*.shard")}
        self._open = {name: shard for name, shard in self._open.items() if name in there}
        for name in sorted(there.keys() - self._open.keys()):
            self._open[name] = Shard.open(there[name])

    def _sweep(self) -> None:
        """Under the lock: a temporary file here belongs to nobody alive."""
        for path in self.folder.glob(".*"):
            path.unlink(missing_ok=True)

    def _add(self, new: Shard, shards: Sequence[Shard]) -> None:
        """Under the lock: write what no shard holds."""
        fresh = locate(np.stack([new.high, new.low], 1), shards)[0] < 0
        if not fresh.any():
            return
        path = self.folder / f"{uuid4().hex}.shard"
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            Shard(new.high[fresh], new.low[fresh], new.values[fresh]).write(stream)
            os.fsync(stream.fileno())  # a name must never stand for half a file, whatever fails
        self._open[path.name] = Shard.open(path)

    def _merge(self) -> None:
        """Under the lock: make one of many small shards; a kill in between leaves doubles, which the next one drops."""
        small = [name for name, shard in self._open.items() if shard.size < SMALL]
        if len(small) < MANY:
            return
        parts = [self._open.pop(name) for name in small]
        keys = np.concatenate([np.stack([part.high, part.low], 1) for part in parts])
        self._add(Shard.of(keys, np.concatenate([part.values for part in parts])), list(self._open.values()))
        for name in small:
            (self.folder / name).unlink()


class _Work:
    """The absent keys that are left to one process: what others store or compute meanwhile falls away."""

    def __init__(self, shards: ShardFolder, keys: np.ndarray, chunk: int) -> None:
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        self.todo = _first_of_each(keys)
        self.todo = self.todo[~shards.has(keys[self.todo])]
        self._shards, self._keys, self._chunk = shards, keys, chunk
        self._later: list[np.ndarray] = []  # computed by others, unless they die

    def take(self) -> Claim | None:
        """Claim the next chunk, waiting for others if they compute all that is left; None when all is stored."""
        while len(self.todo) or self._later:
            with _locked(self._shards.folder / "lock"):
                claims = _living_claims(self._shards.folder)  # before the shards: who releases has stored before
                self._shards._refresh()
                positions, held_by = self._choose(list(claims.values()))
                if len(positions):
                    return Claim(self._shards.folder, self._keys[positions], positions)
            self.todo, self._later = np.concatenate([*self._later, self.todo]), []
            if held_by >= 0:
                log.info("waiting for another process that computes %d of the same", len(self.todo))
                _wait_for(list(claims)[held_by])
        return None

    def _choose(self, claims: Sequence[Shard]) -> tuple[np.ndarray, int]:
        """Positions of the next free keys, at most a chunk, and one claim that stands in the way (-1: none)."""
        chosen: list[np.ndarray] = [self.todo[:0]]
        room, held_by = self._chunk, -1
        while len(self.todo) and room:
            window = self.todo[: self._chunk]
            keys = self._keys[window]
            absent = locate(keys, list(self._shards._open.values()))[0] < 0
            owner = np.where(absent, locate(keys, claims)[0], -1)
            free = np.flatnonzero(absent & (owner < 0))[:room]
            end = free[-1] + 1 if len(free) == room else len(window)
            held = np.flatnonzero(owner[:end] >= 0)
            if len(held):
                self._later.append(window[held])
                held_by = int(owner[held[0]])
            chosen.append(window[free])
            room -= len(free)
            self.todo = self.todo[end:]
        return np.concatenate(chosen), held_by


def _each_block(keys: np.ndarray, answer: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Answers of type bool for all keys, from a bounded number of them at a time."""
    blocks = [answer(keys[start : start + BLOCK]) for start in range(0, len(keys), BLOCK)]
    return np.concatenate([np.empty(0, bool), *blocks])


def _first_of_each(keys: np.ndarray) -> np.ndarray:
    """Positions at which a key comes for the first time, ascending."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal keys stay in order of position
    return np.sort(order[run_starts(keys[order, 0], keys[order, 1])])
