"""The embedded collection: docstrings of installed packages, read from their source files and never imported.

The first paragraph of a docstring is a query, the rest is the passage that it describes: find it by its description.
"""

from __future__ import annotations

import ast
import gc
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.files import atomic_file, text_digest
from retrieval_kd.data.near_duplicates import joined_groups, near_duplicate_groups, splits_of_groups
from retrieval_kd.data.progress import track

log = logging.getLogger(__name__)

PARSER = "1"  # changes whenever the same source files would give another collection
SPLITS = ("train", "dev", "test")
SHARES = {"test": 0.15, "dev": 0.10}  # of the near-duplicate groups; the rest is for training
LEAST_QUERY_WORDS, LEAST_PASSAGE_WORDS = 4, 12
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where the package index has another name than the import

BLANK_LINE = re.compile(r"\n[ \t]*\n")
UNDERLINE = re.compile(r"^[ \t]*([-=~^*#+_.\"'`])\1{2,}[ \t]*$", re.MULTILINE)
PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.)(?= |$)", re.MULTILINE)
TEMPLATE = re.compile(r"%\(\w+\)s")
QUOTE_MARKUP = re.compile(r"(?::\w[\w:+-]*:(?=`))?`+[~!]?")
PROSE_NAME = re.compile(r"[A-Z]?[a-z]*")
WORD_CHARACTER = re.compile(r"\w")
DOTTED = re.compile(r"(?:[\w.]*\.)?$")
QUOTES = tuple("`'\"")


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
        queries: Most queries used of each split, None for all; a split that is not named has none.
        passages: Size of a fixed subset that holds every passage of the queries used; None for all.
        name: What results call the collection.
        root: Folder with the packages, instead of the running Python's.
    """

    def __init__(
        self,
        packages: Mapping[str, str],
        cache: str | Path | None = None,
        queries: Mapping[str, int | None] | None = None,
        passages: int | None = None,
        name: str = "python_docs",
        root: str | Path | None = None,
    ) -> None:
        self.name = name
        self._packages = dict(packages)
        self._cache = Path(cache) if cache else None
        self._most = dict(queries) if queries is not None else dict.fromkeys(SPLITS)
        self._size = passages
        self._root = Path(root) if root else None
        unknown = sorted(self._most.keys() - set(SPLITS))
        if unknown:
            raise UserError(f"data.queries.{unknown[0]}: python_docs has the splits {', '.join(SPLITS)}")

    def digest(self) -> str:
        """Name the passages, queries and splits that this instance gives."""
        parts = [part for document in self._kept for part in (document.id, document.passage)]
        for split, documents in self._asked.items():
            parts += [split, *(part for document in documents for part in (document.id, document.query))]
        return text_digest(*parts)

    def splits(self) -> Sequence[str]:
        """Splits that have queries."""
        return [split for split in SPLITS if self._asked[split]]

    def passages(self) -> Iterator[Passage]:
        """Stream the passages in the order of packages, files and lines; there are no titles, they would be names."""
        return (Passage(document.id, "", document.passage) for document in self._kept)

    def queries(self, split: str) -> Mapping[str, str]:
        """Text by query id, in the order of their hashes, so that a smaller cap gives a prefix."""
        return {f"q:{document.id}": document.query for document in self._of(split)}

    def judgements(self, split: str) -> Mapping[str, Mapping[str, int]]:
        """Every query is answered by its own passage."""
        return {f"q:{document.id}": {document.id: 1} for document in self._of(split)}

    def _of(self, split: str) -> list[Document]:
        if not self._asked.get(split):
            raise UserError(f"data.split: {self.name} has no split {split!r} here; it has {', '.join(self.splits())}")
        return self._asked[split]

    @cached_property
    def _documents(self) -> list[Document]:
        folders = {package: self._folder(package) for package in self._packages}
        name = f"python_docs-{self._key(folders)}.parquet"
        file = self._cache / name if self._cache else None
        if file and file.exists():
            columns = pq.read_table(file).to_pydict()
            return [Document(*row) for row in zip(*(columns[field] for field in Document._fields), strict=True)]
        documents = parse(folders)
        if file:
            schema = pa.schema([(field, pa.string()) for field in Document._fields])
            with atomic_file(file) as temporary:
                pq.write_table(pa.Table.from_pylist([document._asdict() for document in documents], schema), temporary)
        return documents

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

    def _key(self, folders: Mapping[str, Path]) -> str:
        """Versions and the files' sizes and times: an edited package is parsed again."""
        parts = [PARSER]
        for package, folder in folders.items():
            locked, found = self._packages[package], _version(package, folder)
            if found != locked:
                log.warning("%s %s is installed, %s is stated: results are of other data", package, found, locked)
            parts += [package, found]
            for status, file in ((file.stat(), file) for file in source_files(folder)):
                parts.append(f"{file} {status.st_size} {status.st_mtime_ns}")
        return text_digest(*parts)

    @cached_property
    def _ordered(self) -> list[Document]:
        """By hash of the text: a random order that never changes."""
        return sorted(self._documents, key=lambda document: text_digest(document.query, document.passage, document.id))

    @cached_property
    def _asked(self) -> dict[str, list[Document]]:
        asking = [document for document in self._ordered if document.query]
        by_split = {split: [document for document in asking if document.split == split] for split in SPLITS}
        return {split: by_split[split][: self._most.get(split, 0)] for split in SPLITS}

    @cached_property
    def _kept(self) -> list[Document]:
        if self._size is None:
            return self._documents
        judged = [document for documents in self._asked.values() for document in documents]
        if len(judged) > self._size:
            raise UserError(f"data.passages: {self._size} passages cannot hold those of {len(judged)} data.queries")
        kept = set(judged)
        others = [document for document in self._ordered if document not in kept]
        kept.update(others[: self._size - len(judged)])
        return [document for document in self._documents if document in kept]


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


