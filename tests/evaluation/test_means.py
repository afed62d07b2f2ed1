import numpy as np
import pytest

from retrieval_kd.evaluation.means import mean_of, with_means
from retrieval_kd.evaluation.measures import Measured
from retrieval_kd.evaluation.per_query import join_per_query, read_per_query, write_per_query


def test_each_collection_counts_the_same():
    one = {"queries": 10, "measures": {"ndcg@10": 0.4, "map": 0.1}}
    other = {"queries": 90, "measures": {"ndcg@10": 0.8}}
    assert mean_of([one, other]) == {"queries": 100, "measures": {"ndcg@10": pytest.approx(0.6)}}


def test_means_may_be_of_means():
    results = {
        name: {"queries": 1, "measures": {"map": value}} for name, value in {"a": 0.2, "b": 0.4, "c": 0.9}.items()
    }
    found = with_means(results, {"ab/t": ["a", "b"], "mean/all": ["ab/t", "c"]})
    assert list(found) == ["a", "b", "c", "ab/t", "mean/all"]
    assert found["mean/all"] == {"queries": 3, "measures": {"map": 0.6}, "mean_of": ["ab/t", "c"]}


def test_weighted_queries_have_the_mean_over_collections(tmp_path):
    draw = np.random.default_rng(0)
    parts, values = {}, {}
    for name, size in {"small": 3, "large": 40, "other": 7}.items():
        values[name] = draw.random(size)
        measured = Measured(tuple(f"q{row}" for row in range(size)), {"map": values[name], name: values[name]}, 0)
        parts[name, "test"] = tmp_path / name
        write_per_query(parts[name, "test"], {("was", "called"): measured})
    means = {
        ("two", "test"): [("small", "test"), ("large", "test")],
        ("mean", "all"): [("two", "test"), ("other", "test")],
    }
    join_per_query(parts, tmp_path / "joined", means)
    two = read_per_query(tmp_path / "joined", "two", "test", "map")
    assert len(two) == 43
    expected = (values["small"].mean() + values["large"].mean()) / 2
    assert np.mean(list(two.values())) == pytest.approx(expected)
    every = read_per_query(tmp_path / "joined", "mean", "all", "map")
    assert np.mean(list(every.values())) == pytest.approx((expected + values["other"].mean()) / 2)
    assert {"other:q0", "two:small:q2"} <= set(every)
    assert read_per_query(tmp_path / "joined", "small", "test", "map")["q0"] == values["small"][0]
    with pytest.raises(Exception, match="holds no small of mean/all"):
        read_per_query(tmp_path / "joined", "mean", "all", "small")
