"""Files that ir_datasets keeps under its home folder: which are there, how they come, what to do without a network.

ir_datasets fetches, retries, goes on where a connection broke, and verifies checksums; a file has its name only when it
is complete. Told here before: what is fetched and how large it is. Told after: where to put what cannot be fetched.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval_kd.contracts import UserError

log = logging.getLogger(__name__)

BROKEN = (
    *(EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError),
    *(KeyError, ValueError, RuntimeError, AssertionError),  # what ir_datasets says of such files
)
ALSO_LOCAL = 5_000_000  # from this size on, ir_datasets looks for a copy named by its checksum


def home() -> Path:
    """Where ir_datasets keeps its files: IR_DATASETS_HOME, or a folder of the user's."""
    return Path(_library().util.home_path())


def dataset(name: str) -> Any:
    """A data set of ir_datasets by its id."""
    return _library().load(name)


def _library() -> Any:
    import ir_datasets

    # What it says of every file that it opens; a download's bar is not among it.
    ir_datasets.log.easy().logger().setLevel(logging.WARNING)
    return ir_datasets


@dataclass(frozen=True)
class Download:
    """A file that a collection is read from.

    Args:
        url: Where it comes from.
        path: Where it lies, or is to be put.
        size: Bytes; None where nobody says.
        md5: Checksum; None where nobody says.
        made: What ir_datasets makes of it; where all of that is, the file itself is not needed.
        listed: Family and key under which ir_datasets lists it; empty where it does not.
        kept: Whether ir_datasets keeps the file itself.
    """

    url: str
    path: Path
    size: int | None = None
    md5: str | None = None
    made: tuple[Path, ...] = ()
    listed: tuple[str, str] | tuple[()] = ()
    kept: bool = True

    @property
    def present(self) -> bool:
        """Whether everything that is read is there."""
        return self.path.exists() or (bool(self.made) and all(path.exists() for path in self.made))

    @property
    def copy(self) -> Path | None:
        """A copy under its checksum, as ir_datasets lets users leave one for it."""
        place = home() / "downloads" / str(self.md5)
        return place if self.listed and (self.size or 0) >= ALSO_LOCAL and place.exists() else None

    def told(self) -> str:
        """Place, size, checksum and address."""
        about = [size_in_words(self.size)] if self.size else []
        about += [f"md5 {self.md5}"] if self.md5 else ["no checksum is published"]
        return f"{self.place} ({', '.join(about)}, {self.url})"

    @property
    def place(self) -> str:
        """Where it is to be put."""
        return str(self.path) if self.kept else f"{self.made[0]} (unpacked)"

    def fetch(self) -> None:
        """Bring it; what ir_datasets does not keep comes when it is unpacked."""
        util = _library().util
        if self.listed:
            family, key = self.listed
            if self.kept:
                util.DownloadConfig.context(family, home() / family)[key].path()
        else:
            util.Download([util.RequestsDownload(self.url)], cache_path=str(self.path)).path()

    def check(self) -> None:
        """Refuse half a file: another size than the listed one, and another checksum."""
        if not (self.size and self.md5 and self.path.is_file()) or self.path.stat().st_size == self.size:
            return
        with self.path.open("rb") as stream:
            if hashlib.file_digest(stream, "md5").hexdigest() == self.md5:
                return
        found, size = self.path.stat().st_size, self.size
        raise UserError(
            f"{self.path}: {found:,} bytes, {size:,} expected (md5 {self.md5}): half a download, or another file;"
            f" delete it to fetch it again from {self.url}; data.verify=false reads it as it is"
        )


def listed(family: str, key: str, *made: str) -> Download:
    """A file of ir_datasets' list; ``made`` are paths below the family's folder."""
    library = _library()
    entry = library.util.DownloadConfig.contents()[family][key]
    folder, size, md5 = home() / family, entry["size_hint"], entry["expected_md5"]
    kept = "cache_path" in entry
    place = folder / entry["cache_path"] if kept else home() / "downloads" / md5
    return Download(entry["url"], place, size, md5, tuple(folder / path for path in made), (family, key), kept)


def missing(files: Sequence[Download]) -> list[Download]:
    """Those that are not here, each once."""
    return list({file.path: file for file in files if not file.present}.values())


def fetch(name: str, files: Sequence[Download], allowed: bool = True, terms: str = "") -> None:
    """Bring what is absent, its size told first; without a network, say what goes where."""
    absent = missing(files)
    remote = [file for file in absent if file.copy is None]
    if remote and not allowed:
        raise UserError(f"{name}: data.download=false, and these files are not here: {_listed(remote)}")
    if remote:
        size = size_in_words(sum(file.size or 0 for file in remote))
        addresses = ", ".join(file.url for file in remote)
        log.info("%s: %d file(s) are fetched, %s, to %s: %s. %s", name, len(remote), size, home(), addresses, terms)
    for file in absent:
        try:
            with network(name, files):
                file.fetch()
        except (ValueError, OSError) as error:  # no room, no permission
            raise UserError(f"{name}: {_shortened(error)}; its files go to {home()} (IR_DATASETS_HOME)") from error


@contextmanager
def network(name: str, files: Sequence[Download]) -> Iterator[None]:
    """What cannot be fetched is told with its place, size and checksum."""
    library = _library()
    try:
        yield
    except (library.lazy_libs.requests().exceptions.RequestException, library.util.HashVerificationError) as error:
        absent = missing(files)
        raise UserError(
            f"{name}: cannot be fetched ({type(error).__name__}: {_shortened(error)}); put these files there, or set"
            f" IR_DATASETS_HOME to a folder that has them: {_listed(absent)}"
        ) from error


@contextmanager
def reading(where: Path | str) -> Iterator[None]:
    """A file that breaks off, or is not what it should be, is told in a line."""
    try:
        yield
    except BROKEN as error:
        what = _shortened(error) or type(error).__name__
        raise UserError(
            f"{where}: cannot be read ({what}): half a download, or another file; delete it, and it is fetched again"
        ) from error


def size_in_words(size: int) -> str:
    """Bytes in the unit that fits."""
    return str(_library().util.format_file_size(size))


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _listed(files: Sequence[Download]) -> str:
    return "; ".join(file.told() for file in files)
