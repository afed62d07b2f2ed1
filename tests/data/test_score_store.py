import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.data import shard_folder, shards
from retrieval_kd.data.score_store import ScoreKeys, ScoreStore
from retrieval_kd.data.shards import Shard, locate

GOLDEN_KEY = [[18008098051713784362, 3875627703561024932]]


def true_score(query, passage):
    return np.float32(len(query) * 1000 + len(passage) + 0.5)


class Teacher:
    kind = ScoreKind.LOGIT

    def __init__(self, fingerprint="teacher 1"):
        self.fingerprint = fingerprint
        self.calls = []

    def score(self, queries, passages):
        self.calls.extend(zip(queries, passages, strict=True))
        return np.array([true_score(*pair) for pair in zip(queries, passages, strict=True)], np.float32)


def pairs_of(count, seed=0):
    draw = random.Random(seed)
    return [("q" * draw.randint(1, 12), "p" * draw.randint(0, 60)) for _ in range(count)]


def columns(pairs):
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def truth(pairs):
    return np.array([true_score(*pair) for pair in pairs], np.float32)


def test_scores_each_distinct_pair_once_and_keeps_order(tmp_path):
    pairs, teacher = pairs_of(500), Teacher()
    np.testing.assert_array_equal(ScoreStore(tmp_path).score_missing(teacher, *columns(pairs), chunk=16), truth(pairs))
    assert len(set(pairs)) < 500  # there are doubles
    assert Counter(teacher.calls) == Counter(set(pairs))
    more = pairs_of(500, seed=1) + pairs
    np.testing.assert_array_equal(ScoreStore(tmp_path).score_missing(teacher, *columns(more)), truth(more))
    assert Counter(teacher.calls) == Counter(set(more))
    assert ScoreStore(tmp_path).count(teacher.fingerprint) == len(set(more))


def test_asks_the_teacher_in_the_order_of_the_list(tmp_path):
    pairs, teacher = list(dict.fromkeys(pairs_of(100))), Teacher()
    ScoreStore(tmp_path).score_missing(teacher, *columns(pairs), chunk=9)
    assert teacher.calls == pairs


def test_reading_creates_nothing(tmp_path):
    store = ScoreStore(tmp_path / "none")
    keys = store.keys("t", ["a", "a", "b"], ["b", "b", "c"])
    assert np.isnan(store.lookup(keys)).all()
    assert store.count("t") == 0
    assert not store.path.exists()


def test_keys_name_the_parts_not_their_concatenation(tmp_path):
    store = ScoreStore(tmp_path)
    parts = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("c", "ab"), ("a\x00b", "c"), ("\ud800", "")]
    keys = [tuple(store.keys(fingerprint, [q], [p]).values[0]) for fingerprint in ("t", "u") for q, p in parts]
    assert len(set(keys)) == len(keys)
    together = store.keys("t", *columns(parts)).values
    np.testing.assert_array_equal(together, [store.keys("t", [q], [p]).values[0] for q, p in parts])


def test_keys_are_the_same_on_every_machine(tmp_path):
    """A change here makes every store that exists useless."""
    assert ScoreStore(tmp_path).keys("t", ["query"], ["passage"]).values.tolist() == GOLDEN_KEY


