"""The embedded collection: docstrings of installed packages, read from their source files and never imported.

The first paragraph of a docstring is a query, the rest is the passage that it describes: find it by its description.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.docstrings import docstrings, source_files, split_docstring
from retrieval_kd.data.files import atomic_file, text_digest
from retrieval_kd.data.near_duplicates import joined_groups, near_duplicate_groups, splits_of_groups
from retrieval_kd.data.progress import track

log = logging.getLogger(__name__)

PARSER = "2"  # changes whenever the same source files would give another collection, or another file of it
SPLITS = ("train", "dev", "test")
SHARES = {"test": 0.15, "dev": 0.10}  # of the near-duplicate groups; the rest is for training
LEAST_QUERY_WORDS, LEAST_PASSAGE_WORDS = 4, 12
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where the package index has another name than the import


class Document(NamedTuple):
    """A passage, its own query ("" where that query describes other passages too), and where the query belongs."""

    id: str
    query: str
    passage: str
    split: str


class PythonDocs:
    """Docstrings of installed packages as a collection; every passage has at most one query, every query one passage.

    A query id is its passage's with ``q:`` before it: equal ids would be taken for the same document in evaluation.

    Args:
        packages: Version that results are stated for, by import name; another installed version is another collection.
        cache: Folder that keeps the parsed collection; without it, every instance parses.
        name: What results call the collection.
        root: Folder with the packages, instead of the running Python's.
    """

    def __init__(
        self,
        packages: Mapping[str, str],
        cache: str | Path | None = None,
        name: str = "python_docs",
        root: str | Path | None = None,
    ) -> None:
        self.name = name
        self._packages = dict(packages)
        self._cache = Path(cache) if cache else None
        self._root = Path(root) if root else None

    def digest(self) -> str:
        """Name the passages, queries and splits; of a parsed collection it is read, not computed again."""
        return self._digest

    def ready(self) -> bool:
        """Whether the collection was parsed before, so that all of it is at hand in a moment."""
        return self._file is not None and self._file.exists()

    def splits(self) -> Sequence[str]:
        """Splits that have queries."""
        return [split for split in SPLITS if self._asking[split]]

    def passages(self) -> Iterator[Passage]:
        """Stream the passages in the order of packages, files and lines; there are no titles, they would be names."""
        return (Passage(document.id, "", document.passage) for document in self._documents)

    def queries(self, split: str) -> Mapping[str, str]:
        """Text by query id, in the order of the passages."""
        return {f"q:{document.id}": document.query for document in self._of(split)}

    def judgements(self, split: str) -> Mapping[str, Mapping[str, int]]:
        """Every query is answered by its own passage."""
        return {f"q:{document.id}": {document.id: 1} for document in self._of(split)}

    def _of(self, split: str) -> list[Document]:
        if not self._asking.get(split):
            raise UserError(f"data.split: {self.name} has no split {split!r} here; it has {', '.join(self.splits())}")
        return self._asking[split]

    @cached_property
    def _asking(self) -> dict[str, list[Document]]:
        """Documents with a query, by split."""
        return {split: [each for each in self._documents if each.query and each.split == split] for split in SPLITS}

    @cached_property
    def _digest(self) -> str:
        if self._file and self._file.exists():
            return str(pq.read_schema(self._file).metadata[b"digest"].decode())
        return content_digest(self._documents)

    @cached_property
    def _documents(self) -> list[Document]:
        if self._file and self._file.exists():
            return read_documents(self._file)
        documents = parse(self._folders)
        if self._file:
            write_documents(self._file, documents)
        return documents

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return {package: self._folder(package) for package in self._packages}

    def _folder(self, package: str) -> Path:
        if self._root:
            folder = self._root / package
        else:
            spec = importlib.util.find_spec(package)
            locations = list(spec.submodule_search_locations or ()) if spec else []
            folder = Path(locations[0]) if locations else Path(package)
        if not (folder / "__init__.py").is_file():
            raise UserError(f"data.packages.{package}: not installed: pip install 'retrieval-kd[quickstart]'")
        return folder

    @cached_property
    def _file(self) -> Path | None:
        """Named by versions and by the sources' sizes and times: an edited package is parsed again."""
        parts = [PARSER]
        for package, folder in self._folders.items():
            locked, found = self._packages[package], _version(package, folder)
            if found != locked:
                log.warning("%s %s is installed, %s is stated: results are of other data", package, found, locked)
            parts += [package, found]
            for status, file in ((file.stat(), file) for file in source_files(folder)):
                parts.append(f"{file} {status.st_size} {status.st_mtime_ns}")
        return self._cache / f"python_docs-{text_digest(*parts)}.parquet" if self._cache else None


def content_digest(documents: Sequence[Document]) -> str:
    """Name the documents and their order."""
    return text_digest(*(part for document in documents for part in document))


def write_documents(file: Path, documents: Sequence[Document]) -> None:
    """Keep documents with their digest."""
    fields = [(field, pa.string()) for field in Document._fields]
    schema = pa.schema(fields, metadata={"digest": content_digest(documents)})
    with atomic_file(file) as temporary:
        pq.write_table(pa.Table.from_pylist([document._asdict() for document in documents], schema), temporary)


def read_documents(file: Path) -> list[Document]:
    """Documents as they were written."""
    # Not ``read_table``, which first imports what reads whole folders: 0.2 s.
    columns = pq.ParquetFile(file).read().to_pydict()
    return [Document(*row) for row in zip(*(columns[field] for field in Document._fields), strict=True)]


def parse(folders: Mapping[str, Path]) -> list[Document]:
    """Documents of all packages, in the order of packages, files and lines.

    A passage that stands in several places is kept once, with the first of its queries. A query that describes
    several passages asks for none of them in particular: it is dropped, its passages stay to be found by nobody.
    """
    found: dict[str, tuple[str, str, str]] = {}
    files = [(package, folder, file) for package, folder in folders.items() for file in source_files(folder)]
    for package, folder, file in track(files, "python_docs: read docstrings"):
        path = f"{package}/{file.relative_to(folder).as_posix()}"
        for name, docstring in docstrings(file).items():
            query, passage = split_docstring(docstring, name.rsplit(".", 1)[-1])
            if len(query.split()) >= LEAST_QUERY_WORDS and len(passage.split()) >= LEAST_PASSAGE_WORDS:
                found.setdefault(_normal(passage), (f"{path}:{name}", query, passage))
    queries = [_normal(query) for _, query, _ in found.values()]
    described = Counter(queries)
    texts = [f"{query} {passage}" for query, passage in zip(queries, found, strict=True)]
    # Near-duplicates are those of the whole text, and those of the query alone.
    groups = joined_groups(near_duplicate_groups(texts), near_duplicate_groups(queries, threshold=0.7, words=2))
    splits = splits_of_groups(groups, texts, SHARES, rest="train")
    return [
        Document(identity, query if described[normal] == 1 else "", passage, split)
        for (identity, query, passage), normal, split in zip(found.values(), queries, splits, strict=True)
    ]


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _version(package: str, folder: Path) -> str:
    name = DISTRIBUTIONS.get(package, package)
    found = importlib.metadata.distributions(name=name, path=[str(folder.parent)])
    return next((distribution.version for distribution in found), "unknown")
