"""Immutable files of values by 128-bit key, and looking keys up in many of them at once."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from xxhash import xxh3_128_digest

from retrieval_kd.contracts import UserError

HEADER = struct.Struct("<8sIIQ8s")  # magic, format, width, count, type of the values
MAGIC, FORMAT = b"rkdshard", 1


def text_keys(texts: Sequence[str], prefix: bytes = b"") -> list[bytes]:
    """16 bytes that name each text; a text that comes again is hashed once."""
    known: dict[str, bytes] = {}
    for text in texts:
        if text not in known:
            known[text] = xxh3_128_digest(prefix + text.encode("utf-8", "surrogatepass"))
    return [known[text] for text in texts]


def as_keys(digests: Sequence[bytes]) -> np.ndarray:
    """uint64 [N, 2] from N digests of 16 bytes."""
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)


def shortened(text: str, size: int = 80) -> str:
    """Quote the text's beginning, for a message of one line."""
    return repr(text if len(text) <= size else f"{text[: size - 1]}…")


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: distinct keys in ascending order, and a row of values for each."""

    high: np.ndarray  # [n] uint64
    low: np.ndarray  # [n] uint64
    values: np.ndarray  # [n, D]

    @classmethod
    def of(cls, keys: np.ndarray, values: np.ndarray) -> Shard:
        """Sort keys [n, 2] and their values; of equal keys the first stays."""
        high, low = np.ascontiguousarray(keys[:, 0]), np.ascontiguousarray(keys[:, 1])
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        new = run_starts(high, low)
        return cls(high[new], low[new], values[order[new]])

    @classmethod
    def open(cls, path: Path) -> Shard:
        """Map a file; nothing is read until it is looked at, and the map outlives the file's name."""
        with path.open("rb") as stream:
            head = stream.read(HEADER.size)
            size = os.fstat(stream.fileno()).st_size
            magic, version, width, count, kind = (
                HEADER.unpack(head) if len(head) == HEADER.size else (b"", 0, 0, 0, b"")
            )
            if (magic, version) != (MAGIC, FORMAT):
                raise UserError(f"{path}: not a shard of this format; delete it, its values will be computed again")
            dtype = np.dtype(kind.rstrip(b"\0").decode())
            expected = HEADER.size + count * (16 + width * dtype.itemsize)
            if size != expected:
                raise UserError(f"{path}: {size} bytes instead of {expected}; delete it, its values will be made again")
            memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        high = np.frombuffer(memory, "<u8", count, HEADER.size)
        low = np.frombuffer(memory, "<u8", count, HEADER.size + 8 * count)
        values = np.frombuffer(memory, dtype, count * width, HEADER.size + 16 * count)
        return cls(high, low, values.reshape(count, width))

    def write(self, stream: BinaryIO) -> None:
        """Write header, keys and values."""
        width, kind = self.values.shape[1], self.values.dtype.str.encode()
        stream.write(HEADER.pack(MAGIC, FORMAT, width, len(self.high), kind))
        for part in (self.high, self.low, self.values):
            stream.write(np.ascontiguousarray(part).tobytes())
        stream.flush()

    @property
    def size(self) -> int:
        """Bytes of keys and values."""
        return self.high.nbytes + self.low.nbytes + self.values.nbytes


def locate(keys: np.ndarray, shards: Sequence[Shard]) -> tuple[np.ndarray, np.ndarray]:
    """Say which shard, int32 [N], holds each key and in which row, int64 [N]; -1 where none does."""
    high, low = np.ascontiguousarray(keys[:, 0]), np.ascontiguousarray(keys[:, 1])
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    new = run_starts(high, low)
    high, low = high[new], low[new]
    shard, row = np.full(len(high), -1, np.int32), np.full(len(high), -1, np.int64)
    for number, one in enumerate(shards):
        here, there = _common(high, low, one.high, one.low)
        shard[here], row[here] = number, there
    group = np.empty(len(order), np.int64)
    group[order] = np.cumsum(new) - 1
    return shard[group], row[group]


def run_starts(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Mark the first of each run of equal sorted keys."""
    new = np.ones(len(high), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return new


def _common(
    high: np.ndarray, low: np.ndarray, other_high: np.ndarray, other_low: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions, here and there, of the keys that two sorted distinct lists share; the shorter is searched for."""
    if len(high) > len(other_high):
        there, here = _common(other_high, other_low, high, low)
        return here, there
    found: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    here, there = np.arange(len(high)), np.searchsorted(other_high, high)
    while len(here):  # a second pass only for keys whose first halves are equal and second halves are not
        inside = there < len(other_high)
        here, there = here[inside], there[inside]
        equal = other_high[there] == high[here]
        here, there = here[equal], there[equal]
        hit = other_low[there] == low[here]
        found.append((here[hit], there[hit]))
        here, there = here[~hit], there[~hit] + 1
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])
