import numpy as np
import pytest
import torch

from retrieval_kd.contracts import UserError
from retrieval_kd.engines import maxsim
from retrieval_kd.engines.maxsim import MaxSimIndex
from retrieval_kd.functional.late_interaction import max_sim


def ragged(count, seed, integers=False, least=1, most=9):
    """Padded tokens of some texts; integers are exact in float32, so that equal products are equal scores."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(least, most, count)
    shape = (count, most, 6)
    tokens = generator.integers(-1, 2, shape) if integers else generator.standard_normal(shape)
    return {"tokens": tokens.astype(np.float32), "lengths": lengths}


def flat(padded):
    """As they are stored."""
    real = np.arange(padded["tokens"].shape[1]) < padded["lengths"][:, None]
    return {"tokens": padded["tokens"][real], "offsets": np.concatenate([[0], np.cumsum(padded["lengths"])])}


def every_score(queries, passages):
    sides = [(torch.from_numpy(side["tokens"]), torch.from_numpy(side["lengths"])) for side in (queries, passages)]
    return max_sim(*sides[0], *sides[1]).numpy()


@pytest.mark.parametrize("k", [1, 10, 300, 400])
@pytest.mark.parametrize("read", [20, 1 << 17])
def test_finds_what_comparing_with_every_passage_finds(k, read, monkeypatch):
    monkeypatch.setattr(maxsim, "TOKENS_READ", read)
    monkeypatch.setattr(maxsim, "QUERY_TOKENS_AT_ONCE", 30)
    queries, passages = ragged(8, 1), ragged(300, 2)
    hits = MaxSimIndex(flat(passages)).search(queries, k)
    scores = every_score(queries, passages)
    found = min(k, 300)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :found]
    np.testing.assert_array_equal(hits.rows[:, :found], expected)
    np.testing.assert_allclose(hits.scores[:, :found], np.take_along_axis(scores, expected, 1), atol=1e-5)
    assert hits.rows.dtype == np.int64
    assert hits.scores.dtype == np.float32
    assert (hits.rows[:, found:] == -1).all()
    assert np.isneginf(hits.scores[:, found:]).all()


@pytest.mark.parametrize("k", [1, 7, 60])
def test_ties_come_in_the_order_of_rows(k):
    queries, passages = ragged(20, 3, integers=True), ragged(60, 4, integers=True)
    scores = every_score(queries, passages)
    assert len(np.unique(scores[0])) < 30
    rows = MaxSimIndex(flat(passages)).search(queries, k).rows
    np.testing.assert_array_equal(rows, np.argsort(-scores, axis=1, kind="stable")[:, :k])


def test_reads_a_memory_map_of_half_precision(tmp_path):
    passages = flat(ragged(50, 5))
    np.save(tmp_path / "tokens.npy", passages["tokens"].astype(np.float16))
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    index = MaxSimIndex({"tokens": mapped, "offsets": passages["offsets"]})
    exact = MaxSimIndex(passages | {"tokens": mapped.astype(np.float32)})
    queries = ragged(4, 6)
    np.testing.assert_array_equal(index.search(queries, 5).rows, exact.search(queries, 5).rows)


def test_passages_without_tokens_are_not_found():
    passages = ragged(30, 7, least=0, most=3)
    there = np.flatnonzero(passages["lengths"])
    assert 0 < len(there) < 30
    hits = MaxSimIndex(flat(passages)).search(ragged(3, 8), 30)
    for row in hits.rows:
        assert sorted(row[row >= 0]) == there.tolist()


def test_nothing_to_find_and_nobody_to_ask():
    queries = ragged(3, 9)
    none = {"tokens": np.empty((0, 6), np.float32), "offsets": np.zeros(1, np.int64)}
    assert (MaxSimIndex(none).search(queries, 4).rows == -1).all()
    nobody = {name: array[:0] for name, array in queries.items()}
    assert MaxSimIndex(flat(ragged(5, 10))).search(nobody, 4).rows.shape == (0, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_what_is_no_number(bad):
    queries, passages = ragged(5, 11), ragged(40, 12)
    broken = {name: array.copy() for name, array in passages.items()}
    broken["tokens"][17, 0, 2] = bad
    queries["tokens"][:, :, 2] = 1  # infinity times anything above 0 is infinity
    with pytest.raises(UserError, match="a token of passage row 17 holds NaN or infinity"):
        MaxSimIndex(flat(broken)).search(queries, 3)
    queries["tokens"][3, 0, :] = bad
    with pytest.raises(UserError, match="a token of query row 3 holds NaN or infinity"):
        MaxSimIndex(flat(passages)).search(queries, 3)


def test_refuses_shapes_that_do_not_fit():
    index = MaxSimIndex(flat(ragged(5, 13)))
    with pytest.raises(ValueError, match="at least 1"):
        index.search(ragged(1, 1), 0)
    with pytest.raises(ValueError, match=r"\[1, 2, 3\] do not fit"):
        index.search({"tokens": np.zeros((1, 2, 3), np.float32), "lengths": np.ones(1, np.int64)}, 1)
    with pytest.raises(ValueError, match="do not fit offsets up to 4"):
        MaxSimIndex({"tokens": np.zeros((5, 2), np.float32), "offsets": np.array([0, 4])})
