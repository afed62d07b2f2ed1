"""Open-domain questions over DPR's Wikipedia passages: a passage answers if it holds one of a question's answers."""

from __future__ import annotations

import ast
import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.catalogue import Catalogue, refuse_split
from retrieval_kd.data.downloads import Download, home, listed, reading
from retrieval_kd.data.judgements import Judgements
from retrieval_kd.data.names import nearest_of
from retrieval_kd.data.rows import opened, read_rows

FAMILY = "dpr-w100"
ADDRESS = "https://dl.fbaipublicfiles.com/dpr/data/retriever/"  # of the questions that ir_datasets does not list
COLUMNS = ("passage id", "text", "title")


class Asked(NamedTuple):
    """Questions: of ir_datasets (id, key in its list) by split, and DPR's own test file with the number of its rows."""

    listed: Mapping[str, tuple[str, str]]
    test: str
    questions: int


SETS = {
    "nq": Asked(
        {"train": ("natural-questions/train", "nq-train"), "dev": ("natural-questions/dev", "nq-dev")},
        "nq-test.qa.csv",
        3_610,
    ),
    "triviaqa": Asked(
        {"train": ("trivia-qa/train", "tqa-train"), "dev": ("trivia-qa/dev", "tqa-dev")},
        "trivia-test.qa.csv.gz",
        11_313,
    ),
    "squad": Asked({}, "squad1-test.qa.csv", 10_570),
}


class Question(NamedTuple):
    """A question and its answers."""

    id: str
    text: str
    answers: tuple[str, ...]