def test_teachers_do_not_share_scores(tmp_path):
    pairs, one, other = pairs_of(20), Teacher("one"), Teacher("other")
    store = ScoreStore(tmp_path)
    for teacher in (one, other):
        store.score_missing(teacher, *columns(pairs))
    assert set(one.calls) == set(other.calls) == set(pairs)
    facts = [json.loads(path.read_text()) for path in tmp_path.glob("*/about.json")]
    assert {(fact["fingerprint"], fact["kind"]) for fact in facts} == {("one", "logit"), ("other", "logit")}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_equals_a_dictionary(tmp_path, monkeypatch, seed):
    """Random appends and look-ups, keys that share halves, merges, several objects on one folder."""
    draw = np.random.default_rng(seed)
    monkeypatch.setattr(shard_folder, "MANY", int(draw.integers(1, 6)))
    monkeypatch.setattr(shard_folder, "SMALL", int(draw.choice([200, 4000])))
    monkeypatch.setattr(shard_folder, "BLOCK", int(draw.choice([3, 50, 1000])))
    stores, oracle = [ScoreStore(tmp_path), ScoreStore(tmp_path)], {}
    for _ in range(40):
        store = stores[draw.integers(2)]
        values = draw.integers(0, 12, (draw.integers(0, 60), 2)).astype(np.uint64) << np.uint64(58)
        keys = ScoreKeys("t", values)
        if draw.random() < 0.5:
            scores = draw.random(len(values)).astype(np.float32)
            store.append(keys, scores, ScoreKind.LOGIT)
            for key, score in zip(map(tuple, values), scores, strict=True):
                oracle.setdefault(key, score)
        expected = np.array([oracle.get(tuple(key), np.nan) for key in values], np.float32)
        np.testing.assert_array_equal(store.lookup(keys), expected)
    assert [store.count("t") for store in stores] == [len(oracle)] * 2


@pytest.mark.parametrize(("here", "there"), [(5, 200), (200, 5), (50, 50), (0, 5), (5, 0)])
def test_locate_equals_a_search(here, there):
    draw = np.random.default_rng(here)
    keys = draw.integers(0, 8, (here, 2)).astype(np.uint64)
    shard = Shard.of(draw.integers(0, 8, (there, 2)).astype(np.uint64), np.zeros((there, 1)))
    rows = {key: row for row, key in enumerate(zip(shard.high.tolist(), shard.low.tolist(), strict=True))}
    number, row = locate(keys, [shard])
    assert row.tolist() == [rows.get(tuple(key), -1) for key in keys.tolist()]
    assert (number == np.where(row < 0, -1, 0)).all()


def test_small_shards_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_folder, "MANY", 10)
    pairs, teacher = pairs_of(400), Teacher()
    reader = ScoreStore(tmp_path)
    ScoreStore(tmp_path).score_missing(teacher, *columns(pairs[:200]), chunk=3)
    keys = reader.keys(teacher.fingerprint, *columns(pairs))
    assert np.isfinite(reader.lookup(keys)[:200]).all()
    ScoreStore(tmp_path).score_missing(teacher, *columns(pairs), chunk=3)
    assert 1 <= len(list(tmp_path.glob("*/*.shard"))) < 10
    np.testing.assert_array_equal(reader.lookup(keys), truth(pairs))


WORKER = """
import json, os, signal, sys, time
from pathlib import Path
import numpy as np
from retrieval_kd.contracts import ScoreKind
from retrieval_kd.data import shard_folder
from retrieval_kd.data.score_store import ScoreStore

folder, log, wanted, place, number = sys.argv[1:]
shard_folder.MANY = 3
calls = 0

class Teacher:
    kind, fingerprint = ScoreKind.LOGIT, "teacher 1"

    def score(self, queries, passages):
        with open(log, "a") as stream:
            stream.write("".join(f"{q} {p}\\n" for q, p in zip(queries, passages)))
        time.sleep(0.002)
        return np.array([len(q) * 1000 + len(p) + 0.5 for q, p in zip(queries, passages)], np.float32)

def deadly(function):
    def called(*arguments, **named):
        global calls
        calls += 1
        if calls == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return called

if place != "nowhere":
    owner = Teacher if place == "score" else os
    setattr(owner, place, deadly(getattr(owner, place)))
queries, passages = zip(*json.loads(wanted))
scores = ScoreStore(Path(folder)).score_missing(Teacher(), queries, passages, chunk=10)
assert scores.tolist() == [len(q) * 1000 + len(p) + 0.5 for q, p in zip(queries, passages)]
"""


def start(folder, pairs, place="nowhere", number=0):
    arguments = [folder / "store", folder / "log", json.dumps(pairs), place, number]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", WORKER, *map(str, arguments)], cwd=root, env=environment)


def scored_in(folder):
    return Counter(tuple(line.split(" ")) for line in (folder / "log").read_text().splitlines())


