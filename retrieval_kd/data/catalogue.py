"""What the collections of ir_datasets share: files that are fetched once, queries and judgements by its own code.

Passages are read from the files themselves: ir_datasets would first make a second store of them, and unpickle that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval_kd.contracts import UserError
from retrieval_kd.data.downloads import Download, dataset, fetch, missing, network, reading
from retrieval_kd.data.files import file_digest, text_digest
from retrieval_kd.data.judgements import Judgements

VERSION = "1"  # raised when the same files would give another collection


class Catalogue:
    """The files of one collection.

    Args:
        name: What results call the collection.
        downloads: What it is read from; asked when it is first needed, for it imports ir_datasets.
        cache: Folder that remembers the digests of unchanged files.
        download: Whether absent files may be fetched.
        verify: Whether files of another size than the listed one are refused.
        terms: What users agree to, told before anything is fetched.
    """

    def __init__(
        self,
        name: str,
        downloads: Callable[[], Sequence[Download]],
        cache: Path | str | None = None,
        download: bool = True,
        verify: bool = True,
        terms: str = "",
    ) -> None:
        self.name = name
        self._downloads = downloads
        self._cache = Path(cache) if cache else None
        self._may_download, self._verify = download, verify
        self._terms = terms
        self._here = False

    def missing(self) -> list[Download]:
        """Files that would have to be fetched."""
        return missing(self._downloads())

    def bring(self) -> None:
        """Make sure that all files are here, and whole as far as sizes tell."""
        if not self._here:
            files = self._downloads()
            fetch(self.name, files, self._may_download, self._terms)
            for file in files if self._verify else ():
                file.check()
            self._here = True

    def digest(self, *parts: str | Path) -> str:
        """Name the content of files, and whatever else decides the collection."""
        told = [file_digest(part, self._cache) if isinstance(part, Path) else part for part in parts]
        return text_digest("ir_datasets", VERSION, *told)

    def path(self, name: str, what: str) -> Path:
        """The file of a data set's ``queries`` or ``qrels``, unpacked if it has to be."""
        with self._told():
            return Path(getattr(dataset(name), f"{what}_path")())

    def queries(self, name: str, judged: Mapping[str, Any] | None) -> dict[str, str]:
        """Texts of a data set's queries, of those that are judged if any are."""
        return {
            query.query_id: query.text for query in self.records(name) if judged is None or query.query_id in judged
        }

    def records(self, name: str) -> list[Any]:
        """The queries of a data set as ir_datasets gives them."""
        self.bring()
        with self._told():
            return list(dataset(name).queries_iter())

    def judgements(self, name: str, least: int | None = None) -> Judgements:
        """Relevance by query and passage, of ``least`` or more."""
        self.bring()
        found: Judgements = {}
        with self._told():
            for judged in dataset(name).qrels_iter():
                if least is None or judged.relevance >= least:
                    found.setdefault(judged.query_id, {})[judged.doc_id] = judged.relevance
        return found

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever goes wrong with the files, as a line that names them."""
        files = self._downloads()
        there = ", ".join(str(file.path) for file in files if file.path.exists())
        with network(self.name, files), reading(there or self.name):
            yield


def refuse_split(name: str, split: str, splits: Sequence[str]) -> UserError:
    """A split that a collection does not have."""
    return UserError(f"data.split={split}: {name} has {', '.join(splits)}")
