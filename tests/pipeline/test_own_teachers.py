"""Teachers beside the training's own: those of single terms, and those on whose scores others are trained first."""

import csv
import json
import shutil

import pytest
from run_case import BM25_TEACHER, go

from retrieval_kd.callbacks.agreement import agreement
from retrieval_kd.contracts import UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.explain import explain
from retrieval_kd.pipeline.page import TIMES
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.provenance import reconstructions
from retrieval_kd.pipeline.run import train
from retrieval_kd.pipeline.steps.scoring import signalled

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

WHITE_BOX = "objective.word_level.teacher.scorer"
MD2PR = (
    "experiment=md2pr",
    f"{WHITE_BOX}.max_length=48",
    f"{WHITE_BOX}.train.batch_size=6",
    f"{WHITE_BOX}.train.epochs=4",
    f"{WHITE_BOX}.train.learning_rate=1e-3",
)
FROM_SCORES = (
    "teacher=pointwise",
    "+teacher@teacher.scorer.train.teacher=pointwise",
    "scorer@teacher.scorer.train.teacher.scorer=bm25",
    "teacher.scorer.train.labels=scores",
    "teacher.scorer.max_length=48",
    "teacher.scorer.train.batch_size=6",
    "teacher.scorer.train.temperature=1.0",
)


@pytest.fixture(scope="module")
def md2pr(small, ensemble):
    return (*small, *ensemble, *MD2PR)


@pytest.fixture(scope="module")
def plan(md2pr):
    return Plan(compose(md2pr))


def steps_of(plan):
    return [(step.name, step.about) for step in plan.training().walk()]


@pytest.mark.slow
def test_a_white_box_learns_from_the_training_teacher(plan):
    """The ensemble is asked once; of the white box, only what it is worth is scored, on held-out lists."""
    main, own = plan.teachers
    assert (main.key, own.key, own.term) == ("teacher", "objective.word_level.teacher", "word_level")
    (base,) = own.bases
    assert base.key == "objective.word_level.teacher.scorer.train.teacher"
    entry = plan.train_entries[0]
    assert base.steps.scored(entry).key == main.steps.scored(entry).key
    assert own.steps.mined(entry).key == main.steps.mined(entry).key
    told = steps_of(plan)
    assert told.count(("score", "things/train by bm25, minilm")) == 1
    assert ("score", "things/train by teacher") not in told
    assert {("score", "things/dev by teacher"), ("score", "things/dev by bm25, minilm"), ("teach", "teacher")} <= {
        *told
    }
    assert plan.reported_entry.split == "dev"


@pytest.mark.slow
def test_who_learns_from_the_same_is_trained_once(small, ensemble, plan):
    """As the teacher of a whole training, it is the very same artifact."""
    same = [one.replace("objective.word_level.teacher", "teacher") for one in MD2PR[1:]]
    place = "teacher.scorer.train.teacher"
    members = [one.replace("teacher.", f"{place}.", 1) for one in ensemble]
    white = ["teacher=pointwise", f"+teacher@{place}=ensemble", "teacher.scorer.train.labels=scores"]
    said = [
        f"teacher.scorer.train.{key}={plan.values['objective']['word_level']['teacher']['scorer']['train'][key]}"
        for key in ("negatives", "learning_rate")
    ]
    alone = Plan(compose([*small, *white, *said, *members, *same]))
    assert alone.candidates.taught().key == plan.teachers[1].steps.taught().key


def keys(plan):
    own = plan.teachers[1].steps
    entry = plan.train_entries[0]
    return [one.key for one in (own.mined(entry), own.bases["teacher"].scored(entry), own.taught(), plan.training())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("objective.word_level.weight=0.2", 3),
        (f"{WHITE_BOX}.train.temperature=0.2", 2),
        (f"{WHITE_BOX}.train.loss=retrieval_kd.functional.ranking_losses.margin_mse", 2),
        ("teacher.normalise=z_score", 1),
        (f"{WHITE_BOX}.tokens_per_batch=7", 4),
        ("teacher.members.minilm.encoder.inference.tokens_per_batch=7", 4),
        ("negatives.pool=5", 0),
    ],
)
def test_what_decides_a_teacher_decides_its_key(md2pr, plan, override, same):
    found = [one == other for one, other in zip(keys(plan), keys(Plan(compose([*md2pr, override]))), strict=True)]
    assert found == [True] * same + [False] * (4 - same)


