import sys

import numpy as np
import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.engines.flat import FlatIndex

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((700, 16)).astype(np.float32)


def brute_force(queries, vectors, k):
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, 1)


@pytest.mark.parametrize("k", [1, 10, 700, 900])
@pytest.mark.parametrize("queries", [1, 50])
def test_equals_brute_force(vectors, k, queries, monkeypatch):
    monkeypatch.setattr("retrieval_kd.engines.flat.ROWS_AT_ONCE", 64)
    asked = np.random.default_rng(1).standard_normal((queries, 16)).astype(np.float32)
    rows, scores = FlatIndex({"vectors": vectors}).search({"vectors": asked}, k)
    expected_rows, expected_scores = brute_force(asked, vectors, k)
    found = min(k, 700)
    assert rows.shape == scores.shape == (queries, k)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(rows[:, :found], expected_rows)
    np.testing.assert_allclose(scores[:, :found], expected_scores, atol=1e-5)
    assert (rows[:, found:] == -1).all()
    assert np.isneginf(scores[:, found:]).all()


@pytest.mark.parametrize("k", [1, 3, 40, 299, 301])
def test_ties_come_in_the_order_of_rows(k, monkeypatch):
    """Small integers are exact in float32, so equal products are equal scores, however many share the last one."""
    generator = np.random.default_rng(2)
    vectors = generator.integers(-1, 2, (300, 4)).astype(np.float32)
    queries = generator.integers(-1, 2, (30, 4)).astype(np.float32)
    queries[0] = 0  # all passages tie
    monkeypatch.setattr("retrieval_kd.engines.flat.SCORES_AT_ONCE", 1000)
    rows, _ = FlatIndex({"vectors": vectors}).search({"vectors": queries}, k)
    np.testing.assert_array_equal(rows[:, :300], brute_force(queries, vectors, k)[0])


def test_reads_a_memory_map_of_half_precision(vectors, tmp_path):
    np.save(tmp_path / "v.npy", vectors.astype(np.float16))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    rows, _ = FlatIndex({"vectors": mapped}).search({"vectors": vectors[:5]}, 3)
    np.testing.assert_array_equal(rows, brute_force(vectors[:5], mapped.astype(np.float32), 3)[0])


def test_refuses_what_is_no_number(vectors):
    bad = vectors.copy()
    bad[123, 4] = np.nan
    with pytest.raises(UserError, match="passage row 123"):
        FlatIndex({"vectors": bad})
    with pytest.raises(UserError, match="query row 123"):
        FlatIndex({"vectors": vectors}).search({"vectors": bad}, 3)


def test_refuses_shapes_that_do_not_fit(vectors):
    index = FlatIndex({"vectors": vectors})
    with pytest.raises(ValueError, match=r"\[2, 3\] do not fit"):
        index.search({"vectors": np.zeros((2, 3), np.float32)}, 1)
    with pytest.raises(ValueError, match="at least 1"):
        index.search({"vectors": vectors[:1]}, 0)
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        FlatIndex({"vectors": vectors[0]})


def test_no_passages_no_hits():
    assert (
        FlatIndex({"vectors": np.empty((0, 4), np.float32)})
        .search({"vectors": np.zeros((2, 4), np.float32)}, 3)
        .rows.tolist()
        == [[-1] * 3] * 2
    )


def test_says_what_to_install(vectors, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install retrieval-kd\[cpu\]"):
        FlatIndex({"vectors": vectors})
