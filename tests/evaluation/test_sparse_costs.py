"""Costs of sparse representations against what they mean, pair by pair."""

import json

import numpy as np
import pytest
import torch

from retrieval_kd.evaluation import sparsity
from retrieval_kd.evaluation.sparsity import measure

V = 40


def texts_of(count, seed, most=12):
    """Distinct ascending terms by text; the first text has none."""
    generator = np.random.default_rng(seed)
    sizes = [0, *generator.integers(1, most, count - 1)]
    return [np.sort(generator.choice(V, size, replace=False)) for size in sizes]


def stored(texts):
    terms = np.concatenate(texts).astype(np.int32)
    return {
        "terms": terms,
        "weights": np.ones(len(terms), np.float32),
        "offsets": np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64),
    }


def padded(texts, width=15):
    terms = np.zeros((len(texts), width), np.int32)  # padding is term 0, which passages hold too
    for row, text in enumerate(texts):
        terms[row, : len(text)] = text
    return {"terms": terms, "weights": (terms > 0) * 1.0, "lengths": np.array([len(text) for text in texts])}


@pytest.fixture(params=[1 << 20, 7], ids=["one block", "many blocks"])
def block(request, monkeypatch):
    for name in ("ROWS", "CELLS"):
        monkeypatch.setattr(sparsity, name, request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("counts", [(31, 9), (20, 6), (1, 1)])
def test_equals_every_pair_looked_at(counts):
    passages, queries = texts_of(counts[0], 1), texts_of(counts[1], 2, 15)
    passages[0] = np.array([0, 3])
    overlaps = np.array([[len(np.intersect1d(query, passage)) for passage in passages] for query in queries])
    found = measure(stored(passages), padded(queries), V)
    assert found.flops == pytest.approx(overlaps.mean())
    assert found.flops_p99 == pytest.approx(overlaps.mean(1).max())  # of fewer than a hundred queries, the dearest
    for side, texts in ((found.passages, passages), (found.queries, queries)):
        lengths = [len(text) for text in texts]
        assert side.texts == len(texts)
        assert side.mean == pytest.approx(np.mean(lengths))
        assert side.median == np.median(lengths)
        assert side.most == max(lengths)
        assert side.empty == lengths.count(0)


def test_takes_tensors_and_memory_maps(tmp_path):
    passages, queries = stored(texts_of(30, 3)), padded(texts_of(8, 4))
    mapped = {}
    for name, array in passages.items():
        array.tofile(tmp_path / name)
        mapped[name] = np.memmap(tmp_path / name, array.dtype, "r")
    tensors = {name: torch.from_numpy(array) for name, array in queries.items()}
    assert measure(mapped, tensors, V) == measure(passages, queries, V)


def test_bytes_are_those_stored_or_the_engines():
    passages, queries = stored([np.array([1, 2]), np.array([5])]), padded([np.array([2])])
    assert measure(passages, queries, V).index_bytes == 3 * 4 + 3 * 4 + 3 * 8
    assert measure(passages, queries, V, index_bytes=11).index_bytes == 11


def test_becomes_json():
    found = measure(stored(texts_of(30, 3)), padded(texts_of(8, 4)), V)
    told = json.loads(json.dumps(found.as_json()))
    assert told["passages"]["mean"] == found.passages.mean
    columns = json.loads(json.dumps(found.columns()))
    assert columns["flops"] == pytest.approx(found.flops, abs=1e-4)
    assert columns["query_terms_median"] == found.queries.median


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match="0 passages and 1 queries"):
        measure(stored([np.array([], np.int64)]) | {"offsets": np.array([0])}, padded([np.array([2])]), V)
    broken = stored(texts_of(30, 3))
    broken["terms"] = broken["terms"][:-1]
    with pytest.raises(ValueError, match="offsets end at"):
        measure(broken, padded([np.array([2])]), V)
