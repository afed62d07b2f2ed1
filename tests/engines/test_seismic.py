import sys

import numpy as np
import pytest
from sparse_case import V, padded, passages_of, product, queries_of

from retrieval_kd.contracts import UserError
from retrieval_kd.engines.exact import recall_of_exact
from retrieval_kd.engines.inverted import InvertedIndex
from retrieval_kd.engines.seismic import SeismicIndex

pytestmark = pytest.mark.slow  # the kernels of the engine compile for half a minute, once for each machine

pytest.importorskip("seismic", reason="pip install 'retrieval-kd[seismic]'")

EVERYTHING = {
    "build": {"n_postings": 5000, "max_fraction": 10.0, "summary_energy": 1.0, "centroid_fraction": 0.5},
    "look": {"query_cut": 20, "heap_factor": 1.0},
}


@pytest.fixture(scope="module")
def passages():
    return passages_of(3_000)


@pytest.fixture(scope="module")
def index(passages):
    return SeismicIndex(passages, **EVERYTHING)


def test_finds_nearly_all_when_it_looks_everywhere(index, passages):
    queries = queries_of(60)
    exact = InvertedIndex(passages).search(queries, 10)
    hits = index.search(queries, 10)
    found = [len(np.intersect1d(a[a >= 0], b)) for a, b in zip(exact.rows, hits.rows, strict=True)]
    assert sum(found) / (exact.rows >= 0).sum() > 0.98
    assert recall_of_exact(index, passages, queries) == pytest.approx(sum(found) / (exact.rows >= 0).sum())
    assert not index.exact


def test_scores_are_those_of_exact_search(index, passages):
    queries = queries_of(20, seed=5)
    scores = product(queries, passages)
    for row, (rows, found) in enumerate(zip(*index.search(queries, 10), strict=True)):
        there = rows >= 0
        np.testing.assert_array_equal(found[there], scores[row][rows[there]])
        order = np.lexsort((rows[there], -found[there]))
        np.testing.assert_array_equal(order, np.arange(there.sum()))
        assert np.isneginf(found[~there]).all()
    assert (index.search(queries, 10).rows[queries["lengths"] == 0] == -1).all()


def test_one_query_as_among_others(index):
    queries = queries_of(8, seed=6)
    together = index.search(queries, 5)
    for row in range(8):
        one = index.search({name: array[row : row + 1] for name, array in queries.items()}, 5)
        np.testing.assert_array_equal(one.rows[0], together.rows[row])
        np.testing.assert_array_equal(one.scores[0], together.scores[row])


def test_looking_at_less_finds_less(passages):
    queries = queries_of(50)
    little = SeismicIndex(passages, look={"query_cut": 1, "heap_factor": 0.5})
    assert recall_of_exact(little, passages, queries) < 0.9
    assert recall_of_exact(InvertedIndex(passages), passages, queries) == 1


def test_terms_that_no_passage_has(index):
    queries = padded([([V + 5], [1.0]), ([3, V + 5], [1.0, 2.0]), ([3], [1.0])])
    rows = index.search(queries, 4).rows
    assert rows[0].tolist() == [-1] * 4
    np.testing.assert_array_equal(rows[1], rows[2])


def test_prints_nothing(passages, capfd):
    SeismicIndex(passages).search(queries_of(3), 2)
    assert capfd.readouterr() == ("", "")


def test_refuses(passages, monkeypatch):
    with pytest.raises(UserError, match=r"engine.build.postings is not known; there are n_postings, centroid_fraction"):
        SeismicIndex(passages, build={"postings": 3})
    with pytest.raises(UserError, match=r"engine.look.cut is not known; there are query_cut, heap_factor"):
        SeismicIndex(passages, look={"cut": 3})
    with pytest.raises(UserError, match="beyond the vocabulary of 7 terms"):
        SeismicIndex(passages, vocabulary=7)
    wide = {"terms": np.array([70_000], np.int32), "weights": np.ones(1, np.float32), "offsets": np.array([0, 1])}
    with pytest.raises(UserError, match="takes 65536 terms at most"):
        SeismicIndex(wide)
    monkeypatch.setitem(sys.modules, "seismic", None)
    with pytest.raises(UserError, match=r"pip install 'retrieval-kd\[seismic\]'"):
        SeismicIndex(passages)
