"""Times of answers: what is computed of them by a clock that the answers move, and who is asked when."""

import gc
import json
import threading
from collections import Counter

import pytest

from retrieval_kd.evaluation import latency
from retrieval_kd.evaluation.latency import Latency, Load, Settings, measure, ratios

TEXTS = [f"query {number}" for number in range(200)]
ALONE = Settings(clients=(1,), passes=3, warm_up=0)


@pytest.fixture(autouse=True)
def _little_to_collect():
    """Each measurement begins with a garbage collection, of the whole suite's objects."""
    gc.freeze()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless somebody moves it."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(latency, "perf_counter", lambda: Clock.now)
    return Clock


def milliseconds(text):
    return float(text.split()[1]) + 1  # 1 to 200


def test_figures_of_known_times(clock):
    def answer(text):
        clock.now += milliseconds(text) / 1e3

    found = measure({"ours": answer}, TEXTS, ALONE)[0]
    load = found.loads[0]
    assert (found.name, found.queries, found.passes, load.clients) == ("ours", 200, 3, 1)
    assert load.p50_ms == pytest.approx(100)
    assert load.p99_ms == pytest.approx(198)  # 1 % of 200 answers, two of them, took longer
    assert load.mean_ms == pytest.approx(100.5)
    assert load.slowest_ms == pytest.approx(200)
    assert load.queries_per_second == pytest.approx(1e3 / 100.5)
    assert load.p50_ms_by_pass == pytest.approx((100,) * 3)
    assert load.p99_ms_by_pass == pytest.approx((198,) * 3)


def test_first_answers_and_warm_up_are_not_timed(clock):
    slow = Counter()

    def answer(text):
        slow[text] += 1
        clock.now += 1.0 if slow[text] == 1 else 0.001  # compiles, reads, allocates

    load = measure({"ours": answer}, TEXTS, Settings(clients=(1,), passes=2, warm_up=5))[0].loads[0]
    assert load.slowest_ms == pytest.approx(1)
    assert sum(slow.values()) == len(TEXTS) + 2 * (len(TEXTS) + 5)


def test_a_machine_that_slows_down_is_in_no_ratio(clock):
    """Every answer makes the next one slower; systems that are timed by turns share the drift."""
    steps = [0]

    def takes(relative):
        def answer(text):
            steps[0] += 1
            clock.now += relative * (1 + steps[0] / 1e5)

        return answer

    found = measure({"one": takes(1.0), "two": takes(2.0)}, TEXTS[:50], Settings(clients=(1,), passes=9, warm_up=0))
    assert found[0].loads[0].p50_ms_by_pass[-1] > found[0].loads[0].p50_ms_by_pass[0]
    told = ratios(found[1], found[0])
    assert told["p50"].median == pytest.approx(2, rel=2e-3)
    assert told["p50"].lowest <= told["p50"].median <= told["p50"].highest


def test_ratios_are_taken_round_by_round():
    def system(p99):
        load = Load(2, 1.0, 1.0, 1.0, 1.0, 1.0, (1.0,) * 3, p99)
        return Latency("x", 1, 3, 0, (Load(1, 1.0, 1.0, 1.0, 1.0, 1.0, (9.0,) * 3, (9.0,) * 3), load))

    found = ratios(system((2.0, 8.0, 3.0)), system((1.0, 2.0, 2.0)), clients=2)
    assert found["p99"] == (2.0, 1.5, 4.0)
    assert found["p50"] == (1.0, 1.0, 1.0)


def passes_of(seed):
    """What the systems were asked in timed passes: (system, queries) pass by pass."""
    asked = []
    systems = {name: lambda text, name=name: asked.append((name, text)) for name in "abc"}
    measure(systems, TEXTS[:20], Settings(clients=(1,), passes=6, warm_up=0, seed=seed))
    timed = asked[3 * 20 :]
    return [(timed[start][0], timed[start : start + 20]) for start in range(0, len(timed), 20)]


@pytest.mark.slow
def test_systems_take_turns_by_whole_passes_in_random_order():
    passes = passes_of(seed=1)
    orders, turns = [], []
    for start in range(0, len(passes), 3):
        of_round = passes[start : start + 3]
        assert all({name for name, _ in asked} == {whose} for whose, asked in of_round)  # nobody in between
        orders.append([[text for _, text in asked] for _, asked in of_round])
        turns.append("".join(whose for whose, _ in of_round))
        assert sorted(turns[-1]) == ["a", "b", "c"]
        assert orders[-1][0] == orders[-1][1] == orders[-1][2]  # the same queries in the same order
        assert sorted(orders[-1][0]) == sorted(TEXTS[:20])
    assert len({tuple(order[0]) for order in orders}) == len(orders)
    assert len(set(turns)) > 1
    assert passes == passes_of(seed=1)
    assert passes != passes_of(seed=2)


def test_several_clients_ask_at_once_and_each_query_once():
    together = threading.Barrier(3)
    asked = []

    def answer(text):
        asked.append(text)
        if threading.current_thread().name.startswith("client"):
            together.wait(timeout=10)  # goes on only when three clients are here: one after the other would time out

    found = measure({"ours": answer}, TEXTS[:30], Settings(clients=(3,), passes=2, warm_up=1))[0]
    assert Counter(asked[30:36]).most_common(1)[0][1] == 3  # every client warms up on the same query
    counts = Counter(asked)
    assert sum(counts.values()) == 30 + 2 * (30 + 3)
    assert found.loads[0].clients == 3
    assert found.loads[0].queries_per_second > 0


def test_nothing_is_collected_while_timing():
    assert gc.isenabled()
    seen = []
    measure({"ours": lambda text: seen.append(gc.isenabled())}, TEXTS[:5], ALONE)
    assert seen == [True] * 5 + [False] * 15
    assert gc.isenabled()


@pytest.mark.parametrize("number", [3, 13, 25])  # of the answer: in the first pass, in the warm-up, timed
def test_a_failing_answer_stops_all_clients(number):
    asked = []

    def answer(text):
        asked.append(text)
        if len(asked) == number:
            raise IndexError("no such row")  # what an empty queue of queries raises too

    with pytest.raises(IndexError, match="no such row"):
        measure({"ours": answer}, TEXTS[:10], Settings(clients=(2,), passes=1, warm_up=4))
    assert len(asked) < 10 + 8 + 10
    assert gc.isenabled()


def test_becomes_json():
    found = measure({"ours": lambda text: text}, TEXTS[:5], Settings(clients=(1, 2), passes=1, warm_up=1))[0]
    told = json.loads(json.dumps(found.as_json()))
    assert [load["clients"] for load in told["loads"]] == [1, 2]
    assert told["loads"][0]["p99_ms"] == found.loads[0].p99_ms
    assert set(found.columns()) == {
        *("latency_p50_ms", "latency_p99_ms", "queries_per_second"),
        *("latency_p50_ms_2_clients", "latency_p99_ms_2_clients", "queries_per_second_2_clients"),
    }


def test_nothing_to_time_is_refused():
    with pytest.raises(ValueError, match="0 queries"):
        measure({"ours": str}, [])
    with pytest.raises(ValueError, match="at least one client"):
        Settings(clients=())
