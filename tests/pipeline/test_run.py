"""From a folder to a run's folder: every file in its stated form, nothing computed twice, every part exchangeable."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from retrieval_kd.contracts import UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.runs import Run
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.run import step, train
from retrieval_kd.pipeline.steps.stage import join_logs

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

CROSS_ENCODER = ("teacher=pointwise", "teacher.scorer.max_length=24", "teacher.scorer.train.batch_size=6")
BM25_TEACHER = ("teacher=pointwise", "scorer@teacher.scorer=bm25")


def go(*overrides):
    return train(compose(overrides))


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="session")
def trained(small, ensemble, tmp_path_factory):
    """The run's folder of the default objective and teacher."""
    folder = tmp_path_factory.mktemp("runs") / "default"
    assert go(*small, *ensemble, "trainer.log_every=1", f"output_dir={folder}") == folder
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# ---- the files


def test_measures_and_costs(trained, things):
    found = metrics(trained)
    assert set(found) == {"collections", "cost"}
    assert list(found["collections"]) == ["things/test"]
    result = found["collections"]["things/test"]
    assert result["queries"] == 8
    assert list(result["measures"]) == ["ndcg@10", "recall@100"]
    table = pq.read_table(trained / "per_query.parquet")
    assert table.column_names == ["collection", "split", "query_id", "measure", "value"]
    frame = table.to_pylist()
    assert {(row["collection"], row["split"]) for row in frame} == {("things", "test")}
    for name, mean in result["measures"].items():
        values = {row["query_id"]: row["value"] for row in frame if row["measure"] == name}
        assert set(values) == {f"q{row}" for row in range(16, 24)}
        assert np.mean(list(values.values())) == pytest.approx(mean, abs=1e-6)
    cost = found["cost"]
    assert (cost["train_steps"], cost["index_bytes"] > 30 * 32 * 4) == (3, True)
    assert cost["seconds"] > cost["train_seconds"] > 0
    steps = json.loads((trained / "manifest.json").read_text())["steps"]
    assert cost["seconds"] == pytest.approx(sum(one["seconds"] for one in steps), abs=0.1)


def test_the_run_has_nine_digits_and_every_passage(trained):
    lines = [line.split() for line in (trained / "runs" / "things.test.trec").read_text().splitlines()]
    assert len(lines) == 8 * 30
    assert all(len(line) == 6 and line[1] == "Q0" for line in lines)
    assert [int(line[3]) for line in lines[:30]] == list(range(1, 31))
    digits = [len(line[4].lstrip("-0.").replace(".", "")) for line in lines if "e" not in line[4]]
    assert max(digits) == 9
    run = Run.read(trained / "runs" / "things.test.trec")
    assert all((np.diff(scores) <= 0).all() for _, _, scores in run)


def test_resolved_and_manifest(trained, small):
    resolved = yaml.safe_load((trained / "resolved.yaml").read_text())
    assert (resolved["trainer"]["max_steps"], resolved["encoder"]["name"], resolved["seed"]) == (3, "tiny", 42)
    assert "${" not in (trained / "resolved.yaml").read_text()
    manifest = json.loads((trained / "manifest.json").read_text())
    assert {"key", "versions", "commit", "seed", "inputs", "hardware", "steps", "overrides"} <= set(manifest)
    assert {"python", "torch", "transformers", "pytorch-lightning"} <= set(manifest["versions"])
    assert set(manifest["inputs"]) == {"things/train", "things/test"}
    names = [one["step"] for one in manifest["steps"]]
    assert names == ["index", "search", "mine", "score", "train", "encode", "search", "evaluate"]
    assert all(one["seconds"] >= 0 and len(one["digest"]) == 32 for one in manifest["steps"])
    assert manifest["overrides"][: len(small)] == list(small)


def test_losses_are_logged(trained):
    header, *lines = (trained / "log.csv").read_text().splitlines()
    assert {"step", "train/contrastive", "train/listwise_kl"} <= set(header.split(","))
    assert len(lines) >= 3


