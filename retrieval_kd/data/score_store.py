"""Teacher scores by content: computed once, found again by every experiment that asks for the same pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from xxhash import xxh3_128_digest

from retrieval_kd.contracts import ScoreKind, Scorer, UserError
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.shard_folder import ShardFolder
from retrieval_kd.data.shards import as_keys, shortened, text_keys

BLOCK = 1 << 16  # pairs hashed at once


@dataclass(frozen=True, slots=True)
class PairKeys:
    """What names N (query, passage) pairs to one teacher."""

    fingerprint: str
    values: np.ndarray  # [N, 2] uint64

    def __len__(self) -> int:
        return len(self.values)


class ScoreStore:
    """Raw scores by (teacher fingerprint, query text, passage text); a folder for each fingerprint.

    Append-only, safe against a kill at any moment, and open to several processes at once: what one of them scores, the
    others wait for and read. Scores come out as the teacher gave them; its ``kind`` says what they mean.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folders: dict[str, ShardFolder] = {}

    def keys(self, fingerprint: str, queries: Sequence[str], passages: Sequence[str]) -> PairKeys:
        """Name pairs n = (queries[n], passages[n]) by 128-bit hashes of the fingerprint's and both texts' hashes."""
        if len(queries) != len(passages):
            raise ValueError(f"{len(queries)} queries are not aligned with {len(passages)} passages")
        teacher = xxh3_128_digest(fingerprint.encode())
        digests: list[np.ndarray] = [np.empty((0, 2), np.uint64)]
        for start in range(0, len(queries), BLOCK):
            left = text_keys(queries[start : start + BLOCK])
            right = text_keys(passages[start : start + BLOCK])
            digests.append(as_keys([xxh3_128_digest(teacher + q + p) for q, p in zip(left, right, strict=True)]))
        return PairKeys(fingerprint, np.concatenate(digests))

    def lookup(self, keys: PairKeys) -> np.ndarray:
        """float32 [N], NaN where nothing is stored."""
        scores = np.full((len(keys), 1), np.nan, np.float32)
        self._folder(keys.fingerprint).read(keys.values, scores)
        return scores[:, 0]

    def append(self, keys: PairKeys, scores: np.ndarray, kind: ScoreKind) -> None:
        """Store finite scores [N] of pairs that are not there yet; a stored score never changes."""
        scores = np.asarray(scores, np.float32)
        if scores.shape != (len(keys),) or not np.isfinite(scores).all():
            raise ValueError(f"{len(keys)} keys need as many finite scores, got shape {scores.shape}")
        folder = self._folder(keys.fingerprint)
        folder.declare({"holds": "scores", "fingerprint": keys.fingerprint, "kind": str(kind)})
        folder.append(keys.values, scores[:, None])

    def score_missing(
        self, scorer: Scorer, queries: Sequence[str], passages: Sequence[str], chunk: int = 2048
    ) -> np.ndarray:
        """float32 [N]: what is stored is looked up; the rest is scored, each distinct pair once, and stored."""
        keys = self.keys(scorer.fingerprint, queries, passages)
        folder = self._folder(scorer.fingerprint)
        folder.declare({"holds": "scores", "fingerprint": scorer.fingerprint, "kind": str(scorer.kind)})

        def compute(positions: np.ndarray) -> np.ndarray:
            some_queries = [queries[position] for position in positions]
            some_passages = [passages[position] for position in positions]
            scores = np.asarray(scorer.score(some_queries, some_passages), np.float32)
            _check(scorer.fingerprint, scores, some_queries, some_passages)
            return scores[:, None]

        folder.fill(keys.values, compute, chunk, "teacher scores")
        return self.lookup(keys)

    def count(self, fingerprint: str) -> int:
        """Pairs stored for a teacher."""
        return self._folder(fingerprint).count()

    def _folder(self, fingerprint: str) -> ShardFolder:
        if fingerprint not in self._folders:
            self._folders[fingerprint] = ShardFolder(self.path / text_digest(fingerprint))
        return self._folders[fingerprint]


def _check(teacher: str, scores: np.ndarray, queries: Sequence[str], passages: Sequence[str]) -> None:
    """Refuse scores that a store must not keep."""
    if scores.shape != (len(queries),):
        raise UserError(
            f"teacher {shortened(teacher)} gave scores of shape {scores.shape} for {len(queries)} pairs; "
            f"a teacher gives one score per pair, shape ({len(queries)},)"
        )
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        first = wrong[0]
        raise UserError(
            f"teacher {shortened(teacher)} gave {scores[first]} for {len(wrong)} of {len(queries)} pairs, the first is "
            f"query {shortened(queries[first])} with passage {shortened(passages[first])}; nothing of them was stored "
            "(lower precision than the model bears, or broken weights?)"
        )