def test_four_processes_score_each_pair_once(tmp_path):
    pairs = pairs_of(300)
    lists = [random.Random(seed).sample(pairs, 200) for seed in range(4)]
    workers = [start(tmp_path, some) for some in lists]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    assert scored_in(tmp_path) == Counter({pair for some in lists for pair in some})
    assert not list(tmp_path.glob("store/*/*.claim"))


KILLS = [("score", 4), ("fsync", 6), ("replace", 3), ("replace", 8), ("unlink", 2), ("unlink", 11)]


@pytest.mark.slow
def test_goes_on_after_kills(tmp_path, monkeypatch):
    """Killed while it scores, writes, renames and merges; who comes next waits for nobody dead."""
    pairs, teacher, store = pairs_of(300), Teacher(), ScoreStore(tmp_path / "store")
    for place, number in KILLS:
        assert start(tmp_path, pairs, place, number).wait(60) == -signal.SIGKILL
        if place == "score":
            assert len(list(tmp_path.glob("store/*/*.claim"))) == 1
    stored = store.lookup(store.keys(teacher.fingerprint, *columns(pairs)))
    known = np.isfinite(stored)
    assert 0 < sum(known) < 300
    np.testing.assert_array_equal(stored[known], truth(pairs)[known])
    monkeypatch.setattr(shard_folder, "MANY", 1)
    np.testing.assert_array_equal(store.score_missing(teacher, *columns(pairs), chunk=10), truth(pairs))
    assert store.count(teacher.fingerprint) == len(set(pairs))  # doubles of a merge that was killed are gone
    scored = scored_in(tmp_path) + Counter(teacher.calls)
    assert set(scored) == set(pairs)
    assert scored.total() - len(set(pairs)) <= 10 * len(KILLS)  # a kill loses the chunk in hand
    assert {path.suffix for path in tmp_path.glob("store/*/*")} == {"", ".json", ".shard"}  # no claim, nothing half


def test_waits_for_what_another_scores(tmp_path):
    pairs, store = list(dict.fromkeys(pairs_of(40))), ScoreStore(tmp_path)
    both, results = threading.Barrier(2), []

    class Slow(Teacher):
        def score(self, queries, passages):
            both.wait(10)
            time.sleep(0.1)
            return super().score(queries, passages)

    slow, quick = Slow(), Teacher()

    def score_slowly():
        slow.score = lambda queries, passages: (both.wait(10), time.sleep(0.1), Teacher.score(slow, queries, passages))[
            2
        ]
        results.append(ScoreStore(tmp_path).score_missing(slow, *columns(pairs[:10])))

    thread = threading.Thread(target=score_slowly)
    thread.start()
    both.wait(10)
    np.testing.assert_array_equal(store.score_missing(quick, *columns(pairs)), truth(pairs))
    thread.join(10)
    assert slow.calls == pairs[:10]
    assert quick.calls == pairs[10:]
    np.testing.assert_array_equal(results[0], truth(pairs[:10]))


def test_half_files_are_ignored_and_swept(tmp_path):
    pairs, teacher = pairs_of(30), Teacher()
    store = ScoreStore(tmp_path)
    store.score_missing(teacher, *columns(pairs[:10]))
    shard = next(tmp_path.glob("*/*.shard"))
    half = shard.with_name(f".{shard.name}.abc")
    half.write_bytes(shard.read_bytes()[:50])
    np.testing.assert_array_equal(ScoreStore(tmp_path).score_missing(teacher, *columns(pairs)), truth(pairs))
    assert not half.exists()


