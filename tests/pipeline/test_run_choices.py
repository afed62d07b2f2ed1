"""Every part of a run exchangeable: objectives, teachers, negatives, collections, engines; and a run that goes on."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from run_case import BM25_TEACHER, CROSS_ENCODER, go, metrics

from retrieval_kd.contracts import UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.runs import Run
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.run import step, train
from retrieval_kd.pipeline.steps.stage import join_logs

pytestmark = [
    pytest.mark.slow,  # whole runs and plans
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]

# ---- objectives and teachers


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
    assert (plan.candidates.taught() is not None) == (overrides == CROSS_ENCODER)
    if kind:
        record = plan.candidates.scored(plan.train_entries[0]).record()
        assert record["members"] == {"teacher": kind}
        scores = np.load(plan.candidates.scored(plan.train_entries[0]).path / "scores.npy")
        assert scores.shape == (1, record["candidates"])
        assert np.isfinite(scores).all()


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
    run = Run.read(plan.candidates.source_run(plan.train_entries[0]).path / "run.trec").as_dict()
    for one in found.lists():
        first = set(list(run[one.query_id])[:12])
        assert {p for p, grade in zip(one.passage_ids, one.relevance, strict=True) if grade == 0} <= first
    rerank = ("engine=rerank", "recipe=no_training", *BM25_TEACHER)  # the source's engine is its own
    assert mined(*small, source, *rerank).passage_ids == found.passage_ids
    assert metrics(go(*small, source, "objective=[contrastive]", f"output_dir={out}"))["cost"]["train_steps"] == 3


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
    assert {label: one["queries"] for label, one in found.items()} == {"one/dev": 4, "two/test": 8, "mean/all": 12}
    assert found["two/test"] == metrics(trained)["collections"]["things/test"]
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["one.dev.trec", "two.test.trec"]
    table = pq.read_table(out / "per_query.parquet").to_pylist()
    assert {(row["collection"], row["split"]) for row in table} == {("one", "dev"), ("two", "test"), ("mean", "all")}


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


def test_a_trained_student_is_evaluated_by_its_folder(trained, small, out, written, caplog):
    """As it was trained: what the command says of its length does not count, and is told."""
    folders = step(compose([*small, f"model={trained}", f"output_dir={out}"]), "evaluate")
    assert folders == [out]
    assert metrics(out)["collections"] == metrics(trained)["collections"]
    assert "train" not in written
    (told,) = [message for message in caplog.messages if "whatever is said" in message]
    assert f"model={trained} keeps its own student.passage.max_length" in told
    assert "student.inference" not in told


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
