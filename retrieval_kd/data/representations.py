"""What a student made of many texts, on disk: ids, one safetensors file, and who made it."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.files import atomic_folder

if TYPE_CHECKING:
    from torch import Tensor

TENSORS = "representations.safetensors"
META = "meta.json"
IDS = "ids.parquet"
LENGTHS, OFFSETS = "lengths", "offsets"
NAMES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1"}
NAMES["BOOL"] = "|b1"


@dataclass(frozen=True)
class StoredRepresentations:
    """Memory-mapped tensors of N texts, row by row those of ``ids``.

    Where texts differ in size the tensors are flat: those of text n stand from ``offsets[n]`` to ``offsets[n + 1]``.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    fingerprint: str
    side: Side

    @classmethod
    def open(cls, path: Path) -> StoredRepresentations:
        """Open in constant time; nothing is read before it is used."""
        if not (path / META).exists():
            raise UserError(f"{path}: not a folder of representations (it has no {META})")
        meta = json.loads((path / META).read_text())
        return cls(path, _mapped(path / TENSORS), meta["fingerprint"], Side(meta["side"]))

    def __len__(self) -> int:
        offsets = self.arrays.get(OFFSETS)
        return len(next(iter(self.arrays.values()))) if offsets is None else len(offsets) - 1

    @cached_property
    def ids(self) -> list[str]:
        """Ids of the rows; read on first use."""
        return pq.read_table(self.path / IDS).column("id").to_pylist()


def write_representations(
    path: Path,
    ids: Sequence[str],
    chunks: Iterable[Mapping[str, Tensor | np.ndarray]],
    fingerprint: str,
    side: Side,
) -> StoredRepresentations:
    """Write chunks of rows as they come, in the order of ``ids``, with no more than one of them in memory.

    Names, types and sizes of the tensors are those of the first chunk; with ``lengths`` among them, the others are
    padded to the widest text of a chunk and written without the padding. A folder that is already there stays as it is.
    """
    with atomic_folder(path) as folder:
        chunks = iter(chunks)
        first = next(chunks, None)
        if first is None:
            raise ValueError(f"no chunk for {len(ids)} ids")
        write = _write_ragged if LENGTHS in first else _write_tensors
        write(folder / TENSORS, len(ids), chain([first], chunks))
        pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), folder / IDS)
        (folder / META).write_text(json.dumps({"fingerprint": fingerprint, "side": str(side)}))
    return StoredRepresentations.open(path)


def _write_tensors(path: Path, count: int, chunks: Iterable[Mapping[str, Tensor | np.ndarray]]) -> None:
    places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}
    done = 0
    with path.open("wb") as stream:
        for chunk in chunks:
            arrays = {name: np.asarray(value) for name, value in chunk.items()}
            places = places or _places(stream, count, arrays)
            rows = _rows(arrays, places)
            if done + rows > count:
                raise ValueError(f"more than {count} rows for {count} ids")
            for name, (offset, dtype, shape) in places.items():
                stream.seek(offset + done * dtype.itemsize * int(np.prod(shape)))
                stream.write(np.ascontiguousarray(arrays[name], dtype).data)
            done += rows
    if done != count or not places:
        raise ValueError(f"{done} rows for {count} ids")


def _places(
    stream: BinaryIO, count: int, arrays: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, np.dtype, tuple[int, ...]]]:
    """Where each tensor of ``count`` rows begins, its type and a row's shape."""
    shapes = {name: (array.dtype, (count, *array.shape[1:])) for name, array in arrays.items()}
    starts = _header(stream, shapes)
    return {name: (starts[name], dtype, shape[1:]) for name, (dtype, shape) in shapes.items()}


def _write_ragged(path: Path, count: int, chunks: Iterable[Mapping[str, Tensor | np.ndarray]]) -> None:
    """How much there will be is known at the end: each tensor goes to a file of its own first."""
    lengths: list[np.ndarray] = []
    kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, ExitStack() as opened:
        files: dict[str, BinaryIO] = {}
        for chunk in chunks:
            arrays = {name: np.asarray(value) for name, value in chunk.items()}
            lengths.append(arrays.pop(LENGTHS).astype(np.int64))
            if not files:
                kinds = {name: (array.dtype, array.shape[2:]) for name, array in arrays.items()}
                files = {name: opened.enter_context((Path(folder) / name).open("w+b")) for name in arrays}
            for name, array in _flat(arrays, lengths[-1], kinds).items():
                files[name].write(array.data)
        offsets = np.concatenate([[0], *lengths]).cumsum()
        if len(offsets) != count + 1:
            raise ValueError(f"{len(offsets) - 1} rows for {count} ids")
        shapes = {name: (dtype, (int(offsets[-1]), *shape)) for name, (dtype, shape) in kinds.items()}
        with path.open("wb") as stream:
            _header(stream, {OFFSETS: (offsets.dtype, offsets.shape), **shapes})
            stream.write(offsets.data)
            for name in _ordered(shapes):
                files[name].seek(0)
                shutil.copyfileobj(files[name], stream)


def _flat(
    arrays: Mapping[str, np.ndarray], lengths: np.ndarray, kinds: Mapping[str, tuple[np.dtype, tuple[int, ...]]]
) -> dict[str, np.ndarray]:
    """The rows of a chunk one behind the other, without their padding."""
    found = {name: (array.dtype, array.shape[2:]) for name, array in arrays.items()}
    if found != dict(kinds):
        raise ValueError(f"a chunk of {found} after chunks of {dict(kinds)}")
    flat = {}
    for name, array in arrays.items():
        if len(array) != len(lengths) or (len(lengths) and array.shape[1] < lengths.max()):
            raise ValueError(f"{name} {list(array.shape)} does not hold {len(lengths)} texts of these lengths")
        flat[name] = np.ascontiguousarray(array[np.arange(array.shape[1]) < lengths[:, None]])
    return flat


def _ordered(shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> list[str]:
    """The widest types first: every tensor is then aligned to its own size."""
    return sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name != OFFSETS, name))


def _header(stream: BinaryIO, shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> dict[str, int]:
    """Write safetensors' header; return where each tensor begins."""
    names = {dtype: name for name, dtype in NAMES.items()}
    header: dict[str, Any] = {}
    offset = 0
    for name in _ordered(shapes):
        dtype, shape = shapes[name]
        end = offset + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": names[dtype.str], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    start = stream.tell()
    return {name: start + header[name]["data_offsets"][0] for name in header}


def _rows(arrays: Mapping[str, np.ndarray], places: Mapping[str, tuple[int, np.dtype, tuple[int, ...]]]) -> int:
    """Size of a chunk that fits the first one."""
    found = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
    expected = {name: (dtype, shape) for name, (_, dtype, shape) in places.items()}
    if found != expected:
        raise ValueError(f"a chunk of {found} after chunks of {expected}")
    sizes = {len(array) for array in arrays.values()}
    if len(sizes) != 1:
        raise ValueError(f"tensors of one chunk differ in their number of rows: {sorted(sizes)}")
    return sizes.pop()


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a safetensors file as memory maps, which its own reader does not offer."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return {
        name: np.memmap(path, NAMES[tensor["dtype"]], "r", 8 + size + tensor["data_offsets"][0], tuple(tensor["shape"]))
        if math.prod(tensor["shape"])
        else np.empty(tensor["shape"], NAMES[tensor["dtype"]])  # nothing to map
        for name, tensor in header.items()
    }
