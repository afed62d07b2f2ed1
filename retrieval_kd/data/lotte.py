"""LoTTE: questions that were searched for, and titles of forum posts, on long-tail topics."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.catalogue import Catalogue, refuse_split
from retrieval_kd.data.downloads import Download, home, listed, reading
from retrieval_kd.data.files import atomic_folder
from retrieval_kd.data.judgements import Judgements
from retrieval_kd.data.names import nearest_of
from retrieval_kd.data.rows import opened, read_rows

log = logging.getLogger(__name__)

FAMILY = "lotte"
TOPICS = ("writing", "recreation", "science", "technology", "lifestyle", "pooled")
SETS = (*TOPICS, *(f"{topic}-dev" for topic in TOPICS))
KINDS = ("search", "forum")
UNPACKED = "lotte_extracted"


class Lotte:
    """One topic with its own passages, or all ``pooled``; ``TOPIC-dev`` is the development part, of other passages.

    The splits are ``search`` (questions from GooAQ) and ``forum`` (titles of posts).

    Args:
        name: The topic.
        groups: Names that stand for several topics; they are taken apart before, and listed with a mistake.
        cache: Folder that remembers the digests of unchanged files.
        download: Whether absent files may be fetched.
        verify: Whether files of another size than the listed one are refused.
    """

    same_ids = False  # questions and passages are numbered apart
    lengths: Mapping[str, int] = {"passage": 300}  # tokens, as in ColBERTv2's evaluation

    def __init__(
        self,
        name: str,
        groups: Iterable[str] = (),
        cache: Path | str | None = None,
        download: bool = True,
        verify: bool = True,
    ) -> None:
        if name not in SETS:
            raise UserError(f"data.name={name}: {nearest_of(name, [*SETS, *groups], 'LoTTE')}")
        self.name = name
        self.declared_splits = list(KINDS)
        topic, _, part = name.partition("-")
        self._id = f"{topic}/{part or 'test'}"
        self._files = Catalogue(name, self._downloads, cache, download, verify)
        self._judged: dict[str, Judgements] = {}

    def _downloads(self) -> list[Download]:
        return [listed(FAMILY, "source", UNPACKED)]

    def missing(self) -> list[Download]:
        """The archive of all topics, unless it is here or unpacked."""
        return self._files.missing()

    def ready(self) -> bool:
        """Whether the archive is here."""
        return not self.missing()

    def digest(self) -> str:
        """Name the content by the topic's unpacked files."""
        parts: list[str | Path] = ["lotte", self._unpacked("collection.tsv")]
        for kind in KINDS:
            parts += [kind, self._unpacked(f"questions.{kind}.tsv"), self._unpacked(f"qas.{kind}.jsonl")]
        return self._files.digest(*parts)

    def splits(self) -> Sequence[str]:
        """Questions that were searched for, and titles of posts."""
        return self.declared_splits

    def passages(self) -> Iterator[Passage]:
        """Stream the topic's passages, which have no titles."""
        path = self._unpacked("collection.tsv")
        with reading(path), opened(path) as stream:
            for name, text in read_rows(stream, path, ("passage id", "text")):
                yield Passage(name, "", text)

    def queries(self, split: str) -> Mapping[str, str]:
        """Text by query id."""
        return self._files.queries(self._of(split), self.judgements(split))

    def judgements(self, split: str) -> Judgements:
        """The answers that were voted for or accepted."""
        if split not in self._judged:
            self._unpacked("collection.tsv")
            self._judged[split] = self._files.judgements(self._of(split))
        return self._judged[split]

    def _of(self, split: str) -> str:
        if split not in self.declared_splits:
            raise refuse_split(self.name, split, self.declared_splits)
        return f"{FAMILY}/{self._id}/{split}"

    def _unpacked(self, file: str) -> Path:
        """One of the topic's files; the archive is unpacked the first time."""
        self._files.bring()
        folder = home() / FAMILY / UNPACKED
        if not folder.exists():
            _unpack(listed(FAMILY, "source").path, folder)
        path = folder / "lotte" / self._id / file
        if not path.is_file():
            raise UserError(
                f"{path}: not there: {folder} was unpacked half; delete that folder, it is unpacked again; if the file"
                f" is not there then, {listed(FAMILY, 'source').path} is half a download, to be deleted too"
            )
        return path


def _unpack(archive: Path, folder: Path) -> None:
    """As ir_datasets does it, but whole or not at all, also if the process is killed."""
    log.info("%s: unpacking to %s", archive, folder)
    with reading(archive), atomic_folder(folder) as temporary, tarfile.open(archive, "r|gz") as stream:
        stream.extractall(temporary, filter="data")
