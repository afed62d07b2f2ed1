"""What a student made of many texts, on disk: ids, one safetensors file, and who made it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

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
NAMES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1"}
NAMES["BOOL"] = "|b1"


@dataclass(frozen=True)
class StoredRepresentations:
    """Memory-mapped tensors of N texts, all with leading size N, row by row those of ``ids``."""

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
        return len(next(iter(self.arrays.values())))

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

    Names, types and sizes of the tensors are those of the first chunk. A folder that is already there stays as it is.
    """
    with atomic_folder(path) as folder:
        _write_tensors(folder / TENSORS, len(ids), chunks)
        pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), folder / IDS)
        (folder / META).write_text(json.dumps({"fingerprint": fingerprint, "side": str(side)}))
    return StoredRepresentations.open(path)


def _write_tensors(path: Path, count: int, chunks: Iterable[Mapping[str, Tensor | np.ndarray]]) -> None:
    places: dict[str, tuple[int, np.dtype, tuple[int, ...]]] = {}
    done = 0
    with path.open("wb") as stream:
        for chunk in chunks:
            arrays = {name: np.asarray(value) for name, value in chunk.items()}
            places = places or _write_header(stream, count, arrays)
            rows = _rows(arrays, places)
            if done + rows > count:
                raise ValueError(f"more than {count} rows for {count} ids")
            for name, (offset, dtype, shape) in places.items():
                stream.seek(offset + done * dtype.itemsize * int(np.prod(shape)))
                stream.write(np.ascontiguousarray(arrays[name], dtype).data)
            done += rows
    if done != count or not places:
        raise ValueError(f"{done} rows for {count} ids")


def _write_header(
    stream: BinaryIO, count: int, arrays: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, np.dtype, tuple[int, ...]]]:
    """Write safetensors' header for ``count`` rows; return where each tensor begins, its type and a row's shape."""
    names = {dtype: name for name, dtype in NAMES.items()}
    header, offset = {}, 0
    # The widest types first: every tensor is then aligned to its own size.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    for name, array in ordered:
        end = offset + count * array[:0].dtype.itemsize * int(np.prod(array.shape[1:]))
        header[name] = {
            "dtype": names[array.dtype.str],
            "shape": [count, *array.shape[1:]],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    start = stream.tell()
    return {name: (start + header[name]["data_offsets"][0], array.dtype, array.shape[1:]) for name, array in ordered}


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
    if not all(tensor["shape"][0] for tensor in header.values()):  # nothing to map
        return {name: np.empty(tensor["shape"], NAMES[tensor["dtype"]]) for name, tensor in header.items()}
    return {
        name: np.memmap(path, NAMES[tensor["dtype"]], "r", 8 + size + tensor["data_offsets"][0], tuple(tensor["shape"]))
        for name, tensor in header.items()
    }
