from pathlib import Path

import numpy as np
import pytest

from retrieval_kd.contracts import Role, UserError
from retrieval_kd.data.runs import Run
from retrieval_kd.negatives.hard import HardNegatives


class Store:
    path = Path("passages")

    def __init__(self, ids):
        self.all = list(ids)
        self.places = {one: row for row, one in enumerate(self.all)}

    def __len__(self):
        return len(self.all)

    def rows(self, ids):
        return np.array([self.places.get(one, -1) for one in ids], np.int64)

    def ids(self, rows):
        return [self.all[row] for row in rows]


STORE = Store(f"p{n}" for n in range(1, 41))


def ranked(**lists):
    return Run.from_dict({query: {one: -float(n) for n, one in enumerate(ids)} for query, ids in lists.items()})


def hard(**changes):
    settings = {"source": "runs/bm25", "pool": 5, "per_query": 3, "window": [1, 10], "random": 0, "margin": None}
    return HardNegatives(**{**settings, "seed": 1, **changes})


def rows(candidates):
    return {
        one.query_id: [(c.passage_id, c.role, c.rank, c.relevance) for c in one.candidates()]
        for one in candidates.lists()
    }


def reasons(statistics):
    return {name: count for name, count in statistics.as_dict().items() if count and isinstance(count, int)}


TOP = [f"p{n}" for n in range(1, 13)]


def test_window_without_positives_of_the_query():
    found, statistics = hard(window=[2, 6]).mine(ranked(q=TOP), {"q": {"p3": 1, "p30": 2, "p5": 0}}, STORE)
    assert rows(found)["q"] == [
        ("p30", Role.POSITIVE, 0, 2),  # most relevant first, found or not
        ("p3", Role.POSITIVE, 3, 1),
        ("p2", Role.HARD, 2, 0),
        ("p4", Role.HARD, 4, 0),
        ("p5", Role.HARD, 5, 0),  # judged not relevant
        ("p6", Role.HARD, 6, 0),
    ]
    assert found.source == ["judgements"] * 2 + ["bm25"] * 4
    assert reasons(statistics) == {
        "per_query": 3,
        "queries": 1,
        "positives": 2,
        "retrieved": 12,
        "hard": 4,
        "outside_window": 7,
        "known_positive": 1,
    }


def test_the_query_itself_and_unknown_passages():
    found, statistics = hard().mine(ranked(p2=["p1", "p2", "gone", "p3"]), {"p2": {"p9": 1, "lost": 1}}, STORE)
    assert [row[:3] for row in rows(found)["p2"]] == [
        ("p9", Role.POSITIVE, 0),
        ("p1", Role.HARD, 1),
        ("p3", Role.HARD, 4),
    ]
    assert (statistics.identical, statistics.unknown, statistics.unknown_positives) == (1, 1, 1)
    assert statistics.too_short == 1
    assert "1 with fewer than 3 negatives" in statistics.lines()[-1]


def test_a_full_pool_draws_by_seed_and_query_alone():
    long = [f"p{n}" for n in range(1, 41)]
    judgements = {query: {"p40": 1} for query in ("a", "b")}
    settings = {"window": [1, 30], "pool": 6}

    def mined(seed, **lists):
        found, statistics = hard(seed=seed, **settings).mine(ranked(**lists), judgements, STORE)
        assert statistics.not_drawn == 24 * len(lists)
        return rows(found)

    both = mined(1, a=long, b=long)
    ranks = [rank for _, _, rank, _ in both["a"][1:]]
    assert ranks == sorted(set(ranks))
    assert len(ranks) == 6
    assert max(ranks) <= 30
    assert mined(1, b=long, a=long)["a"] == both["a"] == mined(1, a=long)["a"]
    assert both["b"][1:] != both["a"][1:]
    assert mined(2, a=long)["a"] != both["a"]


def test_draws_are_uniform_over_the_window():
    lists = {f"q{n}": STORE.all for n in range(400)}
    judgements = {query: {"p40": 1} for query in lists}
    found, _ = hard(window=[11, 30], pool=5).mine(ranked(**lists), judgements, STORE)
    counts = np.bincount(found.rank[found.role == Role.HARD], minlength=31)
    assert (counts[:11] == 0).all()
    assert counts.sum() == 2000
    assert np.abs(counts[11:] - 100).max() < 5 * np.sqrt(100)


