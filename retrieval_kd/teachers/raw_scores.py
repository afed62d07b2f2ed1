"""Somebody's scores as a teacher: a file that lists pairs by id teaches those pairs and no others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from retrieval_kd.contracts import PassageTexts, ScoreKind, UserError
from retrieval_kd.data.runs import Run
from retrieval_kd.teachers.score_files import read_scores

log = logging.getLogger(__name__)

CHUNK = 65_536  # passages whose texts are in memory at a time


class Unlisted(StrEnum):
    """What a pair that the file does not list gets."""

    REFUSE = "refuse"  # an error: the candidates were not taken from this file
    UNSCORED = "unscored"  # NaN: distillation terms leave such passages out


class RawScores:
    """Scores from a TREC run, a three-column text file or Parquet, found by the texts of the pair.

    A scorer is asked about texts, a file speaks of ids: the pairs that the file lists are looked up once in the
    collection and kept as 64-bit keys of their texts (12 bytes per pair). Lines about queries or passages that the
    collection does not hold are left out and counted. Of two lines whose texts are equal the higher score counts.

    Args:
        path: The file.
        queries: Query texts by id.
        passages: The passages that the file speaks of.
        kind: What the scores mean.
        unlisted: Whether a pair that is not in the file is an error or has no score.
    """

    stored = False

    def __init__(
        self,
        path: Path,
        queries: Mapping[str, str],
        passages: PassageTexts,
        kind: str = ScoreKind.SIMILARITY,
        unlisted: str = Unlisted.REFUSE,
    ) -> None:
        self.path = Path(path)
        self.kind = ScoreKind(kind)
        self.unlisted = Unlisted(unlisted)
        self._keys, self._scores = self._index(read_scores(self.path), queries, passages)

    def _index(self, run: Run, queries: Mapping[str, str], passages: PassageTexts) -> tuple[np.ndarray, np.ndarray]:
        owners = np.repeat(np.arange(len(run)), np.diff(run.offsets))
        words = pa.array(run.passage_ids, pa.string()).dictionary_encode()
        places = words.indices.to_numpy()
        rows = np.asarray(passages.rows(words.dictionary.to_pylist()))
        known = np.array([query_id in queries for query_id in run.query_ids], dtype=bool)
        usable = known[owners] & (rows >= 0)[places]
        lines = f"{self.path}: %s of its {len(usable)} lines"
        if not usable.any():
            raise UserError(f"{lines % 'none'} is about a query and a passage of this collection")
        if not usable.all():
            log.info("%s are about queries or passages that are not here", lines % int((~usable).sum()))
        query_hashes = _hashes([queries.get(query_id, "") for query_id in run.query_ids])
        passage_hashes = np.zeros(len(rows), dtype=np.uint64)
        wanted = np.flatnonzero(rows >= 0)
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start : start + CHUNK]
            passage_hashes[chunk] = _hashes(passages.texts(rows[chunk]))
        keys = _pair_keys(query_hashes[owners[usable]], passage_hashes[places[usable]])
        scores = run.scores[usable]
        order = np.lexsort((-scores, keys))
        keys, first = np.unique(keys[order], return_index=True)
        return keys, scores[order][first]

    @property
    def fingerprint(self) -> str:
        """What the file says about the texts of this collection, and what its scores mean."""
        digest = xxhash.xxh3_128()
        for part in (self._keys, self._scores):
            digest.update(np.ascontiguousarray(part).data)
        return f"raw_scores-{self.kind}-{digest.hexdigest()}"

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """float32 [N]; a pair that is not listed is refused or NaN, see ``unlisted``."""
        keys = _pair_keys(_hashes(queries), _hashes(passages))
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        scores = np.where(self._keys[places] == keys, self._scores[places], np.float32(np.nan))
        absent = np.flatnonzero(np.isnan(scores))
        if absent.size and self.unlisted is Unlisted.REFUSE:
            first = queries[absent[0]][:60]
            raise UserError(
                f"{self.path}: {absent.size} of {len(scores)} pairs to be taught are not in the file (first query:"
                f" {first!r}); take the candidates from this file, or set unlisted={Unlisted.UNSCORED}"
            )
        return scores


def _hashes(texts: Sequence[str]) -> np.ndarray:
    known: dict[str, int] = {}  # texts repeat: a query stands before each of its passages
    for text in texts:
        if text not in known:
            known[text] = xxhash.xxh3_64_intdigest(text.encode())
    return np.fromiter((known[text] for text in texts), dtype=np.uint64, count=len(texts))


def _pair_keys(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """One key per pair of hashes; the odd factor keeps (a, b) and (b, a) apart."""
    return queries * np.uint64(0x9E3779B97F4A7C15) + passages
