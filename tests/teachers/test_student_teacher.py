"""A student as a teacher: its own scores, whatever the order in which pairs come."""

import numpy as np
import pytest
from training_case import make_texts

from retrieval_kd.contracts import ScoreKind, Side
from retrieval_kd.data.tokenize import SideSettings
from retrieval_kd.data.weights import build_tiny
from retrieval_kd.students.bi_encoder import EncoderSource
from retrieval_kd.students.sparse_encoder import build_sparse_encoder
from retrieval_kd.students.student import Inference
from retrieval_kd.teachers.student import StudentTeacher

QUERIES = [make_texts(3, 1)[row] for row in (0, 1, 0, 2, 1)]
PASSAGES = [make_texts(3, 2)[row] for row in (0, 1, 2, 0, 0)]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    start = build_tiny(tmp_path_factory.mktemp("start") / "encoder")
    side, weights = SideSettings("", 32), "binary"
    made = build_sparse_encoder(EncoderSource(str(start), None), weights, 1, 0.0, side, side, Inference("fp32", 256))
    made.calibrate(PASSAGES, len(made.vocabulary) // 2)
    return made


def test_pairs_are_scored_as_the_student_compares_them(student):
    teacher = StudentTeacher(student)
    scores = teacher.score(QUERIES, PASSAGES)
    queries, passages = student.encode_texts(QUERIES, Side.QUERY), student.encode_texts(PASSAGES, Side.PASSAGE)
    expected = student.compare(queries, passages).diagonal().numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert len(set(scores.tolist())) > 2
    assert (teacher.kind, teacher.stored) == (ScoreKind.SIMILARITY, True)
    assert teacher.score([], []).shape == (0,)
    assert teacher.fingerprint == f"student:{student.fingerprint}"