@pytest.mark.parametrize("judgements", [None, {}, {"q": {"p3": 0}}, {"q": {"lost": 1}}])
def test_without_positives_the_first_of_the_window_stay(judgements):
    found, statistics = hard(pool=4, window=[2, 9]).mine(ranked(q=TOP), judgements, STORE)
    assert [row[0] for row in rows(found)["q"]] == ["p2", "p3", "p4", "p5"]
    assert (statistics.unlabelled, statistics.positives, statistics.not_drawn) == (1, 0, 4)


def test_the_limit_of_positives_makes_no_negatives():
    judgements = {"q": {"p1": 1, "p2": 3, "p3": 1, "p20": 1}}
    found, statistics = hard(positives=2).mine(ranked(q=TOP[:5]), judgements, STORE)
    assert rows(found)["q"] == [
        ("p2", Role.POSITIVE, 2, 3),
        ("p1", Role.POSITIVE, 1, 1),
        ("p4", Role.HARD, 4, 0),
        ("p5", Role.HARD, 5, 0),
    ]
    assert (statistics.positives_beyond_limit, statistics.known_positive) == (2, 3)


def test_random_passages_are_new_to_the_list():
    lists = {f"p{n}": TOP[:4] for n in range(1, 31)}
    judgements = {query: {"p39": 1, "p40": 0} for query in lists}
    found, statistics = hard(random=33, pool=4).mine(ranked(**lists), judgements, STORE)
    assert statistics.random == (found.role == Role.RANDOM).sum() > 30 * 30
    for one in found.lists():
        drawn = {c.passage_id for c in one.candidates() if c.role == Role.RANDOM}
        assert len(set(one.passage_ids)) == len(one.passage_ids)
        assert not drawn & {one.query_id, "p39"}
        outside = {c.passage_id for c in one.candidates() if c.role == Role.HARD} | {one.query_id, "p39"}
        assert len(drawn) == min(33, 40 - len(outside))
        assert all(c.rank == 0 and c.source == "random" for c in one.candidates() if c.role == Role.RANDOM)
    again, _ = hard(random=33, pool=4).mine(ranked(**lists), judgements, STORE)
    assert rows(again) == rows(found)


def test_random_alone():
    found, _ = hard(pool=0, random=3).mine(ranked(q=TOP), {"q": {"p1": 1}}, STORE)
    assert found.count_by_role() == {Role.POSITIVE: 1, Role.RANDOM: 3}


SCORES = {"p1": 9.0, "p2": 8.0, "p3": 7.5, "p4": 6.0, "p5": 11.0, "p6": 4.0, "p7": 7.0}


@pytest.mark.parametrize(
    ("margin", "shift", "kept"),
    [
        ({"absolute": 0}, 0, ["p3", "p4", "p6", "p7"]),
        ({"absolute": 1}, 0, ["p4", "p6", "p7"]),
        ({"relative": 0.9}, 0, ["p4", "p6", "p7"]),  # 7.2
        ({"relative": 0.5}, 0, ["p6"]),
        ({"relative": 0.5}, -12, ["p4", "p6"]),  # positive -4: those of at most -6
        ({"relative": 1}, 0, ["p3", "p4", "p6", "p7"]),
    ],
)
def test_margin_to_the_weakest_positive(margin, shift, kept):
    """Positives p1 (9) and p2 (8); every other is dropped that scores above the limit."""

    def score(candidates):
        return np.array([SCORES[one] + shift for one in candidates.passage_ids], np.float32)

    found, statistics = hard(margin=margin).mine(ranked(q=TOP[:7]), {"q": {"p1": 1, "p2": 1}}, STORE, score)
    assert found.passage_ids == ["p1", "p2", *kept]
    assert statistics.margin == 5 - len(kept)
    assert statistics.hard == len(kept)
    assert statistics.too_short == (len(kept) < 3)


