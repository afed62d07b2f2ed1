import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from retrieval_kd.contracts import ScoreKind, Side, UserError
from retrieval_kd.data import shard_folder
from retrieval_kd.data.vector_store import VectorStore

TEXTS = [f"text {n % 37}" for n in range(100)]


def vector(text, side, width=6):
    return np.random.default_rng(xxh3_64_intdigest(f"{side}{text}".encode())).standard_normal(width).astype(np.float32)


def vectors(texts, side):
    return np.stack([vector(text, side) for text in texts])


class Teacher:
    kind = ScoreKind.SIMILARITY
    fingerprint = "encoder 1"

    def __init__(self):
        self.calls = []

    def encode(self, texts, side):
        self.calls.extend((text, side) for text in texts)
        return vectors(texts, side)


def stored(folder, texts, side):
    store = VectorStore(folder)
    return store.lookup(store.keys("encoder 1", side, texts))


@pytest.mark.parametrize("many", [2, 128])
def test_encodes_each_distinct_text_once(tmp_path, monkeypatch, many):
    monkeypatch.setattr(shard_folder, "MANY", many)
    teacher = Teacher()
    for texts in (TEXTS[:20], TEXTS, TEXTS[::-1]):
        VectorStore(tmp_path).score(teacher, texts, texts, chunk=5)
        for side in Side:
            got = stored(tmp_path, texts, side)
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, vectors(texts, side))
    assert Counter(teacher.calls) == Counter({(text, side) for text in TEXTS for side in Side})


def test_sides_and_teachers_do_not_share_vectors(tmp_path):
    store = VectorStore(tmp_path)
    keys = [
        tuple(store.keys(fingerprint, side, ["a"]).values[0]) for fingerprint in ("t", "tq", "") for side in list(Side)
    ]
    assert len(set(keys)) == 6


def test_score_is_the_inner_product(tmp_path):
    draw, teacher = np.random.default_rng(0), Teacher()
    queries, passages = [[TEXTS[n] for n in draw.integers(0, 100, 200)] for _ in range(2)]
    got = VectorStore(tmp_path).score(teacher, queries, passages)
    oracle = [float(vector(q, Side.QUERY) @ vector(p, Side.PASSAGE)) for q, p in zip(queries, passages, strict=True)]
    np.testing.assert_allclose(got, oracle, atol=1e-5)
    assert got.dtype == np.float32


def test_reading_creates_nothing(tmp_path):
    store = VectorStore(tmp_path / "none")
    keys = store.keys("t", Side.QUERY, ["a", "b", "a"])
    assert store.lookup(keys).shape == (3, 0)
    assert not store.path.exists()


def test_absent_rows_are_nan(tmp_path):
    VectorStore(tmp_path).score(Teacher(), ["a"], ["a"])
    found = stored(tmp_path, ["b", "a"], Side.QUERY)
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], vector("a", Side.QUERY))


def test_another_dimension_is_refused(tmp_path):
    class Wider(Teacher):
        def encode(self, texts, side):
            return np.zeros((len(texts), 8), np.float32)

    VectorStore(tmp_path).score(Teacher(), ["a"], ["a"])
    with pytest.raises(UserError, match="now gives 8 numbers for a text, before it gave 6"):
        VectorStore(tmp_path).score(Wider(), ["b"], ["b"])
    assert np.isnan(stored(tmp_path, ["a", "b"], Side.QUERY)).all(1).tolist() == [False, True]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])  # the last is too much for float32
def test_what_is_not_finite_is_refused(tmp_path, value):
    class Broken(Teacher):
        def encode(self, texts, side):
            made = super().encode(texts, side).astype(np.float64)
            made[1, 3] = value
            return made

    with pytest.raises(UserError, match=r"encoder 1.*not finite as float32 for 1 of 3 texts.*'b'"):
        VectorStore(tmp_path).score(Broken(), ["a", "b", "c"], ["a"] * 3)
    assert stored(tmp_path, ["a", "b", "c"], Side.QUERY).shape == (3, 0)


@pytest.mark.parametrize("shape", [(2, 6), (3,), (3, 0)])
def test_vectors_that_do_not_fit_the_texts_are_refused(tmp_path, shape):
    class Short(Teacher):
        def encode(self, texts, side):
            return np.zeros(shape, np.float32)

    with pytest.raises(UserError, match="for 3 texts"):
        VectorStore(tmp_path).score(Short(), ["a", "b", "c"], ["a", "b", "c"])


WORKER = """
import sys, time
from pathlib import Path
import numpy as np
from retrieval_kd.contracts import ScoreKind
from retrieval_kd.data.vector_store import VectorStore

class Teacher:
    kind, fingerprint = ScoreKind.SIMILARITY, "encoder 1"

    def encode(self, texts, side):
        with open(sys.argv[2], "a") as stream:
            stream.write("".join(f"{side} {text}\\n" for text in texts))
        time.sleep(0.005)
        return np.array([[2.0, float(text)] for text in texts], np.float32)

texts = [str(n) for n in range(int(sys.argv[3]), int(sys.argv[4]))]
scores = VectorStore(Path(sys.argv[1])).score(Teacher(), texts, texts, chunk=8)
assert scores.tolist() == [4.0 + float(text) ** 2 for text in texts]
"""


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WORKER, str(tmp_path / "store"), str(tmp_path / "log")]
    workers = [subprocess.Popen([*command, *span], cwd=root) for span in (("0", "150"), ("50", "200"))]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    encoded = (tmp_path / "log").read_text().splitlines()
    assert Counter(encoded) == Counter(f"{side} {n}" for side in Side for n in range(200))
