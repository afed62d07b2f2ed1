"""From the representations of passages to posting lists, with impacts kept in float32, float16 or eight bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from retrieval_kd.contracts import Hits, UserError
from retrieval_kd.data.progress import track

if TYPE_CHECKING:
    from retrieval_kd.engines.posting_kernels import Passages, Postings

Arrays = Mapping[str, np.ndarray]
Queries = tuple[np.ndarray, np.ndarray, np.ndarray]

ROWS_AT_ONCE = 1 << 16
QUANTISED = ("none", "f16", "u8")
LARGEST_HALF = 65504.0
MOST_TERMS = 1 << 31


class Flat(NamedTuple):
    """Some passages: those that begin at row ``first``, their entries one after the other."""

    first: int
    terms: np.ndarray
    weights: np.ndarray  # as they are kept
    offsets: np.ndarray


def kernels() -> ModuleType:
    """What is compiled, imported when it is needed."""
    return import_module("retrieval_kd.engines.posting_kernels")


def search_kernels() -> ModuleType:
    """The compiled search."""
    return import_module("retrieval_kd.engines.inverted_kernels")


def score_kernels() -> ModuleType:
    """The compiled scores of single passages."""
    return import_module("retrieval_kd.engines.score_kernels")


def posted(given: Arrays, quantise: str) -> tuple[Postings, Passages]:
    """Posting lists, and the passages with their impacts as they are kept: without quantising, those that are given.

    Reads all of them twice; the memory that is taken is that of the result.
    """
    compiled = kernels()
    size = len(given["offsets"]) - 1
    blocks = max(1, -(-size // compiled.BLOCK))
    vocabulary = 1 + max((int(part.terms.max(initial=-1)) for part in chunks(given, "none")), default=-1)
    counts = np.zeros((vocabulary, blocks), np.int64)
    largest = np.zeros(vocabulary, np.float32)
    for part in chunks(given, quantise):
        compiled.measure(part.terms, part.weights, part.offsets, part.first, counts, largest)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts.ravel())])
    number = int(starts[-1])
    postings = compiled.Postings(
        starts=starts.copy(),
        packed=np.empty(number, np.uint32),
        steps=largest / np.float32(255),
        peaks=np.zeros(len(starts) - 1, np.uint8),
        column=np.empty(0, np.int32),
        columns=np.empty((0, 0), np.uint8),
        ranked=np.empty((0, 0), np.uint8),
        hidden=np.empty(0, np.bool_),
        blocks=blocks,
    )
    kept = [np.empty(0, np.uint16 if quantise == "f16" else np.uint8)]
    for part in track(list(chunks(given, quantise)), "posting lists"):
        codes = compiled.coded(part.terms, part.weights, postings.steps, quantise != "u8")
        compiled.place(part.terms, codes, part.offsets, part.first, postings)
        if quantise != "none":
            kept.append(codes if quantise == "u8" else part.weights.astype(np.float16).view(np.uint16))
    column, columns = compiled.columns(starts, postings.packed)
    ranked = compiled.ranked(starts, postings.packed, blocks)
    passages = as_given(given)
    if quantise != "none":
        place = {"f16": "halves", "u8": "codes"}[quantise]
        changed = {"floats": _fixed(np.empty(0, np.float32)), place: _fixed(np.concatenate(kept))}
        passages = passages._replace(**changed, steps=postings.steps)
    return postings._replace(starts=starts, column=column, columns=columns, ranked=ranked), passages


def as_given(given: Arrays) -> Passages:
    """Passages with float32 impacts, nothing copied."""
    made: Passages = kernels().Passages(
        terms=_fixed(given["terms"], np.int32),
        offsets=_fixed(given["offsets"], np.int64),
        floats=_fixed(given["weights"], np.float32),
        halves=_fixed(np.empty(0, np.uint16)),
        codes=_fixed(np.empty(0, np.uint8)),
        steps=np.empty(0, np.float32),
    )
    return made


def _fixed(array: np.ndarray, dtype: type | None = None) -> np.ndarray:
    """An array that is not written to: mapped ones are so, and what takes it is compiled once for either kind."""
    result = np.asarray(array, dtype).view()
    result.flags.writeable = False
    return result


def refuse_wrong(passages: Passages, first_row: int, vocabulary: int | None) -> None:
    """Refuse what no student makes; rows are told as from ``first_row`` on."""
    row, reason = kernels().first_wrong(passages.terms, passages.floats, passages.offsets, vocabulary or MOST_TERMS)
    if row >= 0:
        raise UserError(f"the representation of passage row {first_row + row} has {_wrong(reason, vocabulary)}")


def checked(queries: Arrays, vocabulary: int | None) -> Queries:
    """Padded terms, weights and lengths, contiguous and of the types that searches are compiled for."""
    terms = np.ascontiguousarray(queries["terms"], np.int32)
    weights = np.ascontiguousarray(queries["weights"], np.float32)
    lengths = np.ascontiguousarray(queries["lengths"], np.int64)
    if not terms.shape == weights.shape == (len(lengths), terms.shape[-1]):
        raise ValueError(f"terms {terms.shape}, weights {weights.shape} and lengths {lengths.shape} do not fit")
    row, reason = kernels().first_wrong_query(terms, weights, lengths, vocabulary or MOST_TERMS)
    if row >= 0:
        raise UserError(f"the representation of query {row} has {_wrong(reason, vocabulary)}")
    return terms, weights, lengths


def _wrong(reason: int, vocabulary: int | None) -> str:
    beyond = f"a term beyond the vocabulary of {vocabulary} terms: index and queries are of different tokenizers"
    return (beyond, "a weight that is not a positive number", "terms that do not ascend")[reason]


def chunks(passages: Arrays, quantise: str) -> Iterator[Flat]:
    """The passages, some at once, with the weights that float16 makes of them where that is asked."""
    offsets = passages["offsets"]
    for first in range(0, len(offsets) - 1, ROWS_AT_ONCE):
        some = np.asarray(offsets[first : first + ROWS_AT_ONCE + 1], np.int64)
        weights = np.asarray(passages["weights"][some[0] : some[-1]], np.float32)
        if quantise == "f16":
            if weights.max(initial=0) > LARGEST_HALF:
                raise UserError(f"engine.quantise: a weight is above {LARGEST_HALF:.0f}, the largest of f16; use none")
            weights = weights.astype(np.float16).astype(np.float32)
        yield Flat(first, _fixed(passages["terms"][some[0] : some[-1]], np.int32), _fixed(weights), some - some[0])


def joined(before: Arrays, after: Arrays) -> dict[str, np.ndarray]:
    """Two groups of passages as one."""
    offsets = np.concatenate([before["offsets"], after["offsets"][1:] + before["offsets"][-1]])
    return {name: np.concatenate([before[name], after[name]]) for name in ("terms", "weights")} | {"offsets": offsets}


def errors(given: Arrays, steps: np.ndarray, quantise: str) -> tuple[float, float]:
    """The largest difference of a kept impact from its weight, and the sum of all differences."""
    largest, total = 0.0, 0.0
    for kept, exact in zip(chunks(given, quantise), chunks(given, "none"), strict=True):
        impacts = kept.weights
        if quantise == "u8":
            impacts = steps[kept.terms] * kernels().coded(kept.terms, kept.weights, steps, False)
        differences = np.abs(impacts - exact.weights, dtype=np.float64)
        largest = max(largest, float(differences.max(initial=0)))
        total += float(differences.sum())
    return largest, total


def nothing(size: int, k: int) -> Hits:
    """Hits of queries that found nothing yet."""
    return Hits(np.full((size, k), -1, np.int64), np.full((size, k), -np.inf, np.float32))


def ordered(rows: np.ndarray, scores: np.ndarray, k: int) -> Hits:
    """The k best, best first, equal scores in the order of rows, what was not found last."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Hits(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))
