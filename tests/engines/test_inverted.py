from itertools import pairwise

import numpy as np
import pytest
from sparse_case import V, padded, passages_of, product, queries_of

from retrieval_kd.contracts import UserError
from retrieval_kd.engines import inverted, inverted_kernels, score_kernels
from retrieval_kd.engines.inverted import InvertedIndex

pytestmark = pytest.mark.slow  # the kernels of the engine compile for half a minute, once for each machine


def assert_best(hits, scores, k):
    """Bit by bit the k best that score more than 0, equal scores in the order of rows."""
    assert hits.rows.dtype == np.int64
    assert hits.scores.dtype == np.float32
    assert hits.rows.shape == hits.scores.shape == (len(scores), k)
    for rows, found, all_scores in zip(*hits, scores, strict=True):
        best = np.lexsort((np.arange(len(all_scores)), -all_scores))[:k]
        best = best[all_scores[best] > 0]
        np.testing.assert_array_equal(rows[: len(best)], best)
        np.testing.assert_array_equal(found[: len(best)], all_scores[best])
        assert (rows[len(best) :] == -1).all()
        assert np.isneginf(found[len(best) :]).all()


@pytest.fixture(scope="module")
def passages():
    return passages_of(20_000)


@pytest.fixture(scope="module")
def index(passages):
    result = InvertedIndex(passages)
    column = result._parts[0].postings.column
    assert (column >= 0).any()
    assert (column < 0).any()
    return result


@pytest.mark.parametrize("k", [1, 10, 300, 21_000])
def test_equals_a_product(index, passages, k):
    queries = queries_of(40)
    assert 0 in queries["lengths"]
    assert_best(index.search(queries, k), product(queries, passages), k)