def test_margin_asks_once_for_all_and_spares_queries_without_a_scored_positive():
    asked = []

    def score(candidates):
        asked.append(candidates.row_query_ids())
        scores = np.full(len(candidates), 5.0, np.float32)
        scores[[q == "b" and r == Role.POSITIVE for q, r in zip(asked[0], candidates.role, strict=True)]] = np.nan
        return scores

    lists = {"a": TOP[:3], "b": TOP[:3], "c": TOP[:3]}
    judgements = {"a": {"p20": 1}, "b": {"p20": 1}}
    found, statistics = hard(margin={"absolute": 0.5}, random=1).mine(ranked(**lists), judgements, STORE, score)
    sizes = {one.query_id: len(one.passage_ids) for one in found.lists()}
    assert sizes == {"a": 1, "b": 5, "c": 4}
    assert (statistics.margin, statistics.random_margin) == (3, 1)
    assert asked == [["a"] * 5 + ["b"] * 5 + ["c"] * 4]


def test_every_retrieved_passage_is_accounted_for():
    generator = np.random.default_rng(0)
    ids = [*STORE.all, "gone"]
    lists = {f"p{n}": generator.permutation(ids)[: generator.integers(0, 41)].tolist() for n in range(1, 40)}
    judgements = {query: {f"p{n}": int(n % 3) for n in generator.integers(1, 41, 4)} for query in list(lists)[:30]}

    def score(candidates):
        return np.random.default_rng(1).standard_normal(len(candidates)).astype(np.float32)

    _, s = hard(window=[3, 25], margin={"absolute": 0.1}).mine(ranked(**lists), judgements, STORE, score)
    parts = (s.outside_window, s.known_positive, s.identical, s.unknown, s.not_drawn, s.margin)
    assert min(parts) > 0
    assert s.retrieved == s.hard + sum(parts) == sum(map(len, lists.values()))
    text = "\n".join(s.lines())
    assert f"{s.known_positive:,} known positives" in text
    assert f"{s.margin:,} too close to the positive's teacher score" in text


def test_queries_that_the_run_cannot_answer_are_left_out():
    """One whose positive is the second passage found stays, one whose positive is the third or was not found goes."""
    judgements = {"a": {"p2": 1}, "b": {"p3": 1, "p1": 0}, "c": {"p30": 1}, "d": {}}
    lists = ranked(**dict.fromkeys("abcd", TOP))
    found, statistics = hard(consistent=2).mine(lists, judgements, STORE)
    assert found.query_ids == ["a"]
    assert statistics.inconsistent == 3
    assert "3 left out, no positive being among the first of the run" in "\n".join(statistics.lines())
    assert hard(consistent=3).mine(lists, judgements, STORE)[0].query_ids == ["a", "b"]
    with pytest.raises(UserError, match=r"negatives.consistent=11: the run is read to rank 10"):
        hard(consistent=11)


def test_queries_that_found_nothing():
    found, statistics = hard().mine(ranked(a=[], b=[]), {"a": {"p1": 1}, "c": {"p1": 1}}, STORE, mining_round=3)
    assert rows(found) == {"a": [("p1", Role.POSITIVE, 0, 1)]}
    assert found.round.tolist() == [3]
    assert (statistics.queries, statistics.without_list, statistics.judged_not_in_run) == (1, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": [0, 10]}, "negatives.window"),
        ({"window": [5, 4]}, r"not \[5, 4\]"),
        ({"window": [5]}, "negatives.window"),
        ({"pool": -1}, "negatives.pool must be at least 0, not -1"),
        ({"per_query": 0}, "negatives.per_query"),
        ({"positives": 0}, "negatives.positives"),
        ({"pool": 0}, "both 0"),
        ({"margin": {"percent": 5}}, "negatives.margin: null"),
        ({"margin": {}}, "negatives.margin: null"),
    ],
)
def test_bad_settings_name_their_key(changes, message):
    with pytest.raises(UserError, match=message):
        hard(**changes)


def test_a_margin_needs_a_teacher():
    with pytest.raises(UserError, match="needs a teacher that scores"):
        hard(margin={"absolute": 1}).mine(ranked(q=TOP), None, STORE)
