import numpy as np
import pytest
import torch

from retrieval_kd.contracts import ScoreKind, Side, UserError, VectorScorer
from retrieval_kd.teachers.bi_encoder import BiEncoderTeacher
from retrieval_kd.teachers.bm25 import BM25Teacher


class Encoder:
    fingerprint = "encoder-1"

    def __init__(self, name="vectors"):
        self.name = name

    def encode_texts(self, texts, side):
        scale = 2.0 if side is Side.QUERY else 1.0
        return {self.name: torch.tensor([[len(text) * scale, 1.0] for text in texts], dtype=torch.bfloat16)}


class Index:
    fingerprint = "index-1"

    def score_texts(self, queries, passages):
        return np.array([len(q) - len(p) for q, p in zip(queries, passages, strict=True)], dtype=np.float64)


def test_a_bi_encoder_gives_float32_vectors_of_each_side():
    teacher = BiEncoderTeacher(Encoder())
    assert isinstance(teacher, VectorScorer)
    assert (teacher.kind, teacher.fingerprint) == (ScoreKind.SIMILARITY, "encoder-1")
    queries, passages = teacher.encode(["ab"], Side.QUERY), teacher.encode(["ab", "c"], Side.PASSAGE)
    assert queries.dtype == np.float32
    np.testing.assert_array_equal(queries @ passages.T, [[9, 5]])


def test_an_encoder_of_another_kind_is_refused():
    with pytest.raises(UserError, match="one vector per text; this encoder gives tokens"):
        BiEncoderTeacher(Encoder("tokens")).encode(["a"], Side.QUERY)


def test_bm25_asks_its_index():
    teacher = BM25Teacher(Index())
    scores = teacher.score(["abc", "a"], ["a", "abc"])
    assert scores.dtype == np.float32
    assert scores.tolist() == [2, -2]
    assert teacher.fingerprint == "index-1"
    assert not isinstance(teacher, VectorScorer)
