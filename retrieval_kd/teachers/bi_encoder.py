"""A bi-encoder as a teacher: it encodes each text once and its score is an inner product, so vectors are stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval_kd.contracts import ScoreKind, Side, TextEncoder, UserError


class BiEncoderTeacher:
    """A dense encoder (a trained student, say) as a ``VectorScorer``.

    The encoder's vectors must be ready to compare by inner product: unit length when it compares by cosine.
    """

    kind = ScoreKind.SIMILARITY

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder

    @property
    def fingerprint(self) -> str:
        """That of the encoder."""
        return self.encoder.fingerprint

    def encode(self, texts: Sequence[str], side: Side) -> np.ndarray:
        """float32 [N, D]."""
        representations = self.encoder.encode_texts(texts, side)
        if "vectors" not in representations:
            gives = ", ".join(sorted(representations)) or "nothing"
            raise UserError(f"teacher: a bi-encoder teacher needs one vector per text; this encoder gives {gives}")
        return representations["vectors"].detach().float().cpu().numpy()
