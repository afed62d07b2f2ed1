"""JSON Lines with ids, plain or gzipped; what is wrong with a line is told with its file and number."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from retrieval_kd.contracts import UserError

ID = "_id"


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of every line that is not blank."""
    return _records(read_lines(path), path)


def records_of(stream: IO[bytes], where: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of an open stream, which mistakes call ``where``."""
    return _records(_lines(stream, where), where)


def _records(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    loads = json.loads
    for number, line in lines:
        try:
            record = loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not valid JSON: {error}") from error
        if type(record) is not dict:
            raise UserError(f"{path}:{number}: a JSON object expected, found {type(record).__name__}")
        if "\\ud" in line or "\\uD" in line:
            _forbid_lone_surrogates(path, number, record)
        yield number, record


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of every line that is not blank; a byte order mark is dropped."""
    with _open(path) as stream:
        yield from _lines(stream, path)


def _lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not UTF-8 (byte {error.start + 1} of the line)") from error
        if number == 1:
            text = text.removeprefix("\ufeff")
        if text.strip():
            yield number, text


def record_id(path: Path, number: int, record: dict[str, Any]) -> str:
    """Id of a record: a string without white space, since run files separate their columns by it."""
    name = record.get(ID)
    if type(name) is str and name.split() == [name]:
        return name
    if ID not in record:
        raise UserError(f'{path}:{number}: field "{ID}" is missing; found: {_fields(record)}')
    if type(name) is not str:
        raise UserError(f'{path}:{number}: field "{ID}" must be a string, found {json.dumps(name)[:80]}')
    raise UserError(f'{path}:{number}: field "{ID}" must have no white space and not be empty, found {name!r}')


def record_text(path: Path, number: int, record: dict[str, Any], field: str) -> str:
    """Text in ``field`` of a record."""
    text = record.get(field)
    if type(text) is str:
        return text
    if field not in record:
        raise UserError(f'{path}:{number}: field "{field}" is missing; found: {_fields(record)}')
    raise UserError(f'{path}:{number}: field "{field}" must be a string, found {json.dumps(text)[:80]}')


def _fields(record: dict[str, Any]) -> str:
    return ", ".join(f'"{field}"' for field in list(record)[:8]) or "nothing"


def _forbid_lone_surrogates(path: Path, number: int, record: dict[str, Any]) -> None:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}:{number}: half of a surrogate pair (\\ud800 to \\udfff) is not text") from error


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        if path.suffix != ".gz":
            yield raw
            return
        try:
            with gzip.open(raw) as stream:
                yield cast(BinaryIO, stream)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: damaged gzip file: {error}") from error
