"""Several collections of ir_datasets in one configuration and one run."""

import json
import re

import pytest
from irds_case import WIKI
from omegaconf import open_dict
from run_case import metrics

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.evaluation.per_query import read_per_query
from retrieval_kd.pipeline.compose import changed, compose
from retrieval_kd.pipeline.entries import entries, means
from retrieval_kd.pipeline.explain import explain
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.run import train

BM25 = ("recipe=no_training", "engine=bm25")


@pytest.fixture(scope="module")
def of(irds):
    """The collections of a data option with some keys changed; composed once, for that takes its time."""
    base = compose(["data=beir", "encoder=tiny", "recipe=no_training"])

    def found(option, **changes):
        cfg = changed(base, {}, data=option)
        with open_dict(cfg):
            cfg.data.update(changes)
        return entries(cfg)

    return found


def labels(found):
    return [entry.label for entry in found.evaluate]


@pytest.mark.slow
def test_every_option_by_itself(of):
    assert labels(of("msmarco")) == ["msmarco/dev"]
    assert labels(of("msmarco", split=["dev", "dl19", "dl20"])) == ["msmarco/dev", "msmarco/dl19", "msmarco/dl20"]
    assert labels(of("beir")) == ["scifact/test"]
    assert labels(of("beir", name="msmarco")) == ["msmarco/dev"]
    assert labels(of("lotte")) == ["pooled/search", "pooled/forum"]
    assert labels(of("nq", name="squad")) == ["squad/test"]
    found = of("msmarco")
    assert (found.train[0].label, found.validation.label) == ("msmarco/train", "msmarco/dev")


@pytest.mark.slow
def test_groups_are_taken_apart_and_averaged(of):
    found = of("beir", name="cqadupstack")
    assert len(found.evaluate) == 12
    assert found.evaluate[2].label == "cqadupstack-gaming/test"
    assert found.train == ()
    of_means = means(found.evaluate)
    assert list(of_means) == [("cqadupstack", "test")]
    assert len(of_means["cqadupstack", "test"]) == 12
    assert len(of("beir", name="beir-13").evaluate) == 13
    topics = means(of("lotte", name="topics").evaluate)
    assert list(topics) == [("topics", "search"), ("topics", "forum")]


@pytest.mark.slow
def test_entries_may_be_of_another_option(of):
    cqadupstack = {"data": "beir", "name": "cqadupstack", "titles": False}
    found = of(
        "msmarco",
        limit={"queries": 2, "passages": 9},
        evaluate={"dl19": {"split": "dl19"}, "arguana": {"data": "beir"}, "cqa": cqadupstack},
    )
    assert found.train[0].label == "msmarco/train"
    assert labels(found)[:3] == ["dl19/dl19", "arguana/test", "cqadupstack-android/test"]
    assert all(entry.data["limit"] == {"queries": 2, "passages": 9} for entry in found.evaluate)
    assert [entry.data["titles"] for entry in found.evaluate][:3] == [False, True, False]
    assert means(found.evaluate)["mean", "all"] == [("dl19", "dl19"), ("arguana", "test"), ("cqa", "test")]


def test_a_limit_by_split_is_carried_as_far_as_there_are_such_splits(of):
    both = {"train": 5, "dev": 2}
    other = {"arguana": {"data": "beir"}, "scifact": {"data": "beir"}, "own": {}}
    found = of("msmarco", limit={"queries": both, "passages": 9}, evaluate=other)
    assert [entry.data["limit"]["queries"] for entry in found.evaluate] == [None, {"train": 5}, both]
    assert {entry.data["limit"]["passages"] for entry in found.evaluate} == {9}
    said = {"arguana": {"data": "beir", "limit": {"queries": {"dev": 1}}}}
    wrong = of("msmarco", limit={"queries": None, "passages": 9}, evaluate=said).evaluate[0]
    with pytest.raises(UserError, match=r"data.limit.queries: arguana has no split 'dev'"):
        _ = wrong.key


