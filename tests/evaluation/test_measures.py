import subprocess
import sys

import numpy as np
import pytest
import pytrec_eval

from retrieval_kd.contracts import UserError
from retrieval_kd.data.runs import Run
from retrieval_kd.evaluation.measures import check_measures, measure
from retrieval_kd.evaluation.per_query import read_per_query, write_per_query

TREC = {
    "ndcg@10": ("ndcg_cut", "ndcg_cut_10"),
    "ndcg@3": ("ndcg_cut", "ndcg_cut_3"),
    "ndcg": ("ndcg", "ndcg"),
    "mrr": ("recip_rank", "recip_rank"),
    "map": ("map", "map"),
    "map@5": ("map_cut", "map_cut_5"),
    "map@1000": ("map_cut", "map_cut_1000"),
    "recall@100": ("recall", "recall_100"),
    "recall@5": ("recall", "recall_5"),
    "precision@10": ("P", "P_10"),
    "success@5": ("success", "success_5"),
    "hit_rate@1": ("success", "success_1"),
}


def trec_eval(run, judgements, names, level=1):
    asked = {TREC[name][1].replace("_cut_", "_cut.") for name in names}
    asked = {name if "cut" in name else name.replace("_", ".") if name[-1].isdigit() else name for name in asked}
    # A relevance below 0 is not relevant; pytrec_eval crashes on it.
    judgements = {query: {d: max(grade, 0) for d, grade in judged.items()} for query, judged in judgements.items()}
    results = pytrec_eval.RelevanceEvaluator(judgements, asked, relevance_level=level).evaluate(run)
    return {name: [results.get(query, {}).get(TREC[name][1], 0.0) for query in judgements] for name in names}


def collection(grades, levels, queries=40, passages=60):
    """Lists with ``levels`` distinct scores, some shorter than cutoffs; three queries lack a list, three judgements."""
    generator = np.random.default_rng(levels)
    run, judgements = {}, {}
    for query in range(queries):
        chosen = generator.choice(passages, generator.integers(1, passages), replace=False)
        scores = generator.integers(0, levels, len(chosen)) / 7
        run[f"q{query}"] = {f"d{d}": float(np.float32(score)) for d, score in zip(chosen, scores, strict=True)}
        judged = generator.choice(passages + 10, generator.integers(1, 25), replace=False)
        judgements[f"q{query + 3}"] = {f"d{d}": int(generator.choice(grades)) for d in judged}
    return run, judgements


@pytest.mark.parametrize("levels", [5, 10**6])
@pytest.mark.parametrize("grades", [(1,), (0, 1), (-2, -1, 0, 1, 2, 3)])
def test_numbers_are_those_of_trec_eval(grades, levels):
    run, judgements = collection(grades, levels)
    measured = measure(Run.from_dict(run), judgements, list(TREC))
    expected = trec_eval(run, judgements, list(TREC))
    assert measured.query_ids == tuple(judgements)
    assert measured.missing == 3
    for name in TREC:
        np.testing.assert_allclose(measured.values[name], expected[name], atol=1e-6, err_msg=name)
        assert measured.means()[name] == pytest.approx(np.mean(expected[name]))


def test_reciprocal_rank_at_10_is_that_of_the_list_cut_at_10():
    run, judgements = collection((0, 0, 0, 1), 5)
    measured = measure(Run.from_dict(run), judgements, ["mrr@10", "mrr"])
    expected = trec_eval(Run.from_dict(run).depth(10).as_dict(), judgements, ["mrr"])["mrr"]
    np.testing.assert_allclose(measured.values["mrr@10"], expected)
    assert (measured.values["mrr"] > measured.values["mrr@10"]).any()


def test_least_relevant_grade():
    run, judgements = collection((0, 1, 2, 3), 10**6)
    measured = measure(Run.from_dict(run), judgements, ["map-l2", "recall@5-l2"])
    expected = trec_eval(run, judgements, ["map", "recall@5"], level=2)
    np.testing.assert_allclose(measured.values["map-l2"], expected["map"])
    np.testing.assert_allclose(measured.values["recall@5-l2"], expected["recall@5"])


