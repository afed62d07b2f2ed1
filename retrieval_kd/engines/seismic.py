"""Approximate search of sparse representations by Seismic (Bruch et al., SIGIR 2024)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from retrieval_kd.contracts import Hits, UserError
from retrieval_kd.engines.posting_lists import (
    Arrays,
    Queries,
    as_given,
    checked,
    chunks,
    ordered,
    refuse_wrong,
    score_kernels,
)

MOST_TERMS = 1 << 16  # beyond, Seismic wants another class, with wider numbers
POSTINGS = (300, 4000)  # kept for a term on average, in small and in large collections

Settings = TypeVar("Settings", "Build", "Look")


@dataclass(frozen=True)
class Build:
    """How Seismic prunes, clusters and summarises posting lists."""

    n_postings: int | None = None  # None: three for every thousand passages, between ``POSTINGS``
    centroid_fraction: float = 0.3
    min_cluster_size: int = 2
    summary_energy: float = 0.5
    max_fraction: float = 6.0
    doc_cut: int = 15


@dataclass(frozen=True)
class Look:
    """How far Seismic looks: the heaviest terms of a query, and clusters that promise enough to matter."""

    query_cut: int = 8
    heap_factor: float = 0.8


class SeismicIndex:
    """Sparse inner products, approximately; without adding or removing passages.

    What it finds of the exact hits is for ``recall_of_exact`` to tell.

    Args:
        passages: ``terms``, ``weights`` and ``offsets`` of all passages, one after the other.
        build: Settings of ``Build``.
        look: Settings of ``Look``.
        threads: For building, and for queries that are searched together; 0 takes all.
        vocabulary: The number of terms that there are; a term beyond is then refused, here and in queries.
    """

    exact = False

    def __init__(
        self,
        passages: Arrays,
        build: Mapping[str, Any] | None = None,
        look: Mapping[str, Any] | None = None,
        threads: int = 1,
        vocabulary: int | None = None,
    ) -> None:
        self.build = _settings(Build, build, "build")
        self.look = _settings(Look, look, "look")
        self.threads = threads
        self.vocabulary = vocabulary
        self._given = passages
        self._passages = as_given(passages)
        refuse_wrong(self._passages, 0, vocabulary)
        self._index, self._names = self._built()

    def __len__(self) -> int:
        return len(self._passages.offsets) - 1

    def _built(self) -> tuple[Any, np.ndarray]:
        """Seismic's index, and what it calls the terms."""
        library = _library()
        size = 1 + max((int(part.terms.max(initial=-1)) for part in chunks(self._given, "none")), default=-1)
        if size > MOST_TERMS:
            raise UserError(
                f"engine=seismic takes {MOST_TERMS} terms at most, a passage has term {size - 1}: engine=inverted"
            )
        texts = library.SeismicDataset(dim=size)
        for part in chunks(self._given, "none"):
            rows = [str(row) for row in range(part.first, part.first + len(part.offsets) - 1)]
            texts.add_documents_by_id(rows, part.terms.astype(np.int64), part.weights, part.offsets)
        settings = asdict(self.build)
        if settings["n_postings"] is None:
            settings["n_postings"] = min(max(3 * len(self) // 1000, POSTINGS[0]), POSTINGS[1])
        with _quiet():
            index = library.SeismicIndex.build_from_dataset(texts, **settings, num_threads=self.threads)
        return index, np.arange(size).astype(library.get_seismic_string())

    # ---- search

    def search(self, queries: Arrays, k: int) -> Hits:
        """About the k passages of highest inner product, equal scores in the order of rows; only scores above 0.

        Seismic finds them by float16 impacts; scores, and the order, are those of exact search.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        asked = checked(queries, self.vocabulary)
        rows = np.full((len(asked[2]), k), -1, np.int64)
        for one in self._found(asked, k):
            if one:  # the queries may come in any order
                rows[int(one[0][0]), : len(one)] = [int(row) for _, _, row in one]
        scores = np.full(rows.shape, -np.inf, np.float32)
        score_kernels().rescore(self._passages, asked, 0, len(self._names), rows, scores)
        return ordered(rows, scores, k)

    def _found(self, queries: Queries, k: int) -> list[list[tuple[str, float, str]]]:
        """Seismic's answers: query, score, row."""
        parts = [self._known(*one) for one in zip(*queries, strict=True)]
        look = {"k": k, **asdict(self.look)}
        if len(parts) == 1:
            return [self._index.search("0", *parts[0], **look)]
        names = np.array([str(number) for number in range(len(parts))], self._names.dtype)
        terms, weights = ([part[i] for part in parts] for i in range(2))
        return self._index.batch_search(names, terms, weights, **look, num_threads=self.threads)

    def _known(self, terms: np.ndarray, weights: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        last = np.searchsorted(terms[:length], len(self._names))
        return self._names[terms[:last]], weights[:last]


def _settings(kind: type[Settings], given: Mapping[str, Any] | None, key: str) -> Settings:
    known = [field.name for field in fields(kind)]
    for name in (given or {}).keys() - set(known):
        raise UserError(f"engine.{key}.{name} is not known; there are {', '.join(known)}")
    return kind(**(given or {}))


def _library() -> ModuleType:
    try:
        return import_module("seismic")
    except ImportError as error:
        raise UserError("engine=seismic needs pyseismic-lsr: pip install 'retrieval-kd[seismic]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Seismic prints, past Python, out of the program's output."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
