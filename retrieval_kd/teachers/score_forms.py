"""Forms in which others give their teachers' scores: margin-MSE triples, lists of ways, pickled dictionaries."""

from __future__ import annotations

import gzip
import io
import json
import logging
import math
import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import numpy as np
import pyarrow as pa
from pyarrow import csv

from retrieval_kd.contracts import UserError
from retrieval_kd.data.jsonl import read_lines
from retrieval_kd.data.runs import Run

log = logging.getLogger(__name__)

SAME = 1e-2  # relative: two scores of one pair that differ by less come of precision and batches; the first counts
TRIPLE = ("positive_score", "negative_score", "query_id", "positive_id", "negative_id")
WAYS = "[query, [passage, score], …]"


def read_triples(path: Path) -> Run:
    """Margin-MSE's lines: the positive's score, the negative's, the query, the positive, the negative.

    A positive stands in many lines; it must have one score, up to rounding.
    """
    types = {name: pa.float32() if name.endswith("score") else pa.string() for name in TRIPLE}
    with path.open("rb") as stream:
        delimiter = "\t" if b"\t" in stream.readline(1 << 16) else " "
    try:
        table = csv.read_csv(
            path,
            csv.ReadOptions(column_names=TRIPLE),
            csv.ParseOptions(delimiter=delimiter, quote_char=False),
            csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}; expected five columns: {', '.join(TRIPLE)}") from error
    queries = table["query_id"].combine_chunks().dictionary_encode()
    passages = pa.chunked_array([*table["positive_id"].chunks, *table["negative_id"].chunks], pa.string())
    words = passages.combine_chunks().dictionary_encode()
    numbers = np.tile(queries.indices.to_numpy(), 2)
    scores = np.concatenate([table[name].to_numpy() for name in TRIPLE[:2]])
    rows = _each_once(path, numbers, words.indices.to_numpy(), scores, (queries.dictionary, words.dictionary))
    ids = words.dictionary.to_numpy(zero_copy_only=False)[words.indices.to_numpy()[rows]]
    sizes = np.bincount(numbers[rows], minlength=len(queries.dictionary))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    finite = np.nan_to_num(scores[rows], nan=np.inf, posinf=np.inf, neginf=-np.inf)  # told by who asked
    return Run(queries.dictionary.to_pylist(), offsets, ids, finite)


def _each_once(
    path: Path, queries: np.ndarray, passages: np.ndarray, scores: np.ndarray, names: tuple[pa.Array, pa.Array]
) -> np.ndarray:
    """Rows [n] that hold every pair once, by query; two scores of one pair are refused unless nearly the same."""
    order = np.lexsort((passages, queries))  # stable: of one pair's scores the file's first stands first
    query, passage, score = queries[order], passages[order], scores[order]
    again = (query[1:] == query[:-1]) & (passage[1:] == passage[:-1])
    once = np.concatenate([[True], ~again])
    first = score[np.maximum.accumulate(np.where(once, np.arange(len(score)), 0))]
    differ = score != first
    with np.errstate(invalid="ignore"):
        near = np.abs(score - first) <= SAME * np.maximum(np.abs(score), np.abs(first))
    far = np.flatnonzero(differ & ~(near & np.isfinite(score)))
    far = far[~once[far]]
    if len(far):
        at = far[0]
        raise UserError(
            f"{path}: passage {names[1][int(passage[at])]} has two scores for query {names[0][int(query[at])]},"
            f" {first[at]:g} and {score[at]:g}"
        )
    _tell_near(path, int(differ[~once].sum()))
    return order[once]


def _tell_near(path: Path, count: int) -> None:
    if count:
        log.warning(
            "%s: %d scores differ by less than %g from the first of their pair, which counts", path, count, SAME
        )


def read_ways(path: Path) -> Run:
    """ColBERT's lists and PairDistill's: a JSON array a line, the query and what is scored; bare ids have no score."""
    lists: dict[str, dict[str, float]] = {}
    differ = 0
    for where, query, ways in lists_of_ways(path):
        scores = lists.setdefault(query, {})
        for way in ways:
            if not isinstance(way, list):
                continue
            passage, score = _way(where, way)
            first = scores.setdefault(passage, score)
            differ += first != score
            if not math.isclose(first, score, rel_tol=SAME):
                raise UserError(f"{where}: passage {passage} has another score for query {query} before")
    _tell_near(path, differ)
    if not any(lists.values()):
        raise UserError(f"{path}: no scores; lines of {WAYS} expected")
    return Run.from_dict({query: scores for query, scores in lists.items() if scores})


def lists_of_ways(path: Path) -> Iterator[tuple[str, str, list[Any]]]:
    """Place, query and ways of every line."""
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(record, list) or not record or not isinstance(record[0], int | str):
            raise UserError(f"{where}: {WAYS} expected")
        yield where, str(record[0]), record[1:]


def _way(where: str, way: list[Any]) -> tuple[str, float]:
    named = len(way) > 1 and isinstance(way[0], int | str)
    if not named or not isinstance(way[1], int | float) or not math.isfinite(way[1]):
        raise UserError(f"{where}: [passage, score] expected, found {json.dumps(way)[:80]}")
    return str(way[0]), float(way[1])


class _OnlyData(pickle.Unpickler):
    """Reads dictionaries, texts and numbers; whatever would call something, or name a class, is refused unread."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it holds {module}.{name}, and a pickle that calls anything is not read")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def read_pickle(path: Path) -> Run:
    """sentence-transformers' scores of a cross-encoder: ``{query: {passage: score}}``, of plain values only."""
    with path.open("rb") as raw:
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw)
        try:
            found = _OnlyData(io.BufferedReader(cast(Any, stream), 1 << 20)).load()
        except Exception as error:  # damaged pickles end in whatever their bytes happen to ask for
            told = " ".join(str(error).split())[:160] or "it breaks off"
            raise UserError(
                f"{path}: {told}; a pickled {{query: {{passage: score}}}} of plain values is read"
            ) from error
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{path}: a pickled {{query: {{passage: score}}}} is expected, found {type(found).__name__}")
    return Run.from_dict({_id(path, query): _scores(path, query, scores) for query, scores in found.items()})


def _scores(path: Path, query: Any, scores: Any) -> dict[str, float]:
    plain = isinstance(scores, Mapping) and all(type(score) in (int, float) for score in scores.values())
    if not plain or any(not abs(score) <= sys.float_info.max for score in scores.values()):
        raise UserError(f"{path}: query {query}: {{passage: score}} of plain, finite numbers is expected")
    return {_id(path, passage): score for passage, score in scores.items()}


def _id(path: Path, name: Any) -> str:
    if type(name) not in (int, str):
        raise UserError(f"{path}: the id {name!r} is neither a number nor a text")
    return str(name)
