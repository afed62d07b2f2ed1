"""An inference-free student and its passages as files that an OpenSearch cluster is fed with.

Everything comes from the student's own table and vocabulary. A field is of one of two types: ``rank_features`` is exact
and knows terms by their strings, ``sparse_vector`` (release 3.3) is approximate and knows them by their ids.
"""

from __future__ import annotations

import copy
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from retrieval_kd.contracts import PassageTexts, Side, UserError
from retrieval_kd.data.token_weights import write_token_weights
from retrieval_kd.interop.opensearch_requests import (
    RANK_FEATURES,
    SPARSE_VECTOR,
    TERMS,
    TEXT,
    index_request,
    query_request,
    readme,
    register_request,
    text_query_request,
)
from retrieval_kd.students.sparse_encoder import SparseEncoder

# A cluster takes requests of up to 100 MB; the documents of one file travel together.
PART_BYTES = 32 << 20
# Lucene's feature query takes weights above zero up to this. A token that weighs nothing must have a weight where the
# cluster looks it up, or it counts as 1.
LARGEST_QUERY_WEIGHT, LIGHTEST_QUERY_WEIGHT = 64.0, 1e-9
SMALLEST_WEIGHT = float(np.finfo(np.float32).tiny)  # Lucene takes normal floats only
FOLDED_IDS = 32_768  # what sparse_vector folds ids into
INDEX_NAME = re.compile(r"(?![-_+.])[^A-Z\\/*?\"<>|,#:\s]{1,255}")
ID_BYTES = 512


class Chunk(NamedTuple):
    """Some passages and what the student made of them."""

    ids: Sequence[str]
    texts: Sequence[str]
    representations: Mapping[str, Any]  # ``terms``, ``weights`` and ``lengths`` (padded) or ``offsets`` (flat)


def stored_chunks(passages: PassageTexts, stored: Mapping[str, np.ndarray], rows: int = 1024) -> Iterator[Chunk]:
    """Passages with their flat representations from a store, ``rows`` at a time; row i of one is row i of the other."""
    for start in range(0, len(passages), rows):
        span = range(start, min(start + rows, len(passages)))
        offsets = np.asarray(stored["offsets"][start : span.stop + 1])
        part = slice(int(offsets[0]), int(offsets[-1]))
        flat = {"terms": stored["terms"][part], "weights": stored["weights"][part], "offsets": offsets - offsets[0]}
        yield Chunk(passages.ids(span), passages.texts(span), flat)


def write_bundle(
    student: SparseEncoder,
    folder: Path,
    index: str,
    passages: Iterable[Chunk],
    question: str,
    fields: Sequence[str] = (RANK_FEATURES,),
) -> None:
    """Write tables, tokenizer, index, documents and queries, with a page that says in which order they are used.

    Documents are written as they come; one chunk is in memory. Those without an active term keep an empty map, so that
    they are found by other queries.

    Args:
        student: One whose queries need no encoder.
        folder: Made if it is missing.
        index: Name of the index.
        passages: Every passage once.
        question: Text of the example query.
        fields: ``rank_features``, ``sparse_vector`` or both, a folder each.
    """
    table = _usable_table(student, index, fields)
    names = {RANK_FEATURES: [json.dumps(token, ensure_ascii=False) for token in student.vocabulary]}
    names[SPARSE_VECTOR] = [f'"{term}"' for term in range(len(table))]
    query, prompt = _query(student, question), student.tokenizer.sides[Side.QUERY].prompt
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("idf.json", "query_token_weights.txt"):
        write_token_weights(folder / name, student.vocabulary, table)
    _write_archive(folder, student, table)
    with ExitStack() as stack:
        parts = {field: stack.enter_context(BulkFiles(folder / field, names[field])) for field in fields}
        for chunk in passages:
            for row in _rows(chunk):
                for part in parts.values():
                    part.add(*row)
    for field, part in parts.items():
        weights = {json.loads(names[field][term]): weight for term, weight in query.items()}
        _write_json(folder / field / "index.json", index_request(field, part.largest, float(table.max())))
        _write_json(folder / field / "query.json", query_request(field, weights))
        _write_json(folder / field / "query_by_text.json", text_query_request(field, prompt + question))
    _write_json(folder / "register_tokenizer.json", register_request(index, folder / "tokenizer.zip"))
    (folder / "README.md").write_text(readme(index, fields, len(table), prompt), encoding="utf-8")