class OpenQuestions:
    """Natural Questions, TriviaQA or SQuAD over 21 million passages of a hundred words.

    ``train`` and ``dev`` have judgements (DPR's positives); ``test`` has answers only, of which ``answers@K`` is made.

    Args:
        name: nq, triviaqa or squad.
        splits: The splits that are read; the files of others are not asked for. None for all.
        cache: Folder that remembers the digests of unchanged files.
        download: Whether absent files may be fetched.
        verify: Whether files of another size than the listed one, or another number of questions, are refused.
    """

    same_ids = False  # questions and passages are numbered apart

    def __init__(
        self,
        name: str,
        splits: Sequence[str] | None = None,
        cache: Path | str | None = None,
        download: bool = True,
        verify: bool = True,
    ) -> None:
        if name not in SETS:
            raise UserError(f"data.name={name}: {nearest_of(name, list(SETS), 'data=nq')}")
        there = [*SETS[name].listed, "test"]
        wanted = there if splits is None else list(splits)
        if not wanted or set(wanted) - set(there):
            raise UserError(f"data.splits: {name} has {', '.join(there)}, found {', '.join(wanted) or 'none'}")
        self.name = name
        self.declared_splits = wanted
        self._files = Catalogue(name, self._downloads, cache, download, verify)
        self._verify = verify
        self._judged: dict[str, Judgements] = {}
        self._read: dict[str, list[Question]] = {}

    def _downloads(self) -> list[Download]:
        found = [listed(FAMILY, "docs")]
        for split in self.declared_splits:
            if split == "test":
                found.append(Download(ADDRESS + SETS[self.name].test, self._test_file))
            else:
                key = SETS[self.name].listed[split][1]
                found.append(listed(FAMILY, key, f"{key}/queries.tsv", f"{key}/qrels"))
        return found

    @property
    def _test_file(self) -> Path:
        return home() / FAMILY / SETS[self.name].test

    def missing(self) -> list[Download]:
        """Files that would have to be fetched."""
        return self._files.missing()

    def ready(self) -> bool:
        """Whether all files are here."""
        return not self.missing()

    def digest(self) -> str:
        """Name the content by the files that it is read from."""
        self._files.bring()
        parts: list[str | Path] = [FAMILY, self.name, self._corpus]
        for split in self.declared_splits:
            parts += [split, self._test_file if split == "test" else self._unpacked(split)]
        return self._files.digest(*parts)

    def splits(self) -> Sequence[str]:
        """The splits that are read."""
        return self.declared_splits

    def passages(self) -> Iterator[Passage]:
        """Stream the passages with the titles of their articles; ir_datasets leaves the quotes of the file on."""
        self._files.bring()
        path = self._corpus
        with reading(path), opened(path) as stream:
            rows = read_rows(stream, path, COLUMNS)
            if next(rows, None) is None:
                raise UserError(f"{path}: no passages")
            for name, text, title in rows:
                yield Passage(name, unquoted(title), unquoted(text))

    def queries(self, split: str) -> Mapping[str, str]:
        """Text by question id: of ``train`` and ``dev`` those that have a positive."""
        judged = self.judgements(split)
        return {one.id: one.text for one in self._questions(split) if judged is None or one.id in judged}

    def answers(self, split: str) -> Mapping[str, Sequence[str]]:
        """Answers by question id."""
        return {one.id: one.answers for one in self._questions(split)}

    def judgements(self, split: str) -> Judgements | None:
        """DPR's positives: 2 marked by an annotator, 1 found by BM25 and holding the answer."""
        if split not in self.declared_splits:
            raise refuse_split(self.name, split, self.declared_splits)
        if split == "test":
            return None
        if split not in self._judged:
            self._unpacked(split)
            self._judged[split] = self._files.judgements(self._id(split), least=1)
        return self._judged[split]

    def _id(self, split: str) -> str:
        return f"{FAMILY}/{SETS[self.name].listed[split][0]}"

    def _unpacked(self, split: str) -> Path:
        """The questions of a split, which ir_datasets takes out of a large JSON file the first time."""
        try:
            return self._files.path(self._id(split), "qrels").parent / "queries.tsv"
        except ImportError as error:
            raise UserError(
                f"data.splits: {split} of {self.name} needs the package ijson: pip install 'retrieval-kd[nq]';"
                " data.splits=[test] does without"
            ) from error

    @cached_property
    def _corpus(self) -> Path:
        return listed(FAMILY, "docs").path

    def _questions(self, split: str) -> list[Question]:
        if split not in self._read:
            self._files.bring()
            if split == "test":
                self._read[split] = self._tested()
            else:
                records = self._files.records(self._id(split))
                self._read[split] = [Question(one.query_id, one.text, tuple(one.answers)) for one in records]
        return self._read[split]

    def _tested(self) -> list[Question]:
        """The test questions; of their files no checksum is published, so their number is looked at."""
        found, expected = read_questions(self._test_file), SETS[self.name].questions
        if self._verify and len(found) != expected:
            raise UserError(
                f"{self._test_file}: {len(found):,} questions, {expected:,} expected: half a download, or another file;"
                " delete it to fetch it again; data.verify=false reads it as it is"
            )
        return found


def unquoted(text: str) -> str:
    """A column as CSV means it: within quotes, in which two stand for one."""
    if len(text) > 1 and text[0] == '"' == text[-1]:
        return text[1:-1].replace('""', '"')
    return text


def read_questions(path: Path) -> list[Question]:
    """DPR's form: a question, a tab, and its answers as a Python list; the number of the line is the id."""
    found = []
    with reading(path), _text(path) as stream:
        for number, row in enumerate(csv.reader(stream, delimiter="\t")):
            try:
                text, written = row
                answers = ast.literal_eval(written)
            except (ValueError, SyntaxError) as error:
                raise UserError(f"{path}:{number + 1}: expected a question, a tab and a list of answers") from error
            if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
                raise UserError(f"{path}:{number + 1}: the answers must be a list of texts, found {written[:80]}")
            found.append(Question(str(number), text, tuple(answers)))
    return found


def _text(path: Path) -> IO[str]:
    return (
        gzip.open(path, "rt", encoding="utf-8", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8", newline="")
    )
