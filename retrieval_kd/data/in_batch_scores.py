"""Scores of every query with every passage of a batch: what a teacher says when the whole batch is each query's list.

Members that compare vectors have them in memory maps, by query number and candidate row; members that score any text
at little cost (BM25) are asked when the batch is made. Under several processes a query's list is what its own process
holds of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from retrieval_kd.contracts import DARK_ROLES, PassageTexts, Role, Scorer, ScoreTeacher, Side, UserError, VectorScorer
from retrieval_kd.data.files import atomic_file
from retrieval_kd.data.vector_store import VectorStore

BLOCK = 1 << 14  # texts looked up at once
DTYPE = "<f4"


class PairSource(Protocol):
    """A member, ready to score any query of the training with any candidate passage."""

    def __call__(self, queries: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """Numbers of queries [Q], rows of passages [P] -> float32 [Q, P]."""


@dataclass(frozen=True)
class StoredVectors:
    """Inner products of stored vectors."""

    queries: np.ndarray  # [number of queries, D]
    passages: np.ndarray  # [C, D]
    rows: np.ndarray  # [C] ascending: whose vectors those are

    def __call__(self, queries: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """float32 [Q, P]; every row must be a candidate's."""
        places = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        if (self.rows[places] != rows).any():
            raise ValueError(f"row {rows[self.rows[places] != rows][0]} is of no candidate: it has no stored vector")
        return np.asarray(self.queries[list(queries)] @ self.passages[places].T)


@dataclass(frozen=True)
class TextScores:
    """A scorer that is asked for each batch."""

    scorer: Scorer
    query_texts: Sequence[str]
    passages: PassageTexts

    def __call__(self, queries: Sequence[int], rows: np.ndarray) -> np.ndarray:
        """float32 [Q, P]."""
        texts = self.passages.texts(rows)
        left = [self.query_texts[query] for query in queries for _ in texts]
        return np.asarray(self.scorer.score(left, list(texts) * len(queries))).reshape(len(queries), len(texts))


@dataclass(frozen=True)
class InBatchScores:
    """The teacher over whole batches."""

    sources: Sequence[PairSource]
    teacher: ScoreTeacher

    def __call__(self, queries: Sequence[int], rows: np.ndarray, role: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Teacher scores [Q, P] and members' raw scores [M, Q, P] of a batch with these roles [Q, P].

        Made passages are in the list of their own query alone, and set no scale there; elsewhere their scores are NaN.
        """
        made = np.isin(role, DARK_ROLES).any(0)
        members = np.stack([source(queries, rows) for source in self.sources])
        members[:, made & (role == Role.NONE)] = np.nan
        return self.teacher.combine(members, np.broadcast_to(made, role.shape)), members


def refuse_stored_pairs(members: Mapping[str, Scorer | VectorScorer]) -> None:
    """Refuse members that cannot score every pair of a batch."""
    for name, member in members.items():
        if not isinstance(member, VectorScorer) and not getattr(member, "in_batch", False):
            raise UserError(
                f"teacher.in_batch=true needs each query's score with every passage of the batch, and"
                f" teacher.members.{name} scores stored pairs only; bi_encoder and bm25 members would fit, or"
                " teacher.in_batch=false"
            )


def in_batch_scores(
    folder: Path,
    teacher: ScoreTeacher,
    store: VectorStore,
    query_texts: Sequence[str],
    rows: np.ndarray,
    passages: PassageTexts,
) -> InBatchScores:
    """The teacher over batches of these queries, by number, and candidates, by row of ``passages``.

    Vectors are written to ``folder`` as arrays, which are opened as they are when they are there already: it must be
    named by everything that they depend on. What the store lacks is encoded.
    """
    refuse_stored_pairs(teacher.members)
    rows = np.unique(rows)
    folder.mkdir(parents=True, exist_ok=True)
    sources: list[PairSource] = []
    for number, member in enumerate(teacher.members.values()):
        if not isinstance(member, VectorScorer):
            sources.append(TextScores(member, query_texts, passages))
            continue
        stored = _Stored(store, member)
        queries = stored.file(folder / f"{number}-queries.npy", Side.QUERY, len(query_texts), query_texts.__getitem__)
        candidates = stored.file(
            folder / f"{number}-passages.npy", Side.PASSAGE, len(rows), lambda part: passages.texts(rows[part])
        )
        sources.append(StoredVectors(queries, candidates, rows))
    return InBatchScores(sources, teacher)


@dataclass(frozen=True)
class _Stored:
    """A member's vectors, out of the store where it has them."""

    store: VectorStore
    member: VectorScorer

    def file(self, path: Path, side: Side, count: int, texts: Callable[[slice], Sequence[str]]) -> np.ndarray:
        """The array in a file, float32 [count, D], written block by block if it is not there."""
        if not path.exists():
            with atomic_file(path) as temporary, temporary.open("wb") as stream:
                for start in range(0, count, BLOCK):
                    vectors = self._vectors(texts(slice(start, min(start + BLOCK, count))), side)
                    if not start:
                        header = {"descr": DTYPE, "fortran_order": False, "shape": (count, vectors.shape[1])}
                        np.lib.format.write_array_header_1_0(stream, header)
                    stream.write(np.ascontiguousarray(vectors, DTYPE).data)
        return np.load(path, mmap_mode="r")

    def _vectors(self, texts: Sequence[str], side: Side) -> np.ndarray:
        vectors = self.store.lookup(self.store.keys(self.member.fingerprint, side, texts))
        absent = np.flatnonzero(np.isnan(vectors).any(1)) if vectors.shape[1] else np.arange(len(texts))
        if absent.size:
            fresh = np.asarray(self.member.encode([texts[int(place)] for place in absent], side), np.float32)
            vectors = vectors if vectors.shape[1] else np.empty((len(texts), fresh.shape[1]), np.float32)
            vectors[absent] = fresh
        return vectors
