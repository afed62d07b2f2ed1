"""Teacher scores by content: computed once, found again by every experiment that asks for the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from xxhash import xxh3_128_digest

from retrieval_kd.contracts import PairScorer, ScoreKind, Scorer, UserError
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.shard_folder import ShardFolder
from retrieval_kd.data.shards import as_keys, shortened, text_keys

BLOCK = 1 << 16  # rows of texts hashed at once


@dataclass(frozen=True, slots=True)
class ScoreKeys:
    """What names N rows of texts to one teacher: (query, passage), or (query, passage i, passage j) in this order."""

    fingerprint: str
    values: np.ndarray  # [N, 2] uint64

    def __len__(self) -> int:
        return len(self.values)


class ScoreStore:
    """Raw scores by teacher fingerprint and texts: a query and a passage, or two in an order; a folder a fingerprint.

    Append-only, safe against a kill at any moment, and open to several processes at once: what one of them scores, the
    others wait for and read. Scores come out as the teacher gave them; its ``kind`` says what they mean.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folders: dict[str, ShardFolder] = {}

    def keys(self, fingerprint: str, *columns: Sequence[str]) -> ScoreKeys:
        """Name row n = (columns[0][n], columns[1][n], …) by a 128-bit hash of its texts' and the fingerprint's."""
        sizes = [len(column) for column in columns]
        if len(set(sizes)) > 1:
            raise ValueError(f"columns of {', '.join(map(str, sizes))} texts are not aligned")
        teacher = xxh3_128_digest(fingerprint.encode())
        digests: list[np.ndarray] = [np.empty((0, 2), np.uint64)]
        for start in range(0, sizes[0], BLOCK):
            parts = [text_keys(column[start : start + BLOCK]) for column in columns]
            digests.append(as_keys([xxh3_128_digest(b"".join((teacher, *row))) for row in zip(*parts, strict=True)]))
        return ScoreKeys(fingerprint, np.concatenate(digests))

    def lookup(self, keys: ScoreKeys) -> np.ndarray:
        """float32 [N], NaN where nothing is stored."""
        scores = np.full((len(keys), 1), np.nan, np.float32)
        self._folder(keys.fingerprint).read(keys.values, scores)
        return scores[:, 0]

    def append(self, keys: ScoreKeys, scores: np.ndarray, kind: ScoreKind) -> None:
        """Store finite scores [N] of rows that are not there yet; a stored score never changes."""
        scores = np.asarray(scores, np.float32)
        if scores.shape != (len(keys),) or not np.isfinite(scores).all():
            raise ValueError(f"{len(keys)} keys need as many finite scores, got shape {scores.shape}")
        folder = self._folder(keys.fingerprint)
        folder.declare({"holds": "scores", "fingerprint": keys.fingerprint, "kind": str(kind)})
        folder.append(keys.values, scores[:, None])

    def score_missing(self, scorer: Scorer | PairScorer, *columns: Sequence[str], chunk: int = 2048) -> np.ndarray:
        """float32 [N]: what is stored is looked up; the rest is scored, each distinct row of texts once, and stored."""
        keys = self.keys(scorer.fingerprint, *columns)
        folder = self._folder(scorer.fingerprint)
        folder.declare({"holds": "scores", "fingerprint": scorer.fingerprint, "kind": str(scorer.kind)})

        def compute(positions: np.ndarray) -> np.ndarray:
            some = [[column[position] for position in positions] for column in columns]
            scores = np.asarray(scorer.score(*some), np.float32)
            _check(scorer.fingerprint, scores, some)
            return scores[:, None]

        folder.fill(keys.values, compute, chunk, "teacher scores")
        return self.lookup(keys)

    def count(self, fingerprint: str) -> int:
        """Scores stored for a teacher."""
        return self._folder(fingerprint).count()

    def _folder(self, fingerprint: str) -> ShardFolder:
        if fingerprint not in self._folders:
            self._folders[fingerprint] = ShardFolder(self.path / text_digest(fingerprint))
        return self._folders[fingerprint]


def _check(teacher: str, scores: np.ndarray, columns: Sequence[Sequence[str]]) -> None:
    """Refuse scores that a store must not keep."""
    count = len(columns[0])
    if scores.shape != (count,):
        raise UserError(
            f"teacher {shortened(teacher)} gave scores of shape {scores.shape} for {count} pairs; "
            f"a teacher gives one score per pair, shape ({count},)"
        )
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        query, *passages = (column[wrong[0]] for column in columns)
        raise UserError(
            f"teacher {shortened(teacher)} gave {scores[wrong[0]]} for {len(wrong)} of {count} pairs, the first is "
            f"query {shortened(query)} with {' and '.join(map(shortened, passages))}; nothing of them was stored "
            "(lower precision than the model bears, or broken weights?)"
        )
