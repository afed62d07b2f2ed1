"""A collection with queries and no judgements: the teacher is the only signal, from mining to the reports."""

import json

import pytest
from run_case import BM25_TEACHER, go, metrics

from retrieval_kd.contracts import Role, UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.needs import needs_of
from retrieval_kd.pipeline.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

TOP = ("objective=[contrastive,listwise_kl]", "objective.contrastive.positive=teacher_top")
PAIRED = (
    "objective=[contrastive,listwise_kl,pairwise]",
    "objective.contrastive.positive=teacher_top",
    "objective.contrastive.own=false",
    "teacher=pairwise",
    "scorer@teacher.base.members.minilm=bm25",
    "pairs.per_query=3",
)
JUDGE = (
    "teacher.judge.train.labels=scores",
    "teacher.judge.max_length=40",
    "teacher.judge.train.batch_size=6",
    "teacher.judge.precision=fp32",
)


@pytest.fixture(scope="module")
def unlabelled(small, bare):
    return (*small, f"data.path={bare}", "data.split=all")


def test_the_teachers_top_needs_scores_and_no_judgements():
    term = {"needs": ["judgements"], "positive": "judged"}
    assert needs_of(term) == {"judgements"}
    assert needs_of(term | {"positive": "teacher_top"}) == {"score"}
    assert needs_of({"needs": ["score"], "positive": "teacher_top"}) == {"score"}
    assert needs_of({}) == set()


def test_lists_without_positives_are_mined(unlabelled):
    plan = Plan(compose([*unlabelled, *BM25_TEACHER, *TOP]))
    check(plan.cfg)
    assert plan.parts.needs_scores
    (entry,) = plan.train_entries
    found = Candidates.read(plan.candidates.mined(entry).make() / "candidates.parquet")
    assert len(found.query_ids) == 24
    assert set(found.role.tolist()) == {Role.HARD}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["objective=[contrastive]"],
            r"needs judgements, and bare/all has none; objective\.contrastive\.positive=teach",
        ),
        (["objective=[margin_mse]", *BM25_TEACHER], r"margin_mse needs judgements, and bare/all has none; soft labels"),
        ([*TOP, *BM25_TEACHER, "negatives.consistent=3"], r"negatives\.consistent needs judgements"),
        (["objective=[listwise_kl]", "teacher=pointwise"], "a cross-encoder is trained on judgements, and bare/all"),
        (["objective=[pairwise]", *PAIRED[3:]], r"teacher\.judge\.train\.labels=judgements: bare/all has none"),
    ],
)
def test_what_needs_judgements_is_told_before_anything_is_mined(unlabelled, written, overrides, message):
    with pytest.raises(UserError, match=message):
        go(*unlabelled, *overrides)
    assert written == []


@pytest.mark.slow
def test_of_several_collections_those_with_judgements_train_a_teacher(small, bare, things):
    train = f"data.train={{judged: {{path: {things}, split: train}}, bare: {{path: {bare}, split: all}}}}"
    said = [*small, train, "objective=[listwise_kl,pairwise]", "teacher=pairwise", "teacher@teacher.base=pointwise"]
    plan = Plan(compose(said))
    for taught in plan.pairing.trainings():
        assert [one.about for one in taught.inputs if getattr(one, "name", "") == "mine"] == ["judged/train"]
    assert {one.about for one in plan.training().walk() if one.name == "mine"} >= {"judged/train", "bare/all"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [["recipe=one_stage"], ["recipe=iterative", "recipe.rounds=2"]])
def test_the_whole_recipe_runs(unlabelled, out, caplog, recipe):
    caplog.set_level("INFO", "retrieval_kd")
    folder = go(*unlabelled, *PAIRED, *JUDGE, *recipe, "trainer.log_every=1", f"output_dir={out}")
    found = metrics(folder)
    assert found["collections"] == {"bare/all": {"queries": 24, "measures": {}}}
    assert found["cost"]["train_steps"] == 3 * len(recipe)
    assert len(found.get("rounds", ())) == (2 if len(recipe) == 2 else 0)
    assert all(one["collections"] == {} for one in found.get("rounds", ()))
    assert not [message for message in caplog.messages if "nan" in message.split()]
    plan = Plan(compose([*unlabelled, *PAIRED, *JUDGE, *recipe]))
    record = plan.trained.record()
    assert record["teacher_ndcg"] is record["start_ndcg"] is record["judge_accuracy"] is None
    assert json.loads((plan.trained.path / "report.json").read_text())["judged_lists"] == 0
    header, *rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    contrastive = [float(row[header.index("train/contrastive")]) for row in rows]
    assert min(contrastive) > 0
