"""Relevance judgements of one split in a file, in BEIR or TREC form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from retrieval_kd.contracts import UserError
from retrieval_kd.data.jsonl import read_lines

Judgements = dict[str, dict[str, int]]

FORMS = {3: (0, 1, 2), 4: (0, 2, 3)}  # columns that hold query, passage, relevance
HEADER = {"query-id", "query_id", "queryid", "qid", "query", "topic"}
EXPECTED = "'query-id corpus-id score' (BEIR) or 'query-id 0 corpus-id score' (TREC)"


def read_judgements(path: Path) -> Judgements:
    """Relevance by query id and passage id, in the order of the file; grades stay as they are."""
    judgements: Judgements = {}
    for number, query, passage, relevance in _read(path):
        known = judgements.setdefault(query, {})
        if known.setdefault(passage, relevance) != relevance:
            raise UserError(
                f"{path}:{number}: query {query!r} and passage {passage!r} are judged {relevance} here, "
                f"{known[passage]} before"
            )
    if not judgements:
        raise UserError(f"{path}: no judgements; lines of {EXPECTED} expected")
    return judgements


def line_of(path: Path, query: str, passage: str) -> int:
    """Line number of a judgement, 0 where the file has none such."""
    return next((number for number, *pair, _ in _read(path) if pair == [query, passage]), 0)


def _read(path: Path) -> Iterator[tuple[int, str, str, int]]:
    width = 0
    first = True
    for number, line in read_lines(path):
        columns = line.split()
        if first and columns[0].lower() in HEADER and not _is_integer(columns[-1]):
            first = False
            continue
        first = False
        width = width or len(columns)
        if len(columns) not in FORMS or len(columns) != width:
            lines_before = f", {width} in the lines before" if width != len(columns) else ""
            raise UserError(f"{path}:{number}: {len(columns)} columns{lines_before}; expected {EXPECTED}")
        query, passage, relevance = (columns[place] for place in FORMS[width])
        if not _is_integer(relevance):
            raise UserError(f"{path}:{number}: the relevance must be an integer, found {relevance!r}")
        yield number, query, passage, int(relevance)


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").removeprefix("+").isdecimal()