def source_files(folder: Path) -> list[Path]:
    """Python files below ``folder`` in a fixed order, without tests."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - {"tests", "__pycache__"})
        found += [Path(place, file) for file in sorted(files) if file.endswith(".py")]
    return found


def docstrings(file: Path) -> dict[str, str]:
    """Docstring by dotted name of each class and function; of a getter and its setter, the first that has one."""
    source = file.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return {}
    # A syntax tree is many small objects without cycles to collect.
    collected = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escape sequences
            tree = ast.parse(source)
        found: dict[str, str] = {}
        for name, docstring in _documented(tree.body, ""):
            found.setdefault(name, docstring)
        return found
    except (SyntaxError, ValueError):
        log.warning("%s: not read, it is not Python of this version", file)
        return {}
    finally:
        if collected:
            gc.enable()


def _documented(body: Sequence[ast.AST], prefix: str) -> Iterator[tuple[str, str]]:
    """Statements only: walking every expression would take as long as parsing."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = prefix + statement.name
            docstring = ast.get_docstring(statement, clean=False)
            if docstring:
                yield name, docstring.encode(errors="replace").decode()  # no half of a surrogate pair
            yield from _documented(statement.body, f"{name}.")
        else:
            for part in ("body", "orelse", "handlers", "finalbody"):
                inner = getattr(statement, part, None)
                if isinstance(inner, list):
                    yield from _documented(inner, prefix)


def split_docstring(docstring: str, name: str) -> tuple[str, str]:
    """First paragraph and rest, cleaned, without the name of what they describe."""
    query, *rest = BLANK_LINE.split(inspect.cleandoc(docstring), maxsplit=1)
    return _cleaned(query, name), _cleaned("".join(rest), name)


def _cleaned(text: str, name: str) -> str:
    text = UNDERLINE.sub("", TEMPLATE.sub("", without_name(text, name)))
    return " ".join(QUOTE_MARKUP.sub("", PROMPT.sub("", text)).split())


def without_name(text: str, name: str) -> str:
    """Take an identifier and its dotted forms out of a text, so that matching is not looking up a name.

    A name that only code has (``fit_transform``, ``KMeans``) goes everywhere. One that is also a word goes where it
    is code: called, dotted, quoted or in a doctest line; "Return the mean of ..." keeps describing ``mean``.
    """
    word = PROSE_NAME.fullmatch(name) is not None
    kept, done, start = [], 0, text.find(name)
    while start >= 0:
        end = start + len(name)
        if not WORD_CHARACTER.match(text[start - 1 : start]) and not WORD_CHARACTER.match(text[end : end + 1]):
            begin = start - len(DOTTED.search(text, max(done, start - 200), start).group())  # type: ignore[union-attr]
            if begin < start or not word or _is_code(text, start, end):
                kept.append(text[done:begin])
                done = end
        start = text.find(name, end)
    return "".join([*kept, text[done:]])


def _is_code(text: str, start: int, end: int) -> bool:
    """Whether a word is called, quoted or in a doctest line."""
    before, after, line = text[start - 1 : start], text[end : end + 1], text[text.rfind("\n", 0, start) + 1 : start]
    return after == "(" or (before in QUOTES and after in QUOTES) or line.lstrip().startswith((">>>", "..."))


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _version(package: str, folder: Path) -> str:
    name = DISTRIBUTIONS.get(package, package)
    found = importlib.metadata.distributions(name=name, path=[str(folder.parent)])
    return next((distribution.version for distribution in found), "unknown")