@pytest.mark.parametrize("spread", [0.0, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_equals_a_product_whatever_the_weights(seed, spread):
    """All equal: ties everywhere. Or over many orders of magnitude: codes of 1, and bounds that are far too high."""
    passages, queries = passages_of(9_000, seed, 12, spread), queries_of(25, seed + 50)
    queries["weights"] **= 1 + spread
    for k in (1, 7, 200):
        assert_best(InvertedIndex(passages).search(queries, k), product(queries, passages), k)


@pytest.mark.parametrize("k", [10, 2 * inverted_kernels.ROOM])
def test_more_ties_than_there_is_room_for(k):
    size = 3 * inverted_kernels.ROOM + 5
    passages = {
        "terms": np.full(size, 299, np.int32),
        "weights": np.where(np.arange(size) % 40_000 == 39_999, 2, 1).astype(np.float32),
        "offsets": np.arange(size + 1),
    }
    queries = padded([([299], [1.5])])
    assert_best(InvertedIndex(passages).search(queries, k), product(queries, passages), k)


def test_many_passages_find_the_block_of_the_best():
    """Passages lie together by subject: most blocks cannot hold any of the best, and are left."""
    draw = np.random.default_rng(3)
    size, subject = 60_000, np.arange(60_000) // 10_000
    terms = np.stack([subject, 10 + draw.integers(0, 50, size)], 1).astype(np.int32)
    passages = {
        "terms": terms.ravel(),
        "weights": draw.gamma(2, 1, 2 * size).astype(np.float32),
        "offsets": np.arange(0, 2 * size + 1, 2),
    }
    queries = padded([([4, 13], [3, 1]), ([13], [1]), ([0, 5, 59], [1, 1, 1])])
    assert_best(InvertedIndex(passages).search(queries, 20), product(queries, passages), 20)


@pytest.mark.parametrize("small", [0, 1 << 16])
def test_added_in_parts_as_all_at_once(passages, index, small, monkeypatch):
    monkeypatch.setattr(inverted, "SMALL", small)
    bounds = [0, 500, 9_000, 9_000, 20_000]
    parts = []
    for first, last in pairwise(bounds):
        offsets = passages["offsets"][first : last + 1]
        part = {name: passages[name][offsets[0] : offsets[-1]] for name in ("terms", "weights")}
        parts.append(part | {"offsets": offsets - offsets[0]})
    grown = InvertedIndex(parts[0])
    for part in parts[1:]:
        grown.add(part)
    assert len(grown) == len(index) == 20_000
    assert len(grown._parts) == (1 if small else 4)
    queries = queries_of(30)
    for k in (5, 400):
        assert_best(grown.search(queries, k), product(queries, passages), k)
    rows = index.search(queries, 50).rows
    np.testing.assert_array_equal(grown.scores(queries, rows), index.scores(queries, rows))


def test_removed_and_hidden_passages_are_not_found(passages, monkeypatch):
    monkeypatch.setattr(inverted, "SMALL", 0)
    grown, queries = InvertedIndex(passages), queries_of(30)
    grown.add(passages)
    scores = np.hstack([product(queries, passages)] * 2)
    gone = np.arange(5, 40_000, 7)
    grown.remove(gone)
    scores[:, gone] = 0
    assert_best(grown.search(queries, 30), scores, 30)
    keep = np.arange(40_000) % 3 == 0
    scores[:, ~keep] = 0
    assert_best(grown.search(queries, 30, keep), scores, 30)
    with pytest.raises(ValueError, match="between 0 and 39999"):
        grown.remove(np.array([40_000]))


def test_what_was_removed_stays_so_when_more_is_added(passages):
    grown = InvertedIndex(passages)
    grown.remove(np.arange(20_000))
    grown.add(passages_of(10, most=5))
    rows = grown.search(queries_of(30), 10).rows
    assert rows.max() >= 20_000
    assert rows[rows >= 0].min() >= 20_000


def test_threads_change_nothing(passages, index):
    queries = queries_of(700)
    threaded = InvertedIndex(passages, threads=3)
    for one, other in zip(threaded.search(queries, 9), index.search(queries, 9), strict=True):
        np.testing.assert_array_equal(one, other)


def test_reads_memory_maps(passages, tmp_path, index):
    for name, array in passages.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = InvertedIndex({name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in passages})
    queries = queries_of(20)
    np.testing.assert_array_equal(mapped.search(queries, 9).scores, index.search(queries, 9).scores)


def kept(passages, quantise):
    """Weights as an index keeps them."""
    weights = passages["weights"]
    if quantise == "f16":
        return weights.astype(np.float16).astype(np.float32)
    largest = np.zeros(V, np.float32)
    np.maximum.at(largest, passages["terms"], weights)
    steps = (largest / np.float32(255))[passages["terms"]]
    return steps * np.clip(np.floor(weights / steps + np.float32(0.5)), 1, 255)


@pytest.mark.parametrize("quantise", ["f16", "u8"])
def test_quantised_scores_are_those_of_the_kept_impacts(passages, quantise):
    smaller, queries = InvertedIndex(passages, quantise=quantise), queries_of(30)
    rounded = passages | {"weights": kept(passages, quantise)}
    assert_best(smaller.search(queries, 20), product(queries, rounded), 20)


def test_quantisation_loss(passages, index):
    queries = queries_of(50)
    assert index.quantisation_loss(queries) == (0, 0, 1, 1)
    for quantise in ("f16", "u8"):
        loss = InvertedIndex(passages, quantise=quantise).quantisation_loss(queries, 20)
        errors = np.abs(kept(passages, quantise) - passages["weights"], dtype=np.float64)
        assert loss.largest_error == pytest.approx(errors.max(), rel=1e-6)
        assert loss.mean_error == pytest.approx(errors.mean(), rel=1e-6)
        assert 0.9 < loss.found <= 1
        assert 0.9 < loss.ordered <= 1
        if quantise == "u8":
            assert loss.found < 1
            assert loss.ordered < 1
    grown = InvertedIndex(passages_of(50), quantise="u8")
    grown.add(passages_of(50, 1))
    assert 0 < grown.quantisation_loss(queries).largest_error < 1


def test_float16_is_read_as_numpy_reads_it():
    bits = np.arange(0x7C00, dtype=np.uint16)  # all that are positive and finite
    ours = np.array([score_kernels._of_half(one) for one in bits[::7]], np.float32)
    np.testing.assert_array_equal(ours, bits[::7].view(np.float16).astype(np.float32))


def test_two_phases(passages, index):
    queries = queries_of(30)
    whole = InvertedIndex(passages, two_phase={"share": 0.0, "expansion": 1})
    for one, other in zip(whole.search(queries, 25), index.search(queries, 25), strict=True):
        np.testing.assert_array_equal(one, other)
    # Found by the heaviest term alone, ranked by all.
    hits = InvertedIndex(passages, two_phase={"share": 1.0, "expansion": 1, "most": 40}).search(queries, 40)
    scores, weights = product(queries, passages), queries["weights"].argmax(1)
    single = padded(
        [([queries["terms"][i, j]], [1.0]) if queries["lengths"][i] else ([], []) for i, j in enumerate(weights)]
    )
    first = InvertedIndex(passages).search(single, 40).rows
    for row, (rows, found) in enumerate(zip(*hits, strict=True)):
        assert set(rows) == set(first[row])
        np.testing.assert_array_equal(found[rows >= 0], scores[row][rows[rows >= 0]])
        assert (np.diff(found[rows >= 0]) <= 0).all()


def test_terms_that_no_passage_has(passages, index):
    queries = padded([([V + 5], [1.0]), ([3, V + 5, 2**31 - 1], [1.0, 2.0, 1.0]), ([3], [1.0])])
    rows, scores = index.search(queries, 4)
    assert rows[0].tolist() == [-1] * 4
    np.testing.assert_array_equal(rows[1], rows[2])
    np.testing.assert_array_equal(scores[1], scores[2])
    np.testing.assert_array_equal(index.scores(queries, rows)[1], scores[2])


@pytest.mark.parametrize("size", [0, 3])
def test_nothing_to_find(size):
    empty = {
        "terms": np.empty(0, np.int32),
        "weights": np.empty(0, np.float32),
        "offsets": np.zeros(size + 1, np.int64),
    }
    engine = InvertedIndex(empty)
    assert len(engine) == size
    assert engine.search(queries_of(3), 2).rows.tolist() == [[-1, -1]] * 3
    assert engine.search(padded([]), 2).rows.shape == (0, 2)
    engine.add(passages_of(50))
    assert engine.search(queries_of(3), 2).rows.max() >= size


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": np.array([1, np.nan, 1], np.float32)}, "passage row 1 has a weight that is not a positive number"),
        ({"weights": np.array([1, 1, -1], np.float32)}, "passage row 1 has a weight"),
        ({"weights": np.array([0, 1, 1], np.float32)}, "passage row 0 has a weight"),
        ({"weights": np.array([np.inf, 1, 1], np.float32)}, "passage row 0 has a weight"),
        ({"terms": np.array([2, 5, 5], np.int32)}, "passage row 1 has terms that do not ascend"),
        ({"terms": np.array([-1, 5, 6], np.int32)}, "passage row 0 has terms that do not ascend"),
        ({"terms": np.array([2, 5, 10], np.int32)}, "passage row 1 has a term beyond the vocabulary of 10 terms"),
    ],
)
def test_refuses_what_is_no_representation(change, says):
    right = {"terms": np.array([2, 5, 9], np.int32), "weights": np.ones(3, np.float32), "offsets": np.array([0, 1, 3])}
    with pytest.raises(UserError, match=says):
        InvertedIndex(right | change, vocabulary=10)


