"""The sparse student through the whole pipeline, with a tiny encoder."""

import json

import numpy as np
import pytest

from retrieval_kd.cli.main import main
from retrieval_kd.contracts import UserError
from retrieval_kd.data.representations import StoredRepresentations
from retrieval_kd.data.runs import Run
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.run import step, train

pytestmark = pytest.mark.slow  # the kernels of the engine compile for half a minute, once for each machine

SPARSE = ("experiment=inference_free_sparse", "student.start_terms=12", "trainer.log_every=1")


def go(*overrides):
    return train(compose(list(overrides)))


@pytest.fixture(scope="module")
def trained(small, ensemble, tmp_path_factory):
    return go(*small, *ensemble, *SPARSE, f"output_dir={tmp_path_factory.mktemp('sparse') / 'run'}")


def test_costs_stand_beside_quality(trained):
    cost = json.loads((trained / "metrics.json").read_text())["cost"]
    assert cost["train_steps"] == 3
    assert 0 < cost["flops"] < cost["query_terms_mean"]
    assert cost["passage_terms_mean"] > 1
    assert cost["index_bytes"] > 0
    assert "train/passage_terms" in (trained / "log.csv").read_text().splitlines()[0].split(",")


def test_the_run_is_the_product_of_what_was_stored(trained, small, ensemble):
    plan = Plan(compose([*small, *ensemble, *SPARSE]))
    entry = plan.entries.evaluate[0]
    stored = StoredRepresentations.open(plan.encoded(entry).path / "passages")
    dense = np.zeros((len(stored), 1 + stored.arrays["terms"].max()))
    rows = np.repeat(np.arange(len(stored)), np.diff(stored.arrays["offsets"]))
    dense[rows, stored.arrays["terms"]] = stored.arrays["weights"]
    queries = plan.parts.student(plan.trained).query_terms(list(entry.collection.queries.values()))
    run = Run.read(trained / "runs" / "things.test.trec").as_dict()
    for row, query_id in enumerate(entry.collection.queries):
        terms, weights = (queries[name][row][: queries["lengths"][row]].numpy() for name in ("terms", "weights"))
        kept = terms < dense.shape[1]
        scores = dense[:, terms[kept]] @ weights[kept]
        found = {stored.ids[place]: score for place, score in enumerate(scores) if score > 0}
        assert run[query_id] == pytest.approx(found, rel=1e-5)


def test_the_folder_scores_the_same_in_sentence_transformers(trained, things):
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(trained / "model"), device="cpu")
    corpus = [json.loads(line) for line in (things / "corpus.jsonl").read_text().splitlines()]
    queries = {one["_id"]: one["text"] for one in map(json.loads, (things / "queries.jsonl").read_text().splitlines())}
    passages = model.encode_document([f"{one['title']} {one['text']}" for one in corpus]).to_dense()
    run = Run.read(trained / "runs" / "things.test.trec").as_dict()
    for query_id, found in run.items():
        scores = passages @ model.encode_query([queries[query_id]]).to_dense()[0]
        expected = {one["_id"]: float(score) for one, score in zip(corpus, scores, strict=True) if score > 0}
        assert found == pytest.approx(expected, rel=1e-4)


def test_a_student_is_read_back_from_its_folder(trained, small):
    """By its folder alone: ``student=dense`` is what the config says."""
    again = train(compose([*small, f"model={trained}", f"output_dir={trained.parent / 'again'}"]))
    runs = [Run.read(folder / "runs" / "things.test.trec").as_dict() for folder in (trained, again)]
    assert runs[0].keys() == runs[1].keys()
    for query_id, found in runs[0].items():
        assert found == pytest.approx(runs[1][query_id], rel=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ("regularizer=target", "regularizer.terms=6"),
        ("regularizer=l0", "regularizer.threshold=3", "student.logs=2"),
        ("regularizer=df_flops", "regularizer.every=1", "regularizer.reduction=by_position"),
        ("regularizer=flops_over_idf", "student.query_weights=binary"),
        ("student.query_weights=learned", "regularizer.query_weight=0"),
        ("student.query_weights=encoder", "regularizer.query_weight=0.1"),
        ("teacher.in_batch=true",),
        ("+scorer@teacher.members.own=student", "teacher.members.own.encoder.name={trained}"),
        ("recipe=two_stage", "trainer.max_steps=1"),
        ("trainer.gradient_cache=true", "trainer.accumulate=2", "trainer.validate_every=1", "trainer.select=best"),
    ],
)
def test_every_choice_trains(small, ensemble, trained, tmp_path, overrides):
    overrides = [one.format(trained=trained) for one in overrides]
    folder = go(*small, *ensemble, *SPARSE, *overrides, f"output_dir={tmp_path / 'run'}")
    logged = (folder / "log.csv").read_text().splitlines()[0].split(",")
    assert ("train/target_aim" in logged) == ("regularizer=target" in overrides)
    found = json.loads((folder / "metrics.json").read_text())
    assert found["collections"]["things/test"]["measures"]["ndcg@10"] > 0


