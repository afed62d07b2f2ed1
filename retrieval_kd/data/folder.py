"""A collection in a folder of BEIR's layout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.files import file_digest, text_digest
from retrieval_kd.data.jsonl import read_records, record_id, record_text
from retrieval_kd.data.judgements import Judgements, line_of, read_judgements

LAYOUT = "expected corpus.jsonl[.gz], queries.jsonl[.gz] and, if there are judgements, qrels/SPLIT.tsv"
ALL = "all"
FIRST_SPLITS = ("train", "training", "dev", "validation", "valid", "val", "test")
_PLAIN = re.compile(r"(?P<split>[^.].*)\.(tsv|trec|txt)(\.gz)?")
_PREFIXED = re.compile(r"qrels\.(?P<split>.+)\.(tsv|trec|txt)(\.gz)?")


class Folder:
    """Reads ``corpus.jsonl``, ``queries.jsonl`` (either may be ``.gz``) and the judgements of each split.

    Judgements lie in ``qrels/SPLIT.{tsv,trec,txt}`` or ``qrels.SPLIT.{tsv,trec,txt}``, in BEIR or TREC form whatever
    the file is called. A folder without any has one split, ``all``, that holds every query.

    Args:
        name: the folder's base name unless given.
        cache: a folder that remembers the digests of unchanged files.
    """

    def __init__(self, path: Path | str, name: str | None = None, cache: Path | str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.resolve().name
        self._cache = Path(cache) if cache else None
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such folder; {LAYOUT}")
        self._corpus = self._file("corpus")
        self._query_file = self._file("queries")
        self._judgement_files = self._find_judgements()
        self._judgements: dict[str, Judgements] = {}

    def digest(self) -> str:
        """Name the content by the digests of all files that it is read from."""
        parts = ["folder", self._digest(self._corpus), self._digest(self._query_file)]
        for split, path in self._judgement_files.items():
            parts += [split, self._digest(path)]
        return text_digest(*parts)

    def splits(self) -> Sequence[str]:
        """Train, dev, test, then others by name; ``all`` where there are no judgements."""
        return list(self._judgement_files) or [ALL]

    def passages(self) -> Iterator[Passage]:
        """Stream the corpus in its order; a missing title is empty."""
        path, number = self._corpus, 0
        for number, record in read_records(path):
            title = "" if record.get("title") is None else record_text(path, number, record, "title")
            yield Passage(record_id(path, number, record), title, record_text(path, number, record, "text"))
        if not number:
            raise UserError(f"{path}: no passages")

    def queries(self, split: str) -> Mapping[str, str]:
        """Texts of the queries that the split's judgements name, in the order of the query file."""
        judged = self.judgements(split)
        if judged is None:
            return self._queries
        return {query: text for query, text in self._queries.items() if query in judged}

    def judgements(self, split: str) -> Judgements | None:
        """Relevance by query id and passage id, grades kept; None in a folder without judgements."""
        if split not in self.splits():
            raise UserError(f"{self.path}: no split {split!r}; there is {', '.join(self.splits())}")
        if split not in self._judgement_files:
            return None
        if split not in self._judgements:
            self._judgements[split] = read_judgements(self._judgement_files[split])
        return self._judgements[split]

    def passage_places(self, passage_id: str) -> list[str]:
        """``file:line`` of every passage with an id."""
        return [
            f"{self._corpus}:{number}" for number, record in read_records(self._corpus) if record["_id"] == passage_id
        ]

    def judgement_place(self, split: str, query_id: str, passage_id: str) -> str:
        """``file:line`` of a judgement."""
        path = self._judgement_files[split]
        return f"{path}:{line_of(path, query_id, passage_id)}"

    @cached_property
    def _queries(self) -> dict[str, str]:
        path, queries, lines = self._query_file, dict[str, str](), dict[str, int]()
        for number, record in read_records(path):
            name = record_id(path, number, record)
            if name in queries:
                raise UserError(f"{path}:{number}: query id {name!r} is given twice, first in line {lines[name]}")
            queries[name] = record_text(path, number, record, "text")
            lines[name] = number
        if not queries:
            raise UserError(f"{path}: no queries")
        return queries

    def _file(self, name: str) -> Path:
        for candidate in (self.path / f"{name}.jsonl", self.path / f"{name}.jsonl.gz"):
            if candidate.is_file():
                return candidate
        raise UserError(f"{self.path}: no {name}.jsonl or {name}.jsonl.gz; {LAYOUT}")

    def _find_judgements(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        inside = sorted((self.path / "qrels").iterdir()) if (self.path / "qrels").is_dir() else []
        beside = sorted(self.path.glob("qrels.*"))
        for path in (*inside, *beside):
            match = _PREFIXED.fullmatch(path.name) or (path in inside and _PLAIN.fullmatch(path.name))
            if not match or not path.is_file():
                continue
            split = match["split"]
            if split in found:
                raise UserError(f"{path}: split {split!r} has judgements in {found[split]} already; keep one of them")
            found[split] = path
        return dict(sorted(found.items(), key=lambda item: _order(item[0])))

    def _digest(self, path: Path) -> str:
        return file_digest(path, self._cache)


def _order(split: str) -> tuple[int, str]:
    return (FIRST_SPLITS.index(split) if split in FIRST_SPLITS else len(FIRST_SPLITS), split)
