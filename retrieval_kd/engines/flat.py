"""Exact dense search: every inner product, through faiss, on its GPU where the installed faiss has one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from retrieval_kd.contracts import Hits, UserError
from retrieval_kd.data.progress import track

ROWS_AT_ONCE = 1 << 16
SCORES_AT_ONCE = 1 << 24  # (query, hit) pairs that faiss returns in one call
GPU_MOST = 2048  # faiss finds no more than this for a query on a GPU
SPARE = 8  # asked for beyond k: mostly enough to see all passages that share the last score


class FlatIndex:
    """``vectors`` of passages by row, searched exhaustively in float32; they may be memory-mapped."""

    def __init__(self, passages: Mapping[str, np.ndarray]) -> None:
        vectors = passages["vectors"]
        if vectors.ndim != 2 or not vectors.shape[1]:
            raise ValueError(f"vectors must be [N, D], got {list(vectors.shape)}")
        self.vectors = vectors
        self._faiss = _library()
        self._on_gpu = self._gpu_index() if getattr(self._faiss, "get_num_gpus", int)() else None
        if self._on_gpu is None:
            _ = self._on_cpu  # now, so that a bad vector is told before anything is searched

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: Mapping[str, np.ndarray], k: int) -> Hits:
        """The k passages of highest inner product, equal scores in the order of rows."""
        query_vectors = queries["vectors"]
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if query_vectors.ndim != 2 or query_vectors.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"queries {list(query_vectors.shape)} do not fit vectors {list(self.vectors.shape)}")
        size = len(query_vectors)
        hits = Hits(np.full((size, k), -1, np.int64), np.full((size, k), -np.inf, np.float32))
        found = min(k, len(self))
        if not found:
            return hits
        block = max(1, min(4096, SCORES_AT_ONCE // (found + SPARE)))
        for start in track(range(0, size, block), "search"):
            some = _checked(query_vectors[start : start + block], start, "query")
            part = slice(start, start + len(some))
            hits.rows[part, :found], hits.scores[part, :found] = self._best(some, found, found + SPARE)
        return hits

    def _best(self, queries: np.ndarray, k: int, asked: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores [Q, k]; asks again, for more, where the last score may go on beyond what was found."""
        asked = min(asked, len(self))
        scores, rows = self._index(asked).search(queries, asked)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        open_ended = np.flatnonzero(scores[:, -1] == scores[:, k - 1]) if asked < len(self) else np.empty(0, np.int64)
        rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        block = max(1, SCORES_AT_ONCE // (4 * asked))
        for start in range(0, len(open_ended), block):
            part = open_ended[start : start + block]
            rows[part], scores[part] = self._best(queries[part], k, 4 * asked)
        return rows, scores

    def _index(self, k: int) -> Any:
        return self._on_gpu if self._on_gpu is not None and k <= GPU_MOST else self._on_cpu

    @cached_property
    def _on_cpu(self) -> Any:
        return self._filled(self._faiss.IndexFlatIP(self.vectors.shape[1]))

    def _gpu_index(self) -> Any:
        resources = self._faiss.StandardGpuResources()
        empty = self._faiss.IndexFlatIP(self.vectors.shape[1])
        return self._filled(self._faiss.index_cpu_to_gpu(resources, 0, empty))

    def _filled(self, index: Any) -> Any:
        for start in track(range(0, len(self.vectors), ROWS_AT_ONCE), "dense index"):
            index.add(_checked(self.vectors[start : start + ROWS_AT_ONCE], start, "passage"))
        return index


def _checked(vectors: np.ndarray, start: int, what: str) -> np.ndarray:
    """Contiguous float32; a number that is none would make every ranking meaningless without a word."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise UserError(f"the vector of {what} row {start + int(np.argmin(finite))} holds NaN or infinity")
    return vectors


def _library() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "dense search needs faiss: pip install retrieval-kd[cpu] (or retrieval-kd[gpu] on a machine with CUDA)"
        ) from error
    return faiss