def test_sentence_transformers_scores_as_the_run_says(trained, things):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(trained / "model"), device="cpu")
    records = {name: map(json.loads, (things / f"{name}.jsonl").open()) for name in ("queries", "corpus")}
    queries = {record["_id"]: record["text"] for record in records["queries"]}
    passages = {record["_id"]: f"{record['title']} {record['text']}" for record in records["corpus"]}
    vectors = dict(zip(passages, model.encode_document(list(passages.values())), strict=True))
    for query_id, ids, scores in Run.read(trained / "runs" / "things.test.trec"):
        query = model.encode_query(queries[query_id])
        assert scores == pytest.approx([float(query @ vectors[one]) for one in ids], abs=2e-5)


def test_training_moved_the_student(trained, small):
    untrained = go(*small, "recipe=no_training", f"output_dir={trained.parent / 'untrained'}")
    before, after = (Run.read(folder / "runs" / "things.test.trec").as_dict()["q16"] for folder in (untrained, trained))
    assert max(abs(after[passage] - score) for passage, score in before.items()) > 1e-4
    assert not (untrained / "model").exists()


# ---- what is there is not computed again


def test_again_computes_nothing_and_one_weight_only_trains(trained, small, ensemble, written, out):
    files = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert go(*small, *ensemble, "trainer.log_every=7", f"output_dir={trained}") == trained
    assert written == []
    assert set(files) == {path for path in trained.rglob("*") if path.is_file()}
    same = [path for path in files if path.name not in ("resolved.yaml", "manifest.json")]
    assert all(path.read_bytes() == files[path] for path in same)
    go(*small, *ensemble, "objective.listwise_kl.weight=3", f"output_dir={out}")
    assert written == ["train", "encode", "search", "evaluate"]
    assert metrics(out)["collections"] != {}


def test_another_split_only_searches(trained, small, ensemble, written, out):
    go(*small, *ensemble, "data.split=dev", f"output_dir={out}")
    assert written == ["search", "evaluate"]


def test_without_output_dir_the_folder_is_named_by_the_result(trained, small, ensemble, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = json.loads((trained / "manifest.json").read_text())["key"]
    folder = go(*small, *ensemble)
    assert folder.as_posix() == f"outputs/train/{key[:12]}"
    assert (folder / "model" / "model.safetensors").stat().st_size > 0
    assert written == []


def test_folders_of_others_are_left_alone(trained, small, ensemble, out, written):
    with pytest.raises(UserError, match="holds the results of another config"):
        go(*small, *ensemble, "seed=9", f"output_dir={trained}")
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds files that no run of ours wrote"):
        go(*small, *ensemble, f"output_dir={out}")
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    (out / "thesis.tex").unlink()
    go(*small, *ensemble, f"output_dir={out}")  # an empty one is fine
    assert written == []


def test_a_second_collection_that_fails_leaves_no_part_of_a_folder(small, things, tmp_path, out):
    bad = tmp_path / "bad"
    shutil.copytree(things, bad)
    with (bad / "qrels" / "test.tsv").open("a") as stream:
        stream.write("q17\tnowhere\t1\n")
    evaluate = f"data.evaluate={{one: {{split: dev}}, two: {{path: {bad}}}}}"
    with pytest.raises(UserError, match="nowhere"):
        go(*small, "objective=[contrastive]", evaluate, f"output_dir={out}")
    assert list(tmp_path.iterdir()) == [bad]


# ---- a step alone


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", ["mine", "score", "encode", "search"])
def test_a_step_is_laid_out_where_it_is_asked_for(verb, trained, small, ensemble, out, written):
    overrides = [*small, *ensemble]
    (artifact,) = step(compose(overrides), verb)
    named = [*overrides, f"output_dir={out}"]
    assert step(compose(named), verb) == [out]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["steps"][-1]["digest"] == artifact.name
    assert list(manifest["inputs"])[-1] == ("things/train" if verb in ("mine", "score") else "things/test")
    found = contents(out)
    assert {path: found[path] for path in contents(artifact)} == contents(artifact)
    assert step(compose(named), verb) == [out]
    assert contents(out).keys() == found.keys()
    with pytest.raises(UserError, match=f"output_dir={out} holds the results of another config"):
        step(compose([*named, "bm25.k1=0.5"]), verb)
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match=f"output_dir={out} holds files that no run of ours wrote"):
        step(compose(named), verb)
    assert written == []


