"""Any trained student as a teacher: pairs are scored as it compares them, and the scores are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from retrieval_kd.contracts import Representations, ScoreKind, Side
from retrieval_kd.data.distinct import distinct

if TYPE_CHECKING:
    from torch import Tensor


class Comparing(Protocol):
    """What a student does."""

    @property
    def fingerprint(self) -> str:
        """Everything a representation depends on."""

    def encode_texts(self, texts: Sequence[str], side: Side) -> Representations:
        """Representations of the texts, in their order."""

    def compare(self, queries: Representations, passages: Representations) -> Tensor:
        """Scores [Q, P]."""


class StudentTeacher:
    """A sparse or late-interaction student (a dense one also by its vectors, ``BiEncoderTeacher``) as a ``Scorer``."""

    kind = ScoreKind.SIMILARITY
    stored = True

    def __init__(self, encoder: Comparing) -> None:
        self.encoder = encoder

    @property
    def fingerprint(self) -> str:
        """That of the student, whose pairs are compared as it does."""
        return f"student:{self.encoder.fingerprint}"

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """float32 [N]; each text is encoded once."""
        asked, rows = distinct(queries)
        texts, columns = distinct(passages)
        left = self.encoder.encode_texts(asked, Side.QUERY)
        right = self.encoder.encode_texts(texts, Side.PASSAGE)
        scores = np.empty(len(rows), np.float32)
        order = np.argsort(rows, kind="stable")
        for pairs in np.split(order, np.flatnonzero(np.diff(rows[order])) + 1):
            if len(pairs):
                query = {name: value[rows[pairs[:1]]] for name, value in left.items()}
                some = {name: value[columns[pairs]] for name, value in right.items()}
                scores[pairs] = self.encoder.compare(query, some)[0].float().cpu().numpy()
        return scores