def test_by_hand():
    run = Run.from_dict({"q": {"a": 3.0, "b": 2.0, "c": 1.0}, "r": {"b": 1.0}})
    measured = measure(run, {"r": {"a": 1}, "q": {"b": 1, "c": 3, "z": 2}}, ["ndcg@2", "mrr@1", "precision@2"])
    ideal = 3 + 2 / np.log2(3)
    assert measured.by_query("ndcg@2") == {"r": 0.0, "q": pytest.approx(1 / np.log2(3) / ideal)}
    assert measured.means() == {"ndcg@2": pytest.approx(1 / np.log2(3) / ideal / 2), "mrr@1": 0.0, "precision@2": 0.25}


def test_a_query_that_is_itself_a_passage_takes_no_place():
    run = Run.from_dict({"q": {"q": 9.0, "a": 2.0, "b": 1.0}})
    judgements = {"q": {"a": 1, "b": 1}}
    assert measure(run, judgements, ["recall@2"]).means() == {"recall@2": 1.0}
    assert measure(run, judgements, ["recall@2"], keep_identical_ids=True).means() == {"recall@2": 0.5}
    alone = measure(Run.from_dict({"q": {"q": 9.0}}), {"q": {"q": 1}}, ["mrr", "recall"])
    assert alone.means() == {"mrr": 0.0, "recall": 0.0}


@pytest.mark.parametrize(
    ("name", "guess"),
    [("nDCG@10", "ndcg@10"), ("ncdg@10", "ndcg@10"), ("recal", "recall"), ("map@0", "map"), ("ndcg@10-l2", "ndcg")],
)
def test_unknown_measure_suggests_the_nearest(name, guess):
    with pytest.raises(UserError, match=f"{name}.* did you mean {guess}"):
        check_measures(["map", name])


def test_nothing_judged():
    with pytest.raises(UserError, match="no judged queries"):
        measure(Run.from_dict({}), {}, ["map"])


def test_values_by_query_read_back(tmp_path):
    path = tmp_path / "per_query.parquet"
    run = Run.from_dict({"q": {"a": 1.0, "b": 2.0}, "r": {"a": 1.0}})
    first = measure(run, {"r": {"a": 1}, "q": {"a": 1}}, ["mrr", "recall@1"])
    second = measure(run, {"q": {"b": 1}}, ["mrr"])
    write_per_query(path, {("one", "test"): first, ("one", "dev"): second})
    assert read_per_query(path, "one", "test", "mrr") == {"r": 1.0, "q": 0.5}
    assert read_per_query(path, "one", "dev", "mrr") == {"q": 1.0}
    with pytest.raises(UserError, match="recall@1 of one/dev"):
        read_per_query(path, "one", "dev", "recall@1")


def test_many_judged_passages_are_found_where_few_are():
    """Beyond a few they are found another way."""
    ids = [f"d{n}" for n in range(100)]
    run = {"q": {passage: float(100 - n) for n, passage in enumerate(ids)}}
    for judged in (3, 8, 9, 60):
        judgements = {"q": {passage: 1 + n % 3 for n, passage in enumerate(ids[:: 100 // judged][:judged])} | {"z": 2}}
        measured = measure(Run.from_dict(run), judgements, list(TREC))
        expected = trec_eval(run, judgements, list(TREC))
        for name in TREC:
            np.testing.assert_allclose(measured.values[name], expected[name], atol=1e-6, err_msg=f"{judged} {name}")


@pytest.mark.slow
def test_measuring_imports_the_kernels_alone_and_leaves_ranx_whole():
    code = """
import sys
from retrieval_kd.data.runs import Run
from retrieval_kd.evaluation.measures import measure
own = measure(Run.from_dict({"q": {"a": 2.0, "b": 1.0}}), {"q": {"b": 1}}, ["mrr", "recall@1"]).means()
print(own, sorted({"ranx", "pandas", "seaborn", "ir_datasets"} & set(sys.modules)))
import ranx
from ranx.metrics import reciprocal_rank
print(callable(ranx.evaluate), callable(ranx.Run), ranx.metrics.reciprocal_rank is reciprocal_rank)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600).stdout
    assert told.splitlines()[-2:] == ["{'mrr': 0.5, 'recall@1': 0.0} []", "True True True"]