def test_untrained_students_start_from_the_collection(small):
    plan = Plan(compose([*small, "experiment=inference_free_sparse", "student.start_terms=9", "recipe=no_training"]))
    record = plan.student_run(plan.entries.evaluate[0]).record()
    assert record["passage_terms_mean"] == pytest.approx(9, abs=0.1)
    assert "weigh" in {one.name for one in plan.results()[0].walk()}


def test_a_trained_student_is_pruned_where_it_is_said(trained, small):
    """By the command line, and not by the option's default."""
    lengths = []
    for said in ((), ("student.prune=0.9",)):
        plan = Plan(compose([*small, "student=sparse", f"model={trained}", *said]))
        encoded = plan.encoded(plan.entries.evaluate[0]).make()
        lengths.append(np.diff(StoredRepresentations.open(encoded / "passages").arrays["offsets"]).sum())
    assert 0 < lengths[1] < lengths[0]


def test_weights_of_a_file_are_taken(small, tmp_path):
    plan = Plan(compose([*small, *SPARSE, "recipe=no_training"]))
    table = plan.weighed(plan.entries.train[0]).make() / "idf.json"
    doubled = {token: 2 * weight for token, weight in json.loads(table.read_text()).items()}
    given = tmp_path / "table.json"
    given.write_text(json.dumps(doubled))
    of_file = ("student.query_weights=file", f"student.token_weights={given}")
    other = Plan(compose([*small, *SPARSE, *of_file, "recipe=no_training"]))
    assert "weigh" not in {one.name for one in other.results()[0].walk()}
    one, two = (Run.read(p.student_run(p.entries.evaluate[0]).make() / "run.trec").as_dict() for p in (plan, other))
    for query_id, found in one.items():
        assert two[query_id] == pytest.approx({passage: 2 * score for passage, score in found.items()}, rel=1e-5)


def test_another_collection_is_searched_with_its_own_weights(small, tmp_path):
    """Its passages are encoded once, whichever weights queries have."""
    other = tmp_path / "other"
    (other / "qrels").mkdir(parents=True)
    words = ["red stones", "red red leaves", "green leaves", "red wine", "blue glass"]
    passages = [{"_id": f"p{number}", "title": "", "text": text} for number, text in enumerate(words)]
    (other / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in passages))
    (other / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "red leaves"}) + "\n")
    (other / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp1\t1\n")
    start = (*small, *SPARSE, "recipe=no_training", f"data.evaluate={{other: {{path: {other}, split: test}}}}")
    plans = [Plan(compose([*start, f"student.refit={refit}"])) for refit in ("false", "true")]
    entry = plans[0].entries.evaluate[0]
    assert plans[0].encoded(entry).key == plans[1].encoded(entry).key
    runs = [Run.read(plan.student_run(entry).make() / "run.trec").as_dict()["q"] for plan in plans]
    assert runs[0].keys() == runs[1].keys()
    assert runs[0] != pytest.approx(runs[1], rel=1e-3)
    student = plans[0].parts.student(None)
    table = np.load(plans[1].weighed(entry).make() / "weights.npy")
    asked = student.refitted(table).query_terms(["red leaves"])
    assert asked["weights"][0].numpy() == pytest.approx(table[asked["terms"][0].numpy()])
    before = plans[0].parts.student(None).query_terms(["red leaves"])
    assert before["weights"][0].numpy() != pytest.approx(asked["weights"][0].numpy(), rel=1e-3)
    model = plans[0].parts.student(None)
    model.query_weights = "binary"
    with pytest.raises(UserError, match=r"student\.refit=true is for student\.query_weights=idf"):
        model.refitted(table)


def test_a_changed_file_of_weights_is_another_student(small, tmp_path):
    given = tmp_path / "table.json"
    of_file = ("student.query_weights=file", f"student.token_weights={given}", "recipe=no_training")
    keys = []
    for weight in (1.0, 2.0):
        given.write_text(json.dumps({"red": weight}))
        plan = Plan(compose([*small, *SPARSE, *of_file]))
        keys.append(plan.encoded(plan.entries.evaluate[0]).key)
    assert keys[0] != keys[1]


def test_a_penalty_under_a_target_is_given_idf(small):
    under = ("regularizer=target", "regularizer@regularizer.penalty=flops_over_idf", "student.query_weights=binary")
    plan = Plan(compose([*small, *SPARSE, *under]))
    plan.weighed(plan.entries.train[0]).make()
    assert plan.parts.training().regularizer.penalty.inverse.max() > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("regularizer=flops",), "regularizer=flops penalises terms, which student=dense does not make"),
        ((*SPARSE, "regularizer=flops_over_idf"), "which student.query_weights=idf has in the score already"),
    ],
)
def test_what_does_not_fit_together_is_refused(small, overrides, message):
    with pytest.raises(UserError) as caught:
        check(compose([*small, *overrides]))
    assert message in str(caught.value)