def test_a_step_that_fails_to_be_laid_out_leaves_no_part_of_a_folder(trained, small, ensemble, out, monkeypatch):
    from retrieval_kd.pipeline import run

    monkeypatch.setattr(run, "manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step(compose([*small, *ensemble, f"output_dir={out}"]), "mine")
    assert list(out.parent.iterdir()) == []


def test_output_dir_that_is_a_file_is_told_before_the_work(small, out, written, tmp_path):
    out.write_text("x")
    for place in (out, out / "below"):
        cfg = compose([*small, f"store={tmp_path / 'store'}", f"output_dir={place}"])
        for work in (lambda cfg: step(cfg, "search"), train):
            with pytest.raises(UserError, match=f"output_dir={place}: {out} is a file; name a folder"):
                work(cfg)
    assert written == []


def test_a_step_about_several_collections_gives_each(trained, small, ensemble, things, out):
    evaluate = f"data.evaluate={{one: {{split: dev}}, two: {{path: {things}, split: test}}}}"
    overrides = [*small, *ensemble, evaluate]
    one, two = step(compose(overrides), "search")
    assert (len(Run.read(one / "run.trec")), len(Run.read(two / "run.trec"))) == (4, 8)
    named = step(compose([*overrides, f"output_dir={out}"]), "search")
    assert named == [out / "one.dev", out / "two.test"]
    assert [(folder / "run.trec").read_bytes() for folder in named] == [
        (folder / "run.trec").read_bytes() for folder in (one, two)
    ]
    assert len(step(compose(overrides), "encode")) == 1  # both have the same passages


# ---- objectives and teachers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (("objective=[contrastive]",), None),
        (("objective=[margin_mse]", *BM25_TEACHER), "similarity"),
        (("objective=[listwise_kl]", "teacher=pointwise", "scorer@teacher.scorer=bi_encoder"), "similarity"),
        (CROSS_ENCODER, "logit"),
    ],
)
def test_objectives_and_teachers(small, out, overrides, kind):
    tiny = ("teacher.scorer.encoder.encoder.name=tiny",) if "scorer@teacher.scorer=bi_encoder" in overrides else ()
    cfg = compose([*small, *overrides, *tiny, f"output_dir={out}"])
    assert metrics(train(cfg))["cost"]["train_steps"] == 3
    plan = Plan(cfg)
    assert (plan.taught() is not None) == (overrides == CROSS_ENCODER)
    if kind:
        record = plan.scored(plan.train_entries[0]).record()
        assert record["members"] == {"teacher": kind}
        scores = np.load(plan.scored(plan.train_entries[0]).path / "scores.npy")
        assert scores.shape == (1, record["candidates"])
        assert np.isfinite(scores).all()


@pytest.mark.slow
def test_several_collections_are_trained_on_together(small, ensemble, out):
    """Each batch is of one of them; every one is mined and scored for itself."""
    sets = "data.train={one: {split: train, weight: 1}, other: {split: dev, weight: 1}}"
    cfg = compose([*small, *ensemble, sets, "trainer.max_steps=null", "trainer.epochs=2", f"output_dir={out}"])
    cost = metrics(train(cfg))["cost"]
    assert cost["train_steps"] == 2 * 4  # 12 and 4 queries in batches of 4
    plan = Plan(cfg)
    assert sorted(step.name for step in plan.training().walk()).count("score") == 2
    assert set(json.loads((out / "manifest.json").read_text())["inputs"]) == {"one/train", "other/dev", "things/test"}


def test_a_teacher_alone(small, written, out):
    alone = (*small, *CROSS_ENCODER, "target=teacher", "teacher.scorer.train.learning_rate=1e-3")
    folder = go(*alone)
    assert written[-1] == "teach"
    assert (folder / "teacher" / "model.safetensors").exists()
    assert go(*alone, f"output_dir={out}") == out
    assert (out / "teacher" / "model.safetensors").samefile(folder / "teacher" / "model.safetensors")
    with pytest.raises(UserError, match="no member of this teacher is trained here"):
        go(*small, *BM25_TEACHER, "target=teacher")


@pytest.fixture(scope="session")
def run_file(tmp_path_factory):
    """Lists for queries of every split, eight passages each."""
    path = tmp_path_factory.mktemp("files") / "lists.trec"
    lines = (f"q{q} Q0 p{(7 * q + 3 * r) % 30} {r} {9 - r} x" for q in range(24) for r in range(1, 9))
    path.write_text("\n".join(lines) + "\n")
    return path