@pytest.mark.slow
def test_numbers_of_queries_and_passages_are_not_compared(irds, tmp_path):
    mixed = "scifact: {}, dl: {data: msmarco, split: dl19}, lotte: {data: lotte, name: pooled, split: forum}"
    plan = Plan(compose(["data=beir", f"data.evaluate={{{mixed}}}", *BM25, f"store={tmp_path}"]))
    assert [plan.run(entry).config["identical"] for entry in plan.entries.evaluate] == [True, False, False]
    measured = [plan.evaluated(entry).config["evaluation"] for entry in plan.entries.evaluate]
    assert [one["ignore_identical_ids"] for one in measured] == [True, False, False]


def test_splits_of_one_collection_have_no_mean(of):
    assert means(of("msmarco", split=["dev", "dl19"]).evaluate) == {}


def test_lengths_of_each_collection(of):
    evaluate = {"arguana": {}, "scifact": {"lengths": {"passage": "180"}}, "nq": {"lengths": {"passage": None}}}
    lengths = [entry.lengths for entry in of("beir", evaluate=evaluate).evaluate]
    assert lengths == [{Side.QUERY: 300, Side.PASSAGE: 300}, {Side.PASSAGE: 180}, {}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "changes", "message"),
    [
        ("beir", {"name": "scifacts"}, "data.name=scifacts: BEIR has no such set; did you mean scifact? There are"),
        ("beir", {"split": "dev"}, "data.split=dev: scifact has train, test"),
        ("msmarco", {"split": ["dev", "tset"]}, "data.split=tset: msmarco has train, dev, dl19, dl20"),
        ("beir", {"evaluate": {"a": {"data": "bier"}}}, "data.evaluate.a.data=bier: data has the options beir, folder"),
        ("beir", {"evaluate": {"a": {"nam": "x"}}}, "data.evaluate.a.nam: there is no such key; did you mean name?"),
        ("beir", {"name": "a", "groups": {"a": ["b"], "b": ["quora"]}}, "data.groups.a: b is a group itself"),
        (
            "beir",
            {"name": "all", "groups": {"all": ["msmarco", "scifact"]}},
            "data.split=null: of all, msmarco would be read on dev and scifact on test, and have no mean; name a split",
        ),
        ("beir", {"evaluate": {"scifact": {}, "beir-13": {}}}, "data.evaluate: scifact/test stands there 2 times"),
    ],
)
def test_mistakes_name_the_key(of, option, changes, message):
    with pytest.raises(UserError) as caught:
        of(option, **changes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("given", ["long", 0, -3, "1.5"])
def test_lengths_must_be_numbers(of, given):
    found = of("beir", lengths={"query": given})
    with pytest.raises(UserError, match=rf"data.lengths.query={given}: a number of tokens, own"):
        _ = found.evaluate[0].lengths


@pytest.mark.slow
def test_lengths_decide_what_is_encoded_and_searched(irds, tmp_path):
    def keys(*overrides):
        plan = Plan(compose(["data=beir", "recipe=no_training", "encoder=tiny", f"store={tmp_path}", *overrides]))
        entry = plan.entries.evaluate[0]
        return plan.encoded(entry).key, plan.run(entry).key

    own, other, queries = keys(), keys("data.lengths.passage=200"), keys("data.lengths.query=200")
    assert own[0] != other[0]
    assert own[0] == queries[0]
    assert own[1] != queries[1]


@pytest.mark.slow
def test_explain_tells_what_would_be_fetched_and_fetches_nothing(irds):
    told = explain(compose(["data=beir", "data.name=fiqa", "encoder=tiny"]))
    assert "fiqa was not fetched yet" in told
    assert f"tofetch{irds}/beir/fiqa/source.zip(18MB)" in "".join(told.split())
    assert not (irds / "beir" / "fiqa").exists()
    several = "data.evaluate={dl: {split: [dl19,dl20]}, quora: {data: beir}}"
    mixed = explain(compose(["data=msmarco", "data.split=[dev,dl19]", several, "encoder=tiny"]))
    assert "dl/dl20" in mixed
    assert re.search(r"quora[\w, ]* not fetched yet", " ".join(mixed.split()))


@pytest.mark.slow
def test_a_run_over_several_collections_with_their_means(irds, tmp_path):
    said = "data.evaluate={scifact: {}, cqadupstack: {}, lotte: {data: lotte, name: pooled, split: search}}"
    folder = train(compose(["data=beir", said, *BM25, f"store={tmp_path / 'store'}", f"output_dir={tmp_path / 'run'}"]))
    found = metrics(folder)["collections"]
    assert len(found) == 1 + 12 + 1 + 2
    forums = [found[f"cqadupstack-{forum}/test"]["measures"]["ndcg@10"] for forum in ("android", "wordpress")]
    assert all(0 < value <= 1 for value in forums)
    assert found["cqadupstack/test"]["queries"] == 48
    assert "success@5" in found["lotte/search"]["measures"]
    assert "success@5" not in found["mean/all"]["measures"]
    shown = [found[label]["measures"]["ndcg@10"] for label in ("scifact/test", "cqadupstack/test", "lotte/search")]
    assert found["mean/all"]["measures"]["ndcg@10"] == pytest.approx(sum(shown) / 3, abs=1e-5)
    assert found["mean/all"]["mean_of"] == ["scifact/test", "cqadupstack/test", "lotte/search"]
    by_query = read_per_query(folder / "per_query.parquet", "mean", "all", "ndcg@10")
    assert sum(by_query.values()) / len(by_query) == pytest.approx(sum(shown) / 3, abs=1e-5)


@pytest.mark.slow
def test_questions_are_measured_by_their_answers(irds, tmp_path):
    folder = train(compose(["data=nq", *BM25, f"store={tmp_path / 'store'}", f"output_dir={tmp_path / 'run'}"]))
    result = metrics(folder)["collections"]["nq/test"]
    assert result["queries"] == 3
    assert list(result["measures"]) == ["answers@5", "answers@20", "answers@100"]
    # The title of the second passage holds no answer, its text does; "happened there" is nowhere.
    assert WIKI[1][2].startswith('"Café')
    assert result["measures"]["answers@100"] == pytest.approx(2 / 3, abs=1e-5)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert list(manifest["inputs"]) == ["nq/test"]


@pytest.mark.slow
def test_a_student_reads_longer_texts_where_the_collection_says_so(irds, tmp_path):
    common = ["data=beir", "data.name=arguana", "recipe=no_training", "encoder=tiny", f"store={tmp_path / 'store'}"]
    common += ["student.passage.max_length=4", "student.query.max_length=4"]
    long = metrics(train(compose([*common, f"output_dir={tmp_path / 'long'}"])))["collections"]["arguana/test"]
    said = "data.lengths={query: null, passage: null}"
    short = metrics(train(compose([*common, said, f"output_dir={tmp_path / 'short'}"])))["collections"]["arguana/test"]
    assert long["measures"] != short["measures"]


def test_a_measure_of_answers_needs_answers(irds):
    from retrieval_kd.pipeline.run import step

    with pytest.raises(
        UserError, match=r"evaluation.measures: answers@20 is of questions with answers, and scifact/test"
    ):
        step(compose(["data=beir", *BM25, "evaluation.measures=[answers@20]"]), "evaluate")


def test_a_collections_own_measure_of_answers_needs_them_too(of):
    with pytest.raises(UserError, match=r"data.measures: answers@5 is of questions with answers, and scifact/test"):
        of("beir", measures=["answers@5"]).evaluate[0].check_measures([])
    of("nq").evaluate[0].check_measures(["answers@20"])