def test_single_steps(small, tmp_path):
    sparse = ("student=sparse", "student.start_terms=9")
    (folder,) = step(compose([*small, *sparse, "recipe=no_training", f"output_dir={tmp_path / 'out'}"]), "encode")
    assert StoredRepresentations.open(folder / "passages").arrays.keys() == {"terms", "weights", "offsets"}


# ---- cost and quality

LATENCY = "evaluation.latency={clients:[1,2],passes:1,queries:3,depth:2}"


def test_latencies_stand_beside_quality(trained, small, ensemble, tmp_path, caplog):
    folder = go(*small, *ensemble, *SPARSE, LATENCY, f"output_dir={tmp_path / 'timed'}")
    cost = json.loads((folder / "metrics.json").read_text())["cost"]
    assert 0 < cost["latency_p50_ms"] <= cost["latency_p99_ms"]
    assert min(cost["latency_p99_ms_2_clients"], cost["queries_per_second"], cost["queries_per_second_2_clients"]) > 0
    assert "P99 is that of the slowest" in caplog.text
    before = json.loads((trained / "metrics.json").read_text())
    assert before["collections"] == json.loads((folder / "metrics.json").read_text())["collections"]
    assert "latency_p50_ms" not in before["cost"]


def test_bm25_is_timed_as_well(small, tmp_path):
    folder = go(*small, "experiment=bm25", LATENCY, f"output_dir={tmp_path / 'timed'}")
    assert json.loads((folder / "metrics.json").read_text())["cost"]["latency_p99_ms"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{clients:[1],rounds:3}", "evaluation.latency.rounds is not known; there are clients, passes, queries, depth"),
        ("{clients:[0]}", "clients (a list), passes, queries and depth are at least 1"),
    ],
)
def test_settings_of_latency_are_checked_before_work(small, settings, message):
    with pytest.raises(UserError) as caught:
        go(*small, "experiment=bm25", f"evaluation.latency={settings}")
    assert message in str(caught.value)


def test_runs_become_a_front(trained, small, ensemble, tmp_path, capsys):
    lighter = (*small, *ensemble, *SPARSE, "student.prune=0.9")
    other = go(*lighter, f"output_dir={tmp_path / 'pruned'}")
    place = tmp_path / "front"
    assert main(["pareto", str(trained), str(other), "costs=flops", f"output_dir={place}"]) == 0
    said = capsys.readouterr().out
    assert "prune=0.9" in said
    assert "front" in said
    assert {path.name for path in place.iterdir()} >= {"pareto.md", "pareto.json"}
    points = {one["name"]: one for one in json.loads((place / "pareto.json").read_text())["points"]}
    assert points["prune=0.9"]["cost"]["flops"] < points["defaults"]["cost"]["flops"]
    for wrong, message in (("costs=speed", "costs=speed: there are flops"), ("cell=x", "pareto knows measure, costs")):
        assert main(["pareto", str(trained), wrong]) == 2
        assert message in capsys.readouterr().err


# ---- OpenSearch


def test_a_cluster_is_fed_with_the_same_weights(trained, small, tmp_path, capsys):
    model = (*small, f"model={trained}", "student=sparse", f"output_dir={tmp_path / 'cluster'}")
    assert main(["export", *model, "format=opensearch", "fields=rank_features"]) == 0
    folder = tmp_path / "cluster"
    assert capsys.readouterr().out.strip() == str(folder)
    plan = Plan(compose(list(model)))
    stored = StoredRepresentations.open(plan.encoded(plan.entries.evaluate[0]).path / "passages")
    lines = (folder / "rank_features" / "bulk-00000.ndjson").read_text().splitlines()
    assert [json.loads(line)["index"]["_id"] for line in lines[::2]] == list(stored.ids)
    kept = [len(json.loads(line)["passage_terms"]) for line in lines[1::2]]
    assert kept == np.diff(stored.arrays["offsets"]).tolist()
    question = next(iter(plan.entries.evaluate[0].collection.queries.values()))
    assert question in (folder / "rank_features" / "query_by_text.json").read_text()


def test_a_sparse_run_is_exported_without_saying_so(trained, tmp_path, capsys):
    """What a folder holds decides how it is written."""
    assert main(["export", f"model={trained}", f"output_dir={tmp_path / 'out'}"]) == 0
    written = (tmp_path / "out" / "retrieval_kd.json").read_text()
    assert json.loads(written) == json.loads((trained / "model" / "retrieval_kd.json").read_text())


def test_exports_that_do_not_fit_are_refused(trained, small, tmp_path, capsys):
    place = f"output_dir={tmp_path / 'out'}"
    for arguments, message in (
        (["format=onnx"], "format=onnx: leave it out"),
        (["index=things"], "index is of format=opensearch"),
        (["format=opensearch", "index=Big Things"], "index=Big Things"),
    ):
        assert main(["export", *small, f"model={trained}", place, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
