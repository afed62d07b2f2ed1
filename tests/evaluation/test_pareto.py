"""Which points no other beats, against a look at every pair; and runs' folders as points."""

import json

import numpy as np
import pytest
import yaml

from retrieval_kd.contracts import UserError
from retrieval_kd.evaluation.measures import Measured
from retrieval_kd.evaluation.pareto import Point, as_json, as_markdown, measured_point, read_runs, standings
from retrieval_kd.evaluation.per_query import write_per_query

CELL = "docs/test ndcg@10"


def point(name, quality, flops=None, p99=None, **more):
    given = {"flops": flops, "latency_p99_ms": p99}
    return Point(name, quality, {key: value for key, value in given.items() if value is not None}, **more)


@pytest.mark.parametrize("seed", range(20))
def test_front_is_what_nobody_beats(seed):
    """On a coarse grid, so that equal qualities, equal costs and equal points are there too."""
    generator = np.random.default_rng(seed)
    grid = generator.integers(0, 6, (25, 2))
    points = [point(str(number), quality / 10, flops=float(cost)) for number, (quality, cost) in enumerate(grid)]

    def beats(one, other):
        better = one.quality > other.quality or one.costs["flops"] < other.costs["flops"]
        return better and one.quality >= other.quality and one.costs["flops"] <= other.costs["flops"]

    front = {one.name for one in points if not any(beats(other, one) for other in points)}
    stands = standings(points, "flops")
    assert {one.point.name for one in stands if one.on_front} == front
    assert sorted(one.point.name for one in stands) == sorted(one.name for one in points)
    for one in stands:
        expected = {other.name for other in points if beats(other, one.point)} & front
        assert set(one.beaten_by) == expected
        by_name = {other.name: other for other in points}
        assert [by_name[name].quality for name in one.beaten_by] == sorted(
            (by_name[name].quality for name in one.beaten_by), reverse=True
        )


def test_published_points_neither_beat_nor_are_beaten():
    points = [point("ours", 0.5, 2.0), point("theirs", 0.6, 1.0, source="a paper"), point("weak", 0.4, 3.0)]
    stands = {one.point.name: one.beaten_by for one in standings(points, "flops")}
    assert stands == {"ours": (), "weak": ("ours",)}


def test_each_cost_has_its_own_front():
    points = [
        point("cheap", 0.5, 1.0, 9.0, interval=(0.45, 0.56)),
        point("fast", 0.5, 3.0, 2.0),
        point("best", 0.6, 4.0, 5.0),
        point("BM25", 0.4, p99=1.5),
        point("theirs", 0.55, flops=1.8, source="a card"),
    ]
    costs = ("flops", "latency_p99_ms")
    lines = as_markdown(points, costs, "ndcg@10", ["A note."]).splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:7]}
    assert cells["cheap"] == ["0.500", "[0.450, 0.560]", "1.00", "front", "9.00", "beaten by best and 1 more"]
    assert cells["fast"] == ["0.500", "", "3.00", "beaten by cheap", "2.00", "front"]
    assert cells["BM25"] == ["0.400", "", "", "", "1.50", "front"]
    assert cells["theirs"] == ["0.550", "", "1.80", "published: a card", "", ""]
    assert len({len(line) for line in lines[:7]}) == 1
    assert lines[-1] == "A note."
    told = json.loads(json.dumps(as_json(points, costs, "ndcg@10", {"queries": 5})))
    assert told["queries"] == 5
    assert told["costs"]["flops"] == {"front": ["cheap", "best"], "beaten": {"fast": ["cheap"]}}
    assert told["costs"]["latency_p99_ms"] == {"front": ["BM25", "fast", "best"], "beaten": {"cheap": ["best", "fast"]}}
    assert told["points"][0]["interval"] == [0.45, 0.56]
    assert told["points"][4]["source"] == "a card"


def test_interval_is_of_the_mean_over_queries_and_seeds():
    generator = np.random.default_rng(0)
    values = generator.normal(0.5, 0.2, (3, 2000))
    seeds = [{str(query): value for query, value in enumerate(seed)} for seed in values]
    found = measured_point("ours", seeds, {})
    error = values.mean(0).std() / np.sqrt(2000)
    assert found.quality == pytest.approx(values.mean())
    assert found.interval == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=error / 5)
    with pytest.raises(UserError, match="ours: its seeds"):
        measured_point("ours", [seeds[0], {"0": 0.1}], {})


