"""Tab-separated lines out of files and archives, read in large blocks."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from retrieval_kd.contracts import UserError

BLOCK_BYTES = 1 << 20

Change = Callable[[bytes], bytes]


def read_rows(
    stream: IO[bytes], where: Path | str, names: tuple[str, ...], change: Change | None = None
) -> Iterator[list[str]]:
    """Yield the columns of every line that is not empty; further tabs belong to the last one.

    Args:
        stream: The bytes.
        where: How mistakes call them.
        names: What the columns are, to be told with a line that has fewer.
        change: What is done to whole lines of bytes before they are read.
    """
    last, first = len(names) - 1, 1
    for block in _whole_lines(stream):
        lines = (change(block) if change else block).decode().split("\n")
        for number, line in enumerate(lines, first):
            columns = line.split("\t", last)
            if len(columns) <= last:
                if not line.strip():
                    continue
                raise UserError(f"{where}:{number}: {len(columns)} columns; expected {' <tab> '.join(names)}")
            yield columns
        first += len(lines)


def _whole_lines(stream: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        end = block.rfind(b"\n")
        if end < 0:
            rest += block
            continue
        yield rest + block[:end]
        rest = block[end + 1 :]
    if rest:
        yield rest


@contextmanager
def opened(path: Path, member: str = "") -> Iterator[IO[bytes]]:
    """A plain or gzipped file, or a member of a ``.tar.gz``, which is read through only as far as that."""
    if path.suffix != ".gz":
        with path.open("rb") as stream:
            yield stream
        return
    with gzip.open(path) as unpacked:
        if not member:
            yield cast("IO[bytes]", unpacked)
            return
        # As a stream, so that nothing is sought back for; the buffer is what spares time.
        with tarfile.open(fileobj=unpacked, mode="r|", bufsize=BLOCK_BYTES) as archive:
            for one in archive:
                if one.name.removeprefix("./") == member:
                    found = archive.extractfile(one)
                    assert found is not None
                    yield found
                    return
            raise UserError(f"{path}: {member} is not in it; expected the archive as it is published")
