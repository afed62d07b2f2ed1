"""Pairs in the forms of PairDistill: lists with preferences, and lines of what a judge said."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrieval_kd.contracts import UserError
from retrieval_kd.data.jsonl import read_lines

LIST = "[query, [passage, score, [[place, log probability], …]], …]"
LINE = ("query", "passage i", "passage j", "score of i", "score of j")
IDS = ("query_id", "passage_i", "passage_j")

Columns = dict[str, list[Any]]


def read_pair_lists(path: Path) -> Columns:
    """``pairs.train.jsonl``: a passage with the places, in its line, of those that it beats, and how likely."""
    found: Columns = {name: [] for name in (*IDS, "probability")}
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(record, list) or len(record) < 2:
            raise UserError(f"{where}: {LIST} expected")
        for row in _of_list(where, record[1:]):
            for column, value in zip(found.values(), (str(record[0]), *row), strict=True):
                column.append(value)
    return found


def _of_list(where: str, ways: list[Any]) -> Iterator[tuple[str, str, float]]:
    """A passage, one that it is compared with, and how likely it is the better one."""
    ids = [str(way[0] if isinstance(way, list) and way else way) for way in ways]
    for name, way in zip(ids, ways, strict=True):
        for pair in way[2] if isinstance(way, list) and len(way) > 2 else ():
            if not _is_pair(pair, len(ids)):
                raise UserError(
                    f"{where}: [place in the line, log probability] expected, found {json.dumps(pair)[:80]}"
                )
            yield name, ids[pair[0]], math.exp(pair[1])


def _is_pair(pair: Any, count: int) -> bool:
    if not isinstance(pair, list) or [type(part) in (int, float) for part in pair] != [True, True]:
        return False
    return type(pair[0]) is int and 0 <= pair[0] < count and pair[1] <= 0


def read_pair_lines(path: Path) -> Columns:
    """Lines of a judge's two log-probabilities, or logits: their difference is the log-odds."""
    found: Columns = {name: [] for name in (*IDS, "log_odds")}
    for number, line in read_lines(path):
        columns = line.split()
        try:
            *ids, high, low = columns
            log_odds = float(high) - float(low)
        except ValueError:
            log_odds = math.nan
        if len(columns) != len(LINE) or not math.isfinite(log_odds):
            raise UserError(f"{path}:{number}: expected {', '.join(LINE)}; found {line.strip()[:80]!r}")
        for column, value in zip(found.values(), (*ids, log_odds), strict=True):
            column.append(value)
    return found