def _usable_table(student: SparseEncoder, index: str, fields: Sequence[str]) -> np.ndarray:
    """The student's table, after everything that a cluster would refuse."""
    if student.query_table is None:
        raise UserError("student.query_weights=encoder: an OpenSearch bundle needs queries that need no encoder")
    table: np.ndarray = student.query_table.detach().cpu().numpy()
    if not INDEX_NAME.fullmatch(index) or len(index.encode()) > 255:
        raise UserError(f"index={index}: OpenSearch takes lower-case names without spaces, one like my-passages")
    unknown = set(fields) - {RANK_FEATURES, SPARSE_VECTOR}
    if unknown or not fields:
        raise UserError(f"fields={list(fields)}: they are {RANK_FEATURES}, {SPARSE_VECTOR} or both")
    if SPARSE_VECTOR in fields and len(table) > FOLDED_IDS:
        raise UserError(
            f"fields={SPARSE_VECTOR}: OpenSearch folds its ids into {FOLDED_IDS:,} and this vocabulary has "
            f"{len(table):,}, so terms would collide; {RANK_FEATURES} would fit"
        )
    heaviest = int(table.argmax())
    if table[heaviest] > LARGEST_QUERY_WEIGHT:
        raise UserError(
            f"query weight of {student.vocabulary[heaviest]!r} is {table[heaviest]:.4g}; OpenSearch takes at most "
            f"{LARGEST_QUERY_WEIGHT:g}, so a table divided by {table[heaviest] / LARGEST_QUERY_WEIGHT:.3g} would fit"
        )
    return table


def _query(student: SparseEncoder, question: str) -> dict[int, float]:
    """Weight by term, as short as float32 can be written."""
    found = student.query_terms([question])
    length = int(found["lengths"][0])
    if not length:
        raise UserError(f"question={question!r}: no token of it has a weight; another one would fit as the example")
    weights = np.asarray(found["weights"][0, :length]).astype(str)
    return {int(term): float(weight) for term, weight in zip(found["terms"][0, :length].tolist(), weights, strict=True)}


def _write_archive(folder: Path, student: SparseEncoder, table: np.ndarray) -> None:
    """Tokenizer and weights in the archive from which a cluster makes tokens itself."""
    backend = copy.deepcopy(student.tokenizer.tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    weights = folder / "weights.json"
    write_token_weights(weights, student.vocabulary, np.maximum(table, LIGHTEST_QUERY_WEIGHT))
    contents = {"tokenizer.json": backend.to_str(), "idf.json": weights.read_text(encoding="utf-8")}
    weights.unlink()
    with zipfile.ZipFile(folder / "tokenizer.zip", "w") as archive:
        for name, content in contents.items():  # without dates: equal content, equal hash
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def _rows(chunk: Chunk) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    terms, weights = (np.asarray(chunk.representations[name]) for name in ("terms", "weights"))
    if "offsets" in chunk.representations:
        offsets = np.asarray(chunk.representations["offsets"])
        spans: Iterable[tuple[Any, ...]] = ((slice(*ends),) for ends in pairwise(offsets))
    else:
        lengths = np.asarray(chunk.representations["lengths"])
        spans = ((row, slice(0, length)) for row, length in enumerate(lengths))
    for name, text, span in zip(chunk.ids, chunk.texts, spans, strict=True):
        yield name, text, terms[span], weights[span]


class BulkFiles:
    """Bulk requests of one field, a new file whenever one is full."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.largest = 0.0  # weight of any document
        self._names = names
        self._stream: BinaryIO | None = None
        self._files = 0

    def __enter__(self) -> BulkFiles:
        """Make the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the last file."""
        if self._stream is not None:
            self._stream.close()

    def add(self, name: str, text: str, terms: np.ndarray, weights: np.ndarray) -> None:
        """Write one document."""
        if not np.isfinite(weights).all():
            raise UserError(f"passage {name}: a weight is not a finite number")
        if len(name.encode()) > ID_BYTES:
            raise UserError(f"passage {name[:40]}…: OpenSearch takes ids of up to {ID_BYTES} bytes")
        kept = weights >= SMALLEST_WEIGHT
        weights = weights[kept].astype(np.float32, copy=False)
        pairs = zip(terms[kept].tolist(), weights.astype(str).tolist(), strict=True)
        features = ",".join(f"{self._names[term]}:{weight}" for term, weight in pairs)
        document = f'"{TEXT}":{json.dumps(text, ensure_ascii=False)},"{TERMS}":{{{features}}}'
        action = f'{{"index":{{"_id":{json.dumps(name, ensure_ascii=False)}}}}}'
        self._open().write(f"{action}\n{{{document}}}\n".encode())
        self.largest = max(self.largest, float(weights.max(initial=0.0)))

    def _open(self) -> BinaryIO:
        if self._stream is not None and self._stream.tell() >= PART_BYTES:
            self._stream.close()
            self._stream = None
        if self._stream is None:
            self._stream = (self.folder / f"bulk-{self._files:05}.ndjson").open("wb")
            self._files += 1
        return self._stream


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
