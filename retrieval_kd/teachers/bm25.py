"""BM25 as a teacher: term statistics of a collection, applied to any text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from retrieval_kd.contracts import ScoreKind
from retrieval_kd.data.masks import without_hidden


class TextScoringIndex(Protocol):
    """What this teacher asks of the lexical engine."""

    @property
    def fingerprint(self) -> str:
        """Collection, tokenizer and parameters: everything a score depends on."""

    def score_texts(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """float32 [N], entry n for (queries[n], passages[n]); the passages need not be indexed."""


class BM25Teacher:
    """A BM25 index as a ``Scorer``; its scores are unbounded, not probabilities."""

    in_batch = True  # scores any pair at little cost, so that it need not be stored

    kind = ScoreKind.SIMILARITY
    stored = True

    def __init__(self, index: TextScoringIndex) -> None:
        self.index = index

    @property
    def fingerprint(self) -> str:
        """That of the index."""
        return self.index.fingerprint

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """float32 [N]; hidden parts of passages are not there."""
        passages = [without_hidden(passage) for passage in passages]
        return np.asarray(self.index.score_texts(queries, passages), dtype=np.float32)