@pytest.mark.slow
def test_the_control_leaves_the_white_box_out(small, ensemble):
    plan = Plan(compose([*small, *ensemble, "experiment=md2pr", "objective=[contrastive,listwise_kl]", "filter=none"]))
    assert [one.key for one in plan.teachers] == ["teacher"]
    assert "teach" not in {step.name for step in plan.training().walk()}
    assert not [key for key in plan.values["options"] if "word_level" in key]


@pytest.mark.slow
def test_explain_tells_of_every_teacher(md2pr):
    text = " ".join(explain(compose(md2pr)).split())
    assert "of a teacher of its own" in text
    assert "of word_level pointwise" in text
    assert "learns from the scores of teacher" in text
    assert f"word_level reads 2 pairs {TIMES} 4 queries in every step" in text
    assert "objective.word_level: reconstruction" in text
    text = " ".join(explain(compose([*FROM_SCORES, "objective=[listwise_kl]"])).split())
    assert "learns from the scores of teacher.scorer.train.teacher: pointwise scorer: bm25" in text


@pytest.mark.slow
def test_reconstructions_are_those_that_teach(md2pr):
    assert set(reconstructions(Plan(compose(md2pr)))) == {"objective.word_level", "filter"}
    control = ["objective.word_level.weight=0", "filter=none"]
    assert reconstructions(Plan(compose([*md2pr, *control]))) == {}
    assert reconstructions(Plan(compose([*md2pr, "recipe=no_training", "engine=bm25"]))) == {}


@pytest.mark.slow
def test_md2pr_trains_and_reports_on_both_teachers(md2pr, out, caplog):
    caplog.set_level("INFO")
    go(*md2pr, "trainer.log_every=1", f"output_dir={out}")
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert all(float(row["train/word_level"]) > 0 for row in rows)
    plan = Plan(compose(md2pr))
    report = json.loads((plan.training().path / "report.json").read_text())
    assert report["teacher_ndcg"] > 0
    (own,) = report["teachers"].values()
    (learned,) = own["learned_from"].values()
    assert learned["its_ndcg"] == pytest.approx(report["ndcg"])
    assert learned["ndcg"] == pytest.approx(own["ndcg"])
    assert -1 <= learned["kendall_tau"] <= 1
    assert any("which it learned from" in line for line in caplog.messages)
    record = plan.training().record()
    assert record["teachers"]["objective.word_level.teacher"]["teacher_ndcg"] == own["teacher_ndcg"]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["listwise_kl", "margin_mse"])
def test_a_teacher_learns_what_another_one_says(small, tmp_path, loss):
    """Of BM25, without a judgement: it comes to order the lists that it is trained on as it was told."""
    losses = f"teacher.scorer.train.loss=retrieval_kd.functional.ranking_losses.{loss}"
    said = (*small, *FROM_SCORES, losses, "data.judgements=none", "objective=[listwise_kl]")
    taus = []
    for rate, epochs in ((1e-9, 1), (3e-3, 60)):
        how = (*said, f"teacher.scorer.train.learning_rate={rate}", f"teacher.scorer.train.epochs={epochs}")
        go(*how, "target=teacher", f"output_dir={tmp_path / str(epochs)}")
        assert (tmp_path / str(epochs) / "teacher" / "model.safetensors").exists()
        steps = Plan(compose(how)).candidates
        entry = steps.plan.train_entries[0]
        lists = Candidates.read(steps.mined(entry).make() / "candidates.parquet")
        both = (steps, steps.bases["teacher"])
        scores = [signalled(one.scored(entry).make(), lists, one.teacher(entry)).scores for one in both]
        taus.append(agreement(*scores, lists.offsets).kendall_tau)
    assert taus[1] > max(0, taus[0]) + 0.1


