"""BEIR's public sets, from the archives that BEIR publishes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from zipfile import ZipFile

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.catalogue import Catalogue, refuse_split
from retrieval_kd.data.downloads import Download, listed, reading
from retrieval_kd.data.jsonl import record_id, record_text, records_of
from retrieval_kd.data.judgements import Judgements
from retrieval_kd.data.names import nearest_of

FAMILY = "beir"
FORUMS = (
    *("android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats", "tex", "unix"),
    *("webmasters", "wordpress"),
)
SETS: dict[str, tuple[str, ...]] = {
    "arguana": ("test",),
    "climate-fever": ("test",),
    **{f"cqadupstack-{forum}": ("test",) for forum in FORUMS},
    "dbpedia-entity": ("dev", "test"),
    "fever": ("train", "dev", "test"),
    "fiqa": ("train", "dev", "test"),
    "hotpotqa": ("train", "dev", "test"),
    "msmarco": ("train", "dev", "test"),
    "nfcorpus": ("train", "dev", "test"),
    "nq": ("test",),
    "quora": ("dev", "test"),
    "scidocs": ("test",),
    "scifact": ("train", "test"),
    "trec-covid": ("test",),
    "webis-touche2020": ("test",),
    "webis-touche2020-v1": ("test",),
}
# What BEIR calls webis-touche2020 since 2022 is its second version, which ir_datasets calls so.
IDS = {"webis-touche2020": "webis-touche2020/v2", "webis-touche2020-v1": "webis-touche2020"}
# Tokens: those of ColBERTv2's and PairDistill's evaluation on BEIR; other queries are short.
QUERY_LENGTHS = {"arguana": 300, "climate-fever": 64}
PASSAGE_LENGTH = 300


class Beir:
    """One of BEIR's sets, a forum of CQADupStack as ``cqadupstack-FORUM``.

    Args:
        name: The set.
        groups: Names that stand for several sets; they are taken apart before, and listed with a mistake.
        cache: Folder that remembers the digests of unchanged files.
        download: Whether absent files may be fetched.
        verify: Whether files of another size than the listed one are refused.
    """

    def __init__(
        self,
        name: str,
        groups: Iterable[str] = (),
        cache: Path | str | None = None,
        download: bool = True,
        verify: bool = True,
    ) -> None:
        if name not in SETS:
            raise UserError(f"data.name={name}: {nearest_of(name, [*SETS, *groups], 'BEIR')}")
        self.name = name
        self.declared_splits = list(SETS[name])
        self.default_split = "dev" if name == "msmarco" else "test"  # MS MARCO's test judgements are not public
        self.lengths = {"query": QUERY_LENGTHS.get(name), "passage": PASSAGE_LENGTH}
        self._id = IDS.get(name, name.replace("cqadupstack-", "cqadupstack/"))
        self._files = Catalogue(name, self._downloads, cache, download, verify)
        self._judged: dict[str, Judgements] = {}

    def _downloads(self) -> list[Download]:
        return [self._archive]

    @cached_property
    def _archive(self) -> Download:
        return listed(FAMILY, self._id.partition("/")[0] if self._id.startswith("cqadupstack/") else self._id)

    def missing(self) -> list[Download]:
        """The archive, unless it is here."""
        return self._files.missing()

    def ready(self) -> bool:
        """Whether the archive is here."""
        return not self.missing()

    def digest(self) -> str:
        """Name the content by the archive, and the part of it that is read."""
        self._files.bring()
        return self._files.digest("beir", self._id, self._archive.path)

    def splits(self) -> Sequence[str]:
        """The splits that BEIR gives judgements for."""
        return self.declared_splits

    def passages(self) -> Iterator[Passage]:
        """Stream the set's corpus in its order."""
        self._files.bring()
        path, folder = self._archive.path, self._id.removesuffix("/v2")
        with reading(path), ZipFile(path) as archive, archive.open(f"{folder}/corpus.jsonl") as member:
            where = path / f"{folder}/corpus.jsonl"
            for number, record in records_of(io.BufferedReader(member, 1 << 20), where):  # type: ignore[type-var]
                title = record_text(where, number, record, "title") if record.get("title") else ""
                yield Passage(record_id(where, number, record), title, record_text(where, number, record, "text"))

    def queries(self, split: str) -> Mapping[str, str]:
        """Texts of the split's judged queries."""
        return self._files.queries(self._of(split), self.judgements(split))

    def judgements(self, split: str) -> Judgements:
        """Relevance by query id and passage id, grades kept."""
        if split not in self._judged:
            self._judged[split] = self._files.judgements(self._of(split))
        return self._judged[split]

    def _of(self, split: str) -> str:
        """The id of ir_datasets: sets of a single split have none for it."""
        if split not in self.declared_splits:
            raise refuse_split(self.name, split, self.declared_splits)
        return f"{FAMILY}/{self._id}" + (f"/{split}" if len(self.declared_splits) > 1 else "")
