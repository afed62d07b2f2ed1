"""MS MARCO's passages, and the queries that are asked of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.catalogue import Catalogue, refuse_split
from retrieval_kd.data.downloads import Download, home, listed, reading
from retrieval_kd.data.judgements import Judgements
from retrieval_kd.data.mojibake import repaired
from retrieval_kd.data.rows import opened, read_rows

FAMILY = "msmarco-passage"
ARCHIVE, MEMBER, UNPACKED = "collectionandqueries", "collection.tsv", "collection.tsv"
REPAIRED = "v2"  # what ir_datasets notes beside the file that it unpacked, since it repairs characters
TERMS = "MS MARCO's terms of use: www.msmarco.org/dataset.aspx"
NO_TITLE = ("", "-")


class Split(NamedTuple):
    """Where a split's queries and judgements are from: the id of ir_datasets, the key of each file, its place."""

    id: str
    queries: tuple[str, str]
    judgements: tuple[str, str] | None


SPLITS = {
    "train": Split("train", ("queries", "train/queries.tsv"), ("train/qrels", "")),
    "train_all": Split("train", ("queries", "train/queries.tsv"), None),
    "dev": Split("dev/small", (ARCHIVE, "dev/small/queries.tsv"), (ARCHIVE, "dev/small/qrels")),
    "dl19": Split("trec-dl-2019", ("trec-dl-2019/queries", "trec-dl-2019/queries.tsv"), ("trec-dl-2019/qrels", "")),
    "dl20": Split("trec-dl-2020", ("trec-dl-2020/queries", ""), ("trec-dl-2020/qrels", "")),
}


class MsMarco:
    """8.8 million passages and the queries that were asked of them.

    Splits: ``train`` (the judged queries), ``train_all`` (the others too, without judgements), ``dev`` (MS MARCO's
    small dev set), ``dl19`` and ``dl20`` (the judged queries of TREC's Deep Learning tracks).

    Args:
        splits: The splits that are read; the files of others are not asked for.
        name: What results call the collection.
        titles: Whether passages have titles, which the collection itself does not give.
        title_file: Lines of "passage id, tab, title" in the collection's order.
        cache: Folder that remembers the digests of unchanged files.
        download: Whether absent files may be fetched.
        verify: Whether files of another size than the listed one are refused.
    """

    same_ids = False  # queries and passages are numbered apart

    def __init__(
        self,
        splits: Sequence[str],
        name: str = "msmarco",
        titles: bool = False,
        title_file: Path | str | None = None,
        cache: Path | str | None = None,
        download: bool = True,
        verify: bool = True,
    ) -> None:
        unknown = [split for split in splits if split not in SPLITS]
        if unknown or not splits:
            raise UserError(f"data.splits: {', '.join(SPLITS)} are there, found {', '.join(splits) or 'none'}")
        self.name = name
        self.declared_splits = list(splits)
        if titles and not title_file:
            raise UserError(
                "data.titles=true: MS MARCO's passages have no titles; data.title_file=FILE brings them, lines of"
                " 'passage id <tab> title' (RocketQA's para.title.txt is one)"
            )
        self._titles = Path(title_file) if titles and title_file else None
        if self._titles and not self._titles.is_file():
            raise UserError(f"data.title_file={self._titles}: there is no such file; lines of 'passage id <tab> title'")
        self._files = Catalogue(name, self._downloads, cache, download, verify, TERMS)
        self._judged: dict[str, Judgements] = {}
        self._asked: dict[str, dict[str, str]] = {}

    def _downloads(self) -> list[Download]:
        found = [listed(FAMILY, ARCHIVE, UNPACKED)]
        for split in self.declared_splits:
            for key, made in filter(None, SPLITS[split][1:]):
                found.append(listed(FAMILY, key, *([made] if made else [])))
        return found

    def missing(self) -> list[Download]:
        """Files that would have to be fetched."""
        return self._files.missing()

    def ready(self) -> bool:
        """Whether all files are here."""
        return not self.missing()

    def digest(self) -> str:
        """Name the content by the files that it is read from."""
        self._files.bring()
        parts: list[str | Path] = ["msmarco", self._corpus]
        parts += [str(self._is_repaired), self._titles or ""]
        for split in self.declared_splits:
            name = f"{FAMILY}/{SPLITS[split].id}"
            parts += [split, self._files.path(name, "queries")]
            parts += [self._files.path(name, "qrels")] if SPLITS[split].judgements else []
        return self._files.digest(*parts)

    def splits(self) -> Sequence[str]:
        """The splits that are read, in the order of ``data.splits``."""
        return self.declared_splits

    def passages(self) -> Iterator[Passage]:
        """Stream the collection in its order, its characters repaired."""
        self._files.bring()
        path = self._corpus
        change = None if self._is_repaired else repaired
        with reading(path), opened(path, MEMBER) as stream:
            rows = read_rows(stream, path, ("passage id", "text"), change)
            if self._titles is None:
                for name, text in rows:
                    yield Passage(name, "", text)
            else:
                yield from self._titled(rows, self._titles)

    def queries(self, split: str) -> Mapping[str, str]:
        """Texts of the judged queries; of ``train_all`` all."""
        judged, asked = self.judgements(split), self._queries(split)
        return asked if judged is None else {query: text for query, text in asked.items() if query in judged}

    def judgements(self, split: str) -> Judgements | None:
        """Relevance by query id and passage id, grades kept."""
        if split not in self.declared_splits:
            raise refuse_split(self.name, split, self.declared_splits)
        if SPLITS[split].judgements is None:
            return None
        if split not in self._judged:
            self._judged[split] = self._files.judgements(f"{FAMILY}/{SPLITS[split].id}")
        return self._judged[split]

    def _queries(self, split: str) -> dict[str, str]:
        name = SPLITS[split].id  # train and train_all read one file
        if name not in self._asked:
            self._asked[name] = self._files.queries(f"{FAMILY}/{name}", None)
        return self._asked[name]

    @property
    def _corpus(self) -> Path:
        """The archive as it is published, or what was unpacked of it."""
        archive = listed(FAMILY, ARCHIVE).path
        return archive if archive.exists() else home() / FAMILY / UNPACKED

    @property
    def _is_repaired(self) -> bool:
        """Whether ir_datasets unpacked the file, and repaired it."""
        note = home() / FAMILY / "irds_version.txt"
        return self._corpus.name == UNPACKED and note.is_file() and note.read_text().strip() == REPAIRED

    def _titled(self, rows: Iterator[list[str]], path: Path) -> Iterator[Passage]:
        """Passages with their titles; the file may leave some out, and may not be in another order."""
        with reading(path), opened(path) as stream:
            titles = read_rows(stream, path, ("passage id", "title"))
            name, title = next(titles, ["", ""])
            for passage, text in rows:
                if passage == name:
                    yield Passage(passage, "" if title in NO_TITLE else title, text)
                    name, title = next(titles, ["", ""])
                else:
                    yield Passage(passage, "", text)
            if name:
                raise UserError(
                    f"{path}: the title of passage {name!r} is not in the collection's order, or there is no such"
                    " passage"
                )