def test_what_is_refused_changes_nothing(passages):
    grown = InvertedIndex(passages_of(50))
    wrong = passages_of(7)
    wrong["weights"][-1] = np.nan
    with pytest.raises(UserError, match=r"passage row 5\d has a weight"):
        grown.add(wrong)
    assert len(grown) == 50
    assert grown.search(queries_of(3), 5).rows.max() >= 0


def test_refuses_queries_of_another_vocabulary():
    engine = InvertedIndex(passages_of(50), vocabulary=V)
    with pytest.raises(UserError, match=f"query 1 has a term beyond the vocabulary of {V} terms"):
        engine.search(padded([([1], [1.0]), ([1, V], [1.0, 1.0])]), 3)


@pytest.mark.parametrize(
    ("query", "says"),
    [(([1, 2], [1.0, -1.0]), "query 0 has a weight"), (([2, 1], [1.0, 1.0]), "query 0 has terms that do not ascend")],
)
def test_refuses_wrong_queries(query, says):
    with pytest.raises(UserError, match=says):
        InvertedIndex(passages_of(50)).search(padded([query]), 3)


def test_refuses_wrong_options_and_shapes(passages):
    few = passages_of(5)
    with pytest.raises(UserError, match=r"engine.quantise: 'u4' is not one of none, f16, u8"):
        InvertedIndex(few, quantise="u4")
    with pytest.raises(UserError, match=r"engine.two_phase.shar is not known; there are share, expansion, most"):
        InvertedIndex(few, two_phase={"shar": 1})
    with pytest.raises(UserError, match=r"engine.two_phase: share is between 0 and 1"):
        InvertedIndex(few, two_phase={"share": 2})
    heavy = few | {"weights": few["weights"] * 1e6}
    with pytest.raises(UserError, match="a weight is above 65504, the largest of f16"):
        InvertedIndex(heavy, quantise="f16")
    index, queries = InvertedIndex(few, quantise="f16"), queries_of(4)
    index.remove(np.array([1]))
    before = index.search(queries, 3)
    with pytest.raises(UserError, match="a weight is above 65504"):
        index.add(heavy)
    assert len(index) == 5
    np.testing.assert_array_equal(index.search(queries, 3).rows, before.rows)
    with pytest.raises(ValueError, match="at least 1"):
        InvertedIndex(few).search(queries_of(1), 0)
    with pytest.raises(ValueError, match="do not fit"):
        InvertedIndex(few).search(queries_of(2) | {"lengths": np.ones(3, np.int64)}, 1)