def write_run(folder, overrides, values=(0.2, 0.6), cost=None, hardware="cpu"):
    folder.mkdir(parents=True)
    queries = tuple(str(query) for query in range(len(values)))
    write_per_query(
        folder / "per_query.parquet", {("docs", "test"): Measured(queries, {"ndcg@10": np.array(values)}, 0)}
    )
    measures = {"ndcg@10": float(np.mean(values))}
    metrics = {"collections": {"docs/test": {"queries": len(values), "measures": measures}}, "cost": cost or {}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "manifest.json").write_text(json.dumps({"hardware": {"accelerator": hardware}}))
    (folder / "resolved.yaml").write_text(yaml.safe_dump({"overrides": overrides}))
    return folder


def test_runs_are_named_by_what_they_differ_in(tmp_path):
    same = ["experiment=sparse", f"output_dir={tmp_path}"]
    write_run(tmp_path / "a", [*same, "regularizer.weight=0.1", "objective.kl.weight=1"], cost={"flops": 3.5})
    write_run(tmp_path / "b", [*same, "regularizer.weight=0.2", "objective.kl.weight=1"], cost={"flops": 2})
    write_run(tmp_path / "c", [*same, "regularizer.weight=0.2", "+objective.kl.weight=2"], cost={"flops": None})
    (tmp_path / "unfinished").mkdir()
    found = read_runs([tmp_path])
    assert {one.name: one.costs for one in found.points} == {
        "regularizer.weight=0.1 kl.weight=1": {"flops": 3.5},
        "regularizer.weight=0.2 kl.weight=1": {"flops": 2},
        "regularizer.weight=0.2 kl.weight=2": {},
    }
    assert (found.cell, found.queries, found.hardware) == (CELL, 2, {"accelerator": "cpu"})
    assert found.points[0].quality == pytest.approx(0.4)
    assert [one.name for one in read_runs([tmp_path / "a", tmp_path / "b", tmp_path / "a"]).points] == [
        "weight=0.1",
        "weight=0.2",
    ]
    assert [one.name for one in read_runs([tmp_path / "a"]).points] == ["a"]


def test_seeds_are_one_point(tmp_path):
    for seed, (values, flops) in enumerate([((0.1, 0.5), 2.0), ((0.3, 0.9), 4.0)]):
        write_run(tmp_path / f"{seed}", [f"seed={seed}", "lr=1"], values, {"flops": flops})
    write_run(tmp_path / "2", ["seed=0", "lr=2"], (0.5, 0.5), {"flops": 1.0})
    points = {one.name: one for one in read_runs([tmp_path]).points}
    assert list(points) == ["lr=1", "lr=2"]
    assert points["lr=1"].quality == pytest.approx(0.45)
    assert points["lr=1"].costs == {"flops": 3.0}
    assert points["lr=1"].interval == pytest.approx((0.2, 0.7))  # one of the two queries, drawn twice
    write_run(tmp_path / "again", ["seed=0", "lr=2"])
    with pytest.raises(UserError, match=r"2 and .*again are runs of the same overrides \(lr=2\)"):
        read_runs([tmp_path])


def test_runs_that_cannot_be_compared_are_told(tmp_path):
    write_run(tmp_path / "a", ["lr=1"], cost={"latency_p99_ms": 1.0, "flops": 1.0})
    write_run(tmp_path / "b", ["lr=2"], cost={"latency_p99_ms": 2.0, "flops": 2.0}, hardware="NVIDIA")
    with pytest.raises(UserError, match=r"latency_p99_ms was measured on different machines: .*/a .*/b"):
        read_runs([tmp_path])
    assert len(read_runs([tmp_path], costs=["flops"]).points) == 2
    with pytest.raises(UserError, match="holds no mrr@10 of docs/test"):
        read_runs([tmp_path], "docs/test mrr@10", ["flops"])
    write_run(tmp_path / "c", ["lr=3"], (0.1, 0.2, 0.3))
    with pytest.raises(UserError, match="lr=3 and lr=1 were not measured on the same queries of docs/test"):
        read_runs([tmp_path], costs=["flops"])
    with pytest.raises(UserError, match="no run's folder"):
        read_runs([tmp_path / "nowhere"])
    (tmp_path / "c" / "resolved.yaml").unlink()
    with pytest.raises(UserError, match="c: not the complete folder of a run"):
        read_runs([tmp_path])
