"""Teacher vectors by content: a bi-encoder encodes each text once, whatever pairs are scored with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from xxhash import xxh3_128_digest

from retrieval_kd.contracts import Side, UserError, VectorScorer
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.shard_folder import ShardFolder
from retrieval_kd.data.shards import as_keys, shortened, text_keys

BLOCK = 1 << 14  # texts hashed and pairs multiplied at once
DTYPE = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class TextKeys:
    """What names N texts of one side to one teacher."""

    fingerprint: str
    side: Side
    values: np.ndarray  # [N, 2] uint64

    def __len__(self) -> int:
        return len(self.values)


class VectorStore:
    """Vectors by (teacher fingerprint, side, text), in float32.

    Append-only, safe against a kill at any moment, and open to several processes at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folders: dict[tuple[str, Side], ShardFolder] = {}

    def keys(self, fingerprint: str, side: Side, texts: Sequence[str]) -> TextKeys:
        """Name texts by 128-bit hashes of the fingerprint's and side's hash and the text."""
        prefix = xxh3_128_digest(xxh3_128_digest(fingerprint.encode()) + side.encode())
        blocks = [as_keys(text_keys(texts[at : at + BLOCK], prefix)) for at in range(0, len(texts), BLOCK)]
        return TextKeys(fingerprint, side, np.concatenate([np.empty((0, 2), np.uint64), *blocks]))

    def lookup(self, keys: TextKeys) -> np.ndarray:
        """float32 [N, D], NaN where nothing is stored; D is 0 while nothing at all is."""
        folder = self._folder(keys.fingerprint, keys.side)
        vectors = np.full((len(keys), folder.width() or 0), np.nan, np.float32)
        folder.read(keys.values, vectors)
        return vectors

    def score(
        self, vector_scorer: VectorScorer, queries: Sequence[str], passages: Sequence[str], chunk: int = 2048
    ) -> np.ndarray:
        """float32 [N] inner products of aligned texts; encodes what is missing, never holds more than some vectors."""
        if len(queries) != len(passages):
            raise ValueError(f"{len(queries)} queries are not aligned with {len(passages)} passages")
        left = self._fill(vector_scorer, queries, Side.QUERY, chunk)
        right = self._fill(vector_scorer, passages, Side.PASSAGE, chunk)
        scores = np.empty(len(queries), np.float32)
        for at in range(0, len(scores), BLOCK):
            some = slice(at, at + BLOCK)
            one = self.lookup(TextKeys(left.fingerprint, left.side, left.values[some]))
            other = self.lookup(TextKeys(right.fingerprint, right.side, right.values[some]))
            scores[some] = np.einsum("nd,nd->n", one, other)
        return scores

    def _fill(self, teacher: VectorScorer, texts: Sequence[str], side: Side, chunk: int) -> TextKeys:
        """Encode and store what is absent."""
        keys = self.keys(teacher.fingerprint, side, texts)
        folder = self._folder(teacher.fingerprint, side)
        folder.declare(
            {"holds": f"{side} vectors, {DTYPE}", "fingerprint": teacher.fingerprint, "kind": str(teacher.kind)}
        )

        def compute(positions: np.ndarray) -> np.ndarray:
            some = [texts[position] for position in positions]
            with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
                vectors = np.asarray(teacher.encode(some, side)).astype(DTYPE)
            _check(teacher.fingerprint, vectors, some)
            return vectors

        folder.fill(keys.values, compute, chunk, f"teacher vectors of each {side}")
        return keys

    def _folder(self, fingerprint: str, side: Side) -> ShardFolder:
        if (fingerprint, side) not in self._folders:
            name = text_digest(fingerprint, side, DTYPE.name)
            self._folders[fingerprint, side] = ShardFolder(self.path / name)
        return self._folders[fingerprint, side]


def _check(teacher: str, vectors: np.ndarray, texts: Sequence[str]) -> None:
    """Refuse vectors that a store must not keep."""
    if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
        raise UserError(
            f"teacher {shortened(teacher)} gave vectors of shape {vectors.shape} for {len(texts)} texts; "
            "a teacher gives one vector per text"
        )
    wrong = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(wrong):
        raise UserError(
            f"teacher {shortened(teacher)} gave vectors that are not finite as {vectors.dtype} for {len(wrong)} of "
            f"{len(texts)} texts, the first is {shortened(texts[wrong[0]])}; nothing of them was stored"
        )