def mined(*overrides):
    (folder,) = step(compose(overrides), "mine")
    return Candidates.read(folder / "candidates.parquet")


def test_negatives_from_a_run_file_that_is_the_teacher_too(small, run_file, out):
    source = (f"negatives.source={run_file}", "negatives.window=[1,8]")
    found = mined(*small, *source)
    assert set(found.query_ids) == {f"q{row}" for row in range(12)}  # not those of dev and test
    hard = {(query, passage) for query, passage in zip(found.row_query_ids(), found.passage_ids, strict=True)}
    listed = {(line.split()[0], line.split()[2]) for line in run_file.read_text().splitlines()}
    judged = {(f"q{row}", f"p{row + more}") for row in range(12) for more in (0, 1)}
    assert hard - judged <= listed
    teacher = ("teacher=pointwise", "scorer@teacher.scorer=run_file", f"teacher.scorer.path={run_file}")
    with pytest.raises(UserError, match="pairs to be taught are not in the file"):
        go(*small, *source, *teacher, f"output_dir={out}")
    assert not out.exists()
    unscored = (*teacher, "teacher.scorer.unlisted=unscored", "trainer.validate_every=2")
    assert metrics(go(*small, *source, *unscored, f"output_dir={out}"))["cost"]["train_steps"] == 3


def test_a_run_file_of_other_queries_is_told(small, tmp_path):
    (tmp_path / "other.trec").write_text("x1 Q0 p1 1 2.0 x\n")
    with pytest.raises(UserError, match=r"negatives\.source: the run has no query of things/train"):
        mined(*small, f"negatives.source={tmp_path / 'other.trec'}")


def test_negatives_from_a_trained_student(small, trained, out):
    source = f"negatives.source={trained}"
    found = mined(*small, source)
    plan = Plan(compose([*small, source]))
    run = Run.read(plan.source_run(plan.train_entries[0]).path / "run.trec").as_dict()
    for one in found.lists():
        first = set(list(run[one.query_id])[:12])
        assert {p for p, grade in zip(one.passage_ids, one.relevance, strict=True) if grade == 0} <= first
    rerank = ("engine=rerank", "recipe=no_training", *BM25_TEACHER)  # the source's engine is its own
    assert mined(*small, source, *rerank).passage_ids == found.passage_ids
    assert metrics(go(*small, source, "objective=[contrastive]", f"output_dir={out}"))["cost"]["train_steps"] == 3


@pytest.mark.slow
def test_a_margin_drops_what_the_teacher_finds_too_good(small, out):
    """Also with a teacher that is trained here: it learns from the lists without the margin."""
    plain, apart = mined(*small, *BM25_TEACHER), mined(*small, *BM25_TEACHER, "negatives.margin={relative: 0.5}")
    assert len(apart) < len(plain)
    kept = set(zip(apart.row_query_ids(), apart.passage_ids, strict=True))
    assert kept < set(zip(plain.row_query_ids(), plain.passage_ids, strict=True))
    overrides = ("negatives.margin={absolute: 0.01}", *CROSS_ENCODER)
    assert metrics(go(*small, *overrides, f"output_dir={out}"))["cost"]["train_steps"] == 3


def test_without_judgements_the_teacher_alone_teaches(small, out, caplog):
    none = (*small, *BM25_TEACHER, "data.judgements=none", "objective=[listwise_kl]")
    folder = go(*none, f"output_dir={out}")
    assert metrics(folder)["collections"] == {"things/test": {"queries": 8, "measures": {}}}
    assert metrics(folder)["cost"]["train_steps"] == 3
    assert len(Run.read(folder / "runs" / "things.test.trec")) == 8
    assert pq.read_table(folder / "per_query.parquet").num_rows == 0
    (searched,) = step(compose(none), "search")
    assert len(Run.read(searched / "run.trec")) == 8
    with pytest.raises(UserError, match="things/test has no judgements to evaluate against"):
        step(compose(none), "evaluate")


# ---- collections, engines, recipes


