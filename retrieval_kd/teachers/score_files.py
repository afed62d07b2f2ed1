"""Files of teacher scores: TREC runs, three columns of text, Parquet, and the forms of others; told by their look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from retrieval_kd.contracts import UserError
from retrieval_kd.data.runs import Run
from retrieval_kd.teachers.score_forms import TRIPLE, read_pickle, read_triples, read_ways

COLUMNS = ("query_id", "passage_id", "score")
TREC_WIDTH = 6


def read_scores(path: Path) -> Run:
    """Read a TREC run (six columns), three columns of text (with or without a header), Parquet, or a form of others.

    These are margin-MSE triples (five columns), ColBERT's and PairDistill's lists (a JSON array a line), and
    sentence-transformers' pickled dictionaries, of which nothing but plain values is read.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such score file")
    named = next((read for ends, read in BY_NAME.items() if path.name.endswith(ends)), None)
    if named is not None:
        return _finite(path, named(path))
    with path.open("rb") as stream:
        first = stream.readline(1 << 16)
    if first.lstrip().startswith(b"["):
        return _finite(path, read_ways(path))
    read = BY_WIDTH.get(len(first.split()))
    if read is None:
        raise UserError(
            f"{path}:1: {len(first.split())} columns; a TREC run has six, margin-MSE triples five, a score file three:"
            f" {', '.join(COLUMNS)}"
        )
    return _finite(path, read(path))


def _read_parquet(path: Path) -> Run:
    needed = ", ".join(COLUMNS)
    try:
        table = parquet.read_table(path)
        absent = [name for name in COLUMNS if name not in table.column_names]
        if absent:
            raise UserError(f"{path}: no column {', '.join(absent)}; needed: {needed}")
        scores = table["score"].cast(pa.float32()).to_numpy()
        queries, passages = (table[name].cast(pa.string()).combine_chunks() for name in COLUMNS[:2])
    except pa.ArrowException as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}; needed: {needed}") from error
    if queries.null_count or passages.null_count:
        raise UserError(f"{path}: {queries.null_count + passages.null_count} ids are absent")
    words = queries.dictionary_encode()
    numbers = words.indices.to_numpy()
    order = np.argsort(numbers, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=len(words.dictionary)))])
    # Run refuses NaN, but cannot name the file: absent scores pass as infinite ones and are refused by _finite.
    finite = np.nan_to_num(scores, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    return Run(words.dictionary.to_pylist(), offsets, passages.to_numpy(zero_copy_only=False)[order], finite[order])


def _read_text(path: Path) -> Run:
    lists: dict[str, dict[str, float]] = {}
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            fields = line.split()
            if not fields or (number == 1 and fields[-1] == b"score"):
                continue
            query_id, passage_id, score = _fields(fields, f"{path}:{number}")
            scores = lists.setdefault(query_id, {})
            if passage_id in scores:
                raise UserError(f"{path}:{number}: passage {passage_id} has a score for query {query_id} already")
            scores[passage_id] = score
    return Run.from_dict(lists)


def _fields(fields: list[bytes], where: str) -> tuple[str, str, float]:
    if len(fields) != len(COLUMNS):
        raise UserError(f"{where}: {len(fields)} columns, not three: {', '.join(COLUMNS)}")
    try:
        query_id, passage_id, score = fields[0].decode(), fields[1].decode(), float(fields[2])
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8") from None
    except ValueError:
        raise UserError(f"{where}: the score {fields[2].decode(errors='replace')!r} is not a number") from None
    if not np.isfinite(score):
        raise UserError(f"{where}: the score {score} is not a finite number")
    return query_id, passage_id, score


def _finite(path: Path, run: Run) -> Run:
    """Refuse infinite scores, which no softmax or scale can use."""
    bad = np.flatnonzero(~np.isfinite(run.scores))
    if bad.size:
        query_id = run.query_ids[int(np.searchsorted(run.offsets, bad[0], side="right")) - 1]
        raise UserError(f"{path}: {bad.size} scores are not finite numbers, the first for query {query_id}")
    return run


BY_NAME: dict[str, Callable[[Path], Run]] = {
    ".parquet": _read_parquet,
    ".pkl": read_pickle,
    ".pickle": read_pickle,
    ".pkl.gz": read_pickle,
    ".pickle.gz": read_pickle,
    ".jsonl.gz": read_ways,
}
BY_WIDTH: dict[int, Callable[[Path], Run]] = {
    len(COLUMNS): _read_text,
    len(TRIPLE): read_triples,
    TREC_WIDTH: Run.read,
}
