"""Passages on disk: built once by streaming, opened in constant time and memory, looked up in batches by row or id.

A store is a folder of flat files; row order is the order in which the passages came.

    header.json                           count, content digest, size and checksum of every file
    texts.bin, texts.ends, texts.bases    UTF-8 texts end to end; where each ends (uint32) counted from where its
    ids.bin, ids.ends, ids.bases          block of BLOCK rows begins (int64); the same for the ids
    index.keys, index.rows                upper half of the ids' keys, sorted, and the row of each (uint32)

Strings are read where they lie; ends and index, 16 bytes a passage, are memory-mapped. So that is the most memory that
looking up anything can map, and the system takes it back when it needs it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import operator
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.files import atomic_folder, text_digest

VERSION = 1
BLOCK = 4096  # rows that share a base; also what is in memory at once while a store is built
HEADER = "header.json"


class DuplicateIdError(UserError):
    """Two passages have one id; ``rows`` are their positions, counted from 0."""

    def __init__(self, passage_id: str, rows: tuple[int, int], where: str) -> None:
        positions = " and ".join(str(row + 1) for row in rows)
        super().__init__(f"{where}: passage id {passage_id!r} is given twice, by passages {positions}")
        self.passage_id = passage_id
        self.rows = rows


def passage_keys(ids: Sequence[str]) -> np.ndarray:
    """int64 [N] keys, equal for equal ids on every process and machine and never negative, so -1 is free to mean none.

    They are the upper 63 bits of xxh3: two of 8.8 million distinct ids share one with probability 4e-6. The store
    itself does not rely on that: it compares ids.
    """
    return _keys(_encode(ids))


class PassageStore:
    """Passages by row or id, looked up without loading the collection (``contracts.PassageTexts``)."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        header = _read_header(self.path)
        self._count: int = header["passages"]
        self._files: dict[str, dict[str, Any]] = header["files"]
        self.titles: bool = header["titles"]
        self.digest: str = header["digest"]
        for name, file in self._files.items():
            _check_size(self.path / name, file["bytes"])
        self._texts = _Strings(self.path, "texts")
        self._ids = _Strings(self.path, "ids")
        self._index_keys = _map(self.path / "index.keys", np.uint32)
        self._index_rows = _map(self.path / "index.rows", np.uint32)
        arrays = self._texts.ends, self._ids.ends, self._index_keys, self._index_rows
        if any(len(array) != self._count for array in arrays):
            raise _damaged(self.path, f"its files do not hold the {self._count} passages of its header")

    @classmethod
    def build(cls, path: Path, passages: Iterable[Passage], titles: bool = True) -> PassageStore:
        """Write a store in one pass; memory is one block and, to sort the index, 32 bytes a passage."""
        with atomic_folder(path) as folder:
            _write(folder, passages, titles, path)
            built = cls(folder)
            built._forbid_duplicates(path)
        store = cls(path)
        if store.digest != built.digest:
            raise UserError(f"{path}: another passage store was here already; delete the folder to build it again")
        return store

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple[type[PassageStore], tuple[Path]]:
        return PassageStore, (self.path,)  # worker processes open the files again

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """int64 [N] rows; -1 for an unknown id."""
        wanted = _encode(ids)
        keys = _upper(_keys(wanted))
        rows = np.full(len(wanted), -1, np.int64)
        pending = np.arange(len(wanted))
        places = np.searchsorted(self._index_keys, keys)
        while len(pending):  # later turns see only the ids whose key is that of another passage, too
            inside = places < self._count
            inside[inside] = self._index_keys[places[inside]] == keys[pending[inside]]
            pending, places = pending[inside], places[inside]
            found = self._index_rows[places].astype(np.int64)
            asked = map(wanted.__getitem__, pending.tolist())
            same = np.fromiter(map(operator.eq, asked, self._ids.read(found)), bool, len(found))
            rows[pending[same]] = found[same]
            pending, places = pending[~same], places[~same] + 1
        return rows

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Ids of rows."""
        return self._ids.decode(self._checked(rows))

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Texts of rows, ``(title + " " + text).strip()`` unless the store was built without titles."""
        return self._texts.decode(self._checked(rows))

    def keys(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64 [N] ``passage_keys`` of the rows' ids."""
        return _keys(self._ids.read(self._checked(rows)))

    def verify(self) -> None:
        """Read every byte and hold it against the checksums of the header."""
        for name, file in self._files.items():
            with (self.path / name).open("rb") as stream:
                if hashlib.file_digest(stream, _checksum).hexdigest() != file["blake2b"]:
                    raise _damaged(self.path, f"{name} is not what was written")

    def _checked(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(rows, np.int64)
        if len(array) and (array.min() < 0 or array.max() >= self._count):
            raise IndexError(f"rows {array.min()} to {array.max()} in a store of {self._count} passages")
        return array

    def _forbid_duplicates(self, path: Path) -> None:
        """Compare ids wherever neighbours in the index share a key, in the order of their rows."""
        keys, rows = self._index_keys, self._index_rows
        shared = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        for later in shared[np.argsort(rows[shared])].tolist():
            row = int(rows[later])
            first = self.rows(self.ids([row])).item()  # rows of one key are in order, so this is the first of its id
            if first != row:
                raise DuplicateIdError(self.ids([row])[0], (first, row), str(path))


class _Strings:
    """Strings of a store, read by row."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.bin"
        self.ends = _map(folder / f"{name}.ends", np.uint32)
        self._bases = _map(folder / f"{name}.bases", np.int64)
        self._file = os.open(self._path, os.O_RDONLY)
        self._size = os.fstat(self._file).st_size
        weakref.finalize(self, os.close, self._file)

    def read(self, rows: np.ndarray) -> list[bytes]:
        """Bytes of rows; reading by position has no state, so threads and forked workers may share the file."""
        within = np.where(rows % BLOCK, self.ends[rows - 1], 0).astype(np.int64)
        starts = self._bases[rows // BLOCK] + within
        sizes = self.ends[rows] - within
        if len(rows) and (starts.min() < 0 or sizes.min() < 0 or (starts + sizes).max() > self._size):
            raise _damaged(self._path.parent, f"{self._path.name} and its ends do not fit")
        return [os.pread(self._file, size, at) for size, at in zip(sizes.tolist(), starts.tolist(), strict=True)]

    def decode(self, rows: np.ndarray) -> list[str]:
        """Strings of rows."""
        try:
            return [piece.decode() for piece in self.read(rows)]
        except UnicodeDecodeError as error:
            raise _damaged(self._path.parent, f"{self._path.name} is not UTF-8 where it is read") from error


class _File:
    """Writes a file and knows its size and checksum."""

    def __init__(self, path: Path) -> None:
        self.name, self.bytes = path.name, 0
        self._stream = path.open("wb")
        self._checksum = _checksum()

    def append(self, data: bytes) -> None:
        self._stream.write(data)
        self._checksum.update(data)
        self.bytes += len(data)

    def close(self) -> dict[str, int | str]:
        self._stream.close()
        return {"bytes": self.bytes, "blake2b": self._checksum.hexdigest()}


class _Column:
    """Writes strings, block by block."""

    def __init__(self, folder: Path, name: str) -> None:
        self.files = [_File(folder / f"{name}.{part}") for part in ("bin", "ends", "bases")]

    def append(self, pieces: list[bytes]) -> None:
        content, ends, bases = self.files
        within = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))
        if within[-1] >= 2**32:
            raise UserError(f"{len(pieces)} passages in a row hold more than 4 GiB; split them into passages")
        bases.append(content.bytes.to_bytes(8, "little"))
        ends.append(within.astype(np.uint32).tobytes())
        content.append(b"".join(pieces))


def _write(folder: Path, passages: Iterable[Passage], titles: bool, path: Path) -> None:
    texts, ids = _Column(folder, "texts"), _Column(folder, "ids")
    blocks: list[np.ndarray] = []
    for block in _blocks(passages):
        try:
            names = [passage.id.encode() for passage in block]
            contents = [_text(passage, titles).encode() for passage in block]
        except UnicodeEncodeError as error:
            raise UserError(f"{path}: half of a surrogate pair is not text: {error.object[:60]!r}") from error
        ids.append(names)
        texts.append(contents)
        blocks.append(_upper(_keys(names)))
    if not blocks:
        raise UserError(f"{path}: the source has no passages")
    keys = np.concatenate(blocks)
    blocks.clear()
    order = np.argsort(keys, kind="stable")
    index_keys, index_rows = _File(folder / "index.keys"), _File(folder / "index.rows")
    index_keys.append(keys[order].tobytes())
    index_rows.append(order.astype(np.uint32).tobytes())
    files = {file.name: file.close() for file in (*texts.files, *ids.files, index_keys, index_rows)}
    digest = text_digest(*(str(files[file.name]["blake2b"]) for file in (*texts.files, *ids.files)))
    _write_header(folder, {"passages": len(keys), "titles": titles, "digest": digest, "files": files})


def _blocks(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    stream = iter(passages)
    while block := list(itertools.islice(stream, BLOCK)):
        yield block


def _text(passage: Passage, titles: bool) -> str:
    return f"{passage.title} {passage.text}".strip() if titles else passage.text.strip()


def _encode(ids: Sequence[str]) -> list[bytes]:
    return [name.encode("utf-8", "surrogatepass") for name in ids]


def _keys(ids: list[bytes]) -> np.ndarray:
    return (np.array(list(map(xxhash.xxh3_64_intdigest, ids)), np.uint64) >> np.uint64(1)).astype(np.int64)


def _upper(keys: np.ndarray) -> np.ndarray:
    return (keys >> 31).astype(np.uint32)


def _checksum() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _write_header(folder: Path, header: dict[str, Any]) -> None:
    content = json.dumps({"version": VERSION} | header, sort_keys=True)
    (folder / HEADER).write_text(json.dumps({"content": content, "checksum": text_digest(content)}))


def _read_header(path: Path) -> dict[str, Any]:
    if not (path / HEADER).is_file():
        raise UserError(f"{path}: no passage store here ({HEADER} is missing)")
    try:
        outer = json.loads((path / HEADER).read_text())
        intact = outer["checksum"] == text_digest(outer["content"])
        header = json.loads(outer["content"])
        version = header["version"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{HEADER} cannot be read") from error
    if not intact:
        raise _damaged(path, f"{HEADER} is not what was written")
    if version != VERSION:
        raise UserError(f"{path}: a passage store of format {version}, {VERSION} expected; delete it to build it again")
    return header


def _check_size(path: Path, size: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        state = "is missing" if found is None else f"has {found} bytes, {size} expected"
        raise _damaged(path.parent, f"{path.name} {state}")


def _map(path: Path, kind: type[np.generic]) -> np.ndarray:
    with path.open("rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ), kind)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path}: the passage store is damaged: {what}; delete the folder, it will be built again")