def test_several_collections(trained, small, ensemble, things, out):
    evaluate = f"data.evaluate={{one: {{split: dev}}, two: {{path: {things}, split: test}}}}"
    found = metrics(go(*small, *ensemble, evaluate, f"output_dir={out}"))["collections"]
    assert {label: one["queries"] for label, one in found.items()} == {"one/dev": 4, "two/test": 8}
    assert found["two/test"] == metrics(trained)["collections"]["things/test"]
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["one.dev.trec", "two.test.trec"]
    table = pq.read_table(out / "per_query.parquet").to_pylist()
    assert {(row["collection"], row["split"]) for row in table} == {("one", "dev"), ("two", "test")}


def test_engines_without_a_student_train_none(small, out, written):
    bm25 = go(*small, "engine=bm25", f"output_dir={out}")
    rerank = go(*small, *BM25_TEACHER, "engine=rerank", f"output_dir={out.parent / 'rerank'}")
    assert "train" not in written
    assert not (bm25 / "model").exists()
    first, second = (Run.read(folder / "runs" / "things.test.trec") for folder in (bm25, rerank))
    assert first.as_dict().keys() == second.as_dict().keys()
    for (_, ids, scores), (_, others, again) in zip(first, second, strict=True):  # BM25 reranked by itself
        assert (ids == others).all()
        assert again == pytest.approx(scores, rel=1e-5)


def test_a_trained_student_is_evaluated_by_its_folder(trained, small, out, written):
    folders = step(compose([*small, f"model={trained}", f"output_dir={out}"]), "evaluate")
    assert folders == [out]
    assert metrics(out)["collections"] == metrics(trained)["collections"]
    assert "train" not in written


def test_the_best_validation_is_kept(small, out, caplog):
    caplog.set_level("INFO", "retrieval_kd")
    overrides = ("objective=[contrastive]", "trainer.validate_every=1", "optimizer.lr=0.01")
    cfg = compose([*small, *overrides, "trainer.select=best", f"output_dir={out}"])
    train(cfg)
    told = [float(message.rsplit(" ", 1)[1]) for message in caplog.messages if "validation ndcg@10" in message]
    assert len(told) == 3
    plan = Plan(cfg)
    assert plan.trained.record()["validation"] == pytest.approx(max(told), abs=1e-4)
    from retrieval_kd.pipeline.steps.stage import _task

    task = _task(plan, plan.entries.validation, 200)
    assert task.score(plan.parts.student(plan.trained)) == pytest.approx(max(told), abs=1e-4)


@pytest.mark.slow
def test_a_killed_training_ends_as_an_uninterrupted_one(small, tmp_path, monkeypatch):
    from retrieval_kd.students.student import Student

    plain, killed = (
        [
            *small,
            "objective=[contrastive]",
            "trainer.max_steps=4",
            "trainer.epochs=2",
            "trainer.checkpoint_every=2",
            f"store={place}",
        ]
        for place in (tmp_path / "plain", tmp_path / "killed")
    )
    whole = go(*plain, f"output_dir={tmp_path / 'whole'}")
    done, training_step = [], Student.training_step

    def dies(self, batch, index):
        done.append(index)
        if len(done) == 4:
            raise RuntimeError("killed")
        return training_step(self, batch, index)

    monkeypatch.setattr(Student, "training_step", dies)
    with pytest.raises(RuntimeError, match="killed"):
        go(*killed, f"output_dir={tmp_path / 'resumed'}")
    assert not (tmp_path / "resumed").exists()
    (work,) = (tmp_path / "killed" / "train").glob("*.work")
    assert (work / "last.ckpt").exists()
    resumed = go(*killed, f"output_dir={tmp_path / 'resumed'}")
    assert len(done) == 4 + 2  # the checkpoint was that of the second step
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (whole, resumed)]
    assert weights[0] == weights[1]
    assert [path.suffix for path in (tmp_path / "killed" / "train").iterdir()] == [""]


def test_steps_that_a_resumed_training_took_again_are_logged_once(tmp_path):
    parts = [tmp_path / "0.csv", tmp_path / "1.csv"]
    parts[0].write_text("step,loss\n1,5\n2,4\n3,3\n")
    parts[1].write_text("step,loss,more\n2,4.5,1\n3,3.5,1\n4,2.5,1\n")
    join_logs(parts, tmp_path / "log.csv")
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == ["step,loss,more", "1,5,", "2,4.5,1", "3,3.5,1", "4,2.5,1"]