@pytest.mark.slow
def test_a_teacher_of_scores_reports_beside_its_own(small, out):
    go(*small, *FROM_SCORES, "objective=[listwise_kl]", f"output_dir={out}")
    plan = Plan(compose([*small, *FROM_SCORES, "objective=[listwise_kl]"]))
    report = json.loads((plan.training().path / "report.json").read_text())
    assert set(report["learned_from"]) == {"teacher.scorer.train.teacher"}
    assert set(plan.training().record()["learned_from"]) == {"teacher.scorer.train.teacher"}


@pytest.mark.slow
def test_two_terms_learn_from_two_teachers_scores(small, ensemble, out):
    """Where both say the same, it is the same training as with one teacher of double weight."""
    own = ("+teacher@objective.margin_mse.teacher=pointwise", "scorer@objective.margin_mse.teacher.scorer=bm25")
    terms = "objective=[listwise_kl,margin_mse]"
    logged = "trainer.log_every=1"
    go(*small, *ensemble, terms, *own, logged, f"output_dir={out / 'both'}")
    go(*small, *BM25_TEACHER, terms, logged, f"output_dir={out / 'one'}")
    first = [next(csv.DictReader((out / name / "log.csv").open())) for name in ("both", "one")]
    assert float(first[0]["train/margin_mse"]) == pytest.approx(float(first[1]["train/margin_mse"]), rel=1e-5)
    assert float(first[0]["train/listwise_kl"]) != pytest.approx(float(first[1]["train/listwise_kl"]), rel=1e-3)


@pytest.mark.slow
def test_own_scores_of_labelled_lists(small, ensemble, out):
    labels = (
        "labels=thresholds",
        "labels.kind=similarity",
        "labels.member=bm25",
        "labels.positive=2",
        "labels.negative=1",
    )
    own = ("+teacher@objective.listwise_kl.teacher=pointwise", "scorer@objective.listwise_kl.teacher.scorer=bm25")
    go(*small, *ensemble, *labels, *own, "trainer.log_every=1", f"output_dir={out}")
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert all(float(row["train/listwise_kl"]) > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("more", [("negatives=dark",), ("negatives=dark", "negatives.made.band=true")])
def test_white_box_beside_made_passages(small, ensemble, out, more):
    go(*small, *ensemble, *MD2PR, *more, f"output_dir={out}")


@pytest.mark.slow
def test_sentence_features_train(small, ensemble, out):
    own = "objective.sentence_features.teacher"
    terms = ("objective=[contrastive,sentence_features]", f"+teacher@{own}=pointwise")
    go(*small, *ensemble, *terms, f"{own}.scorer.max_length=48", "trainer.log_every=1", f"output_dir={out}")
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert all(float(row["train/sentence_features"]) > 0 for row in rows)
    with pytest.raises(UserError, match="takes vectors, and student=late_interaction makes tokens"):
        check(compose([*terms, "student=late_interaction"]))


def test_heads_that_do_not_divide_are_told_before_the_first_step(small, tiny, tmp_path, written):
    other = tmp_path / "three-heads"
    shutil.copytree(tiny, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_attention_heads": 3}))
    words = ["objective=[contrastive,word_level]", "teacher=pointwise", "objective.word_level.heads=matched"]
    with pytest.raises(UserError, match=r"heads=matched: the student's tokens have 32 dimensions, which 3 heads"):
        train(compose([*small, *words, f"teacher.scorer.name={other}", f"store={tmp_path / 'store'}"]))
    assert written == []


def test_a_reranker_without_a_mask_is_told_before_the_first_step(small, tiny, tmp_path, written):
    other = tmp_path / "no-mask"
    shutil.copytree(tiny, other)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    settings.pop("mask_token", None)
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"mask_token": None}))
    (other / "special_tokens_map.json").unlink(missing_ok=True)
    dark = ["negatives=dark", "teacher=pointwise", f"teacher.scorer.name={other}", f"store={tmp_path / 'store'}"]
    with pytest.raises(UserError, match=r"no-mask has no mask token.*masked\.variant=delete"):
        train(compose([*small, *dark]))
    assert written == []