@pytest.mark.parametrize("content", [b"", b"something else that is longer than a header", None])
def test_a_damaged_shard_is_named(tmp_path, content):
    pairs, teacher = pairs_of(10), Teacher()
    ScoreStore(tmp_path).score_missing(teacher, *columns(pairs))
    shard = next(tmp_path.glob("*/*.shard"))
    shard.write_bytes(shard.read_bytes()[:-1] if content is None else content)
    with pytest.raises(UserError, match=f"{shard.name}.*delete it"):
        ScoreStore(tmp_path).score_missing(teacher, *columns(pairs))
    shard.unlink()
    np.testing.assert_array_equal(ScoreStore(tmp_path).score_missing(teacher, *columns(pairs)), truth(pairs))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(tmp_path, bad):
    class Broken(Teacher):
        def score(self, queries, passages):
            scores = super().score(queries, passages)
            if len(self.calls) > 10:
                scores[2:4] = bad
            return scores

    pairs, teacher = list(dict.fromkeys(pairs_of(40))), Broken("minilm@1234")
    with pytest.raises(UserError, match=r"minilm@1234.*2 of 5 pairs.*nothing of them was stored") as caught:
        ScoreStore(tmp_path).score_missing(teacher, *columns(pairs), chunk=5)
    assert repr(pairs[12][1]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ScoreStore(tmp_path).count("minilm@1234") == 10
    healthy = Teacher("minilm@1234")  # the claim was given back: nobody waits
    np.testing.assert_array_equal(ScoreStore(tmp_path).score_missing(healthy, *columns(pairs)), truth(pairs))
    assert healthy.calls == pairs[10:]


@pytest.mark.parametrize("shape", [(9,), (11,), (10, 1), ()])
def test_scores_that_do_not_fit_the_pairs_are_refused(tmp_path, shape):
    class Short(Teacher):
        def score(self, queries, passages):
            return np.zeros(shape, np.float32)

    pairs = list(dict.fromkeys(pairs_of(20)))[:10]
    with pytest.raises(UserError, match="for 10 pairs"):
        ScoreStore(tmp_path).score_missing(Short(), *columns(pairs))
    assert ScoreStore(tmp_path).count("teacher 1") == 0


def test_another_kind_under_one_fingerprint_is_refused(tmp_path):
    pairs, teacher = pairs_of(5), Teacher()
    ScoreStore(tmp_path).score_missing(teacher, *columns(pairs))
    teacher.kind = ScoreKind.SIMILARITY
    with pytest.raises(UserError, match=r"about\.json: kind is 'logit'.*'similarity'"):
        ScoreStore(tmp_path).score_missing(teacher, *columns(pairs))


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(self, stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    pairs, teacher = pairs_of(5), Teacher()
    with monkeypatch.context() as patched:
        patched.setattr(shards.Shard, "write", full)
        with pytest.raises(UserError, match="no space left"):
            ScoreStore(tmp_path).score_missing(teacher, *columns(pairs))
    assert {path.name for path in tmp_path.glob("*/*")} == {"about.json", "lock"}


def test_lists_that_are_not_aligned_are_refused(tmp_path):
    with pytest.raises(ValueError, match="columns of 2, 1 texts are not aligned"):
        ScoreStore(tmp_path).keys("t", ["a", "b"], ["c"])


def test_two_passages_in_an_order_are_a_row_of_their_own(tmp_path):
    """A judge of pairs uses the same store: either order is scored once, and is no score of one passage."""

    class Judge(Teacher):
        def score(self, queries, firsts, seconds):
            self.calls.extend(zip(queries, firsts, seconds, strict=True))
            return np.array([len(q) + 100 * len(i) - len(j) for q, i, j in self.calls[-len(queries) :]], np.float32)

    draw = random.Random(2)
    rows = [("q" * draw.randint(1, 4), "i" * draw.randint(1, 6), "j" * draw.randint(1, 6)) for _ in range(80)]
    both = [*rows, *((q, j, i) for q, i, j in rows)]
    judge, store = Judge(), ScoreStore(tmp_path)
    scores = store.score_missing(judge, *zip(*both, strict=True), chunk=7)
    assert scores.tolist() == [len(q) + 100 * len(i) - len(j) for q, i, j in both]
    assert Counter(judge.calls) == Counter(set(both))
    again = ScoreStore(tmp_path).score_missing(judge, *zip(*both[::-1], strict=True))
    assert again.tolist() == scores[::-1].tolist()
    assert len(judge.calls) == len(set(both)) == store.count(judge.fingerprint)
    assert np.isnan(store.lookup(store.keys(judge.fingerprint, *zip(*[row[:2] for row in rows], strict=True)))).all()


def test_no_pairs_need_no_teacher(tmp_path):
    teacher = Teacher()
    assert ScoreStore(tmp_path).score_missing(teacher, [], []).shape == (0,)
    assert not teacher.calls
