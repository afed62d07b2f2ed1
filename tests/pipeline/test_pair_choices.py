"""PAIR's and MD2PR's parts in whole configurations: what cannot work is refused, what goes together trains."""

import csv
import json

import pytest
from run_case import BM25_TEACHER, go

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.explain import explain
from retrieval_kd.pipeline.keys import deciding
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.run import train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

PASSAGE_CENTRIC = "objective=[contrastive,passage_centric]"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["student=sparse"], ["objective.passage_centric", "student=sparse", "student=dense would fit"]),
        (["student=late_interaction"], ["objective.passage_centric", "student=late_interaction"]),
        (["student.shared=false"], ["objective.passage_centric", "student.shared=false", "student.shared=true"]),
    ],
)
def test_passages_are_compared_in_one_space_only(overrides, words):
    with pytest.raises(UserError) as caught:
        check(compose([PASSAGE_CENTRIC, *overrides]))
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("option", ["dynamic", "band"])
def test_filters_act_on_hard_labels(option):
    with pytest.raises(UserError, match=rf"filter={option} drops hard-label negatives, and objective=\[listwise_kl\]"):
        check(compose([f"filter={option}", "objective=[listwise_kl]"]))
    check(compose([f"filter={option}", "objective=[passage_centric]"]))


def test_a_filter_asks_the_teacher_even_if_no_term_does():
    asked = {
        by: Plan(compose(["objective=[contrastive]", "filter=dynamic", f"filter.by={by}"])).parts.needs_scores
        for by in ("teacher", "student")
    }
    assert asked == {"teacher": True, "student": False}


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        (["teacher=ensemble"], {"bm25": "similarity", "minilm": "similarity"}),
        (["teacher=pointwise"], {"teacher": "logit"}),
        (["teacher=pairwise"], {"bm25": "similarity", "minilm": "similarity"}),
        (["teacher=pointwise", "scorer@teacher.scorer=language_model"], {"teacher": "log_odds"}),
    ],
)
def test_every_teacher_can_be_filtered_by(overrides, kinds):
    """The names of the members and what their scores are."""
    keep = Plan(compose(["filter=dynamic", *overrides])).parts.training().filter
    assert dict(zip(keep.scores.names, map(str, keep.scores.raw), strict=True)) == kinds


def test_a_run_files_kind_is_what_its_key_says(tmp_path):
    overrides = ["filter=band", "teacher=pointwise", "scorer@teacher.scorer=run_file", "teacher.scorer.path=x.trec"]
    keep = Plan(compose([*overrides, "teacher.scorer.kind=logit"])).parts.training().filter
    assert [str(kind) for kind in keep.scores.raw] == ["logit"]
    with pytest.raises(UserError, match="the teacher's member teacher gives similarity"):
        Plan(compose(overrides)).parts.training()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["filter=band"],
            "filter.negative=0.1 is a threshold of filter.kind=probability, and the teacher's member bm25",
        ),
        (["filter=band", *BM25_TEACHER], "filter.negative=0.1 is a threshold of filter.kind=probability"),
        (["filter=band", "teacher=pointwise", "filter.negative=0.95"], "filter.negative=0.95 is not below"),
        (["filter=dynamic", "filter.start=2"], "filter.start=2 is a threshold of filter.kind=probability"),
        (["filter=dynamic", "teacher=pointwise", "filter.start=2"], "filter.start=2: a threshold of probabilities"),
        (["filter=dynamic", "filter.member=monot5"], "filter.member=monot5: the teacher has bm25, minilm"),
    ],
)
def test_thresholds_are_told_before_the_first_step(small, tmp_path, written, overrides, message):
    with pytest.raises(UserError) as caught:
        train(compose([*small, f"store={tmp_path / 'store'}", *overrides]))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert written == []


def test_explain_says_what_is_a_reconstruction():
    text = explain(compose(["filter=dynamic"]))
    assert "filter: provenance: reconstruction" in text
    assert "reconstruction" not in explain(compose(["filter=none"]))


def test_what_an_option_says_of_itself_decides_no_artifact():
    """A scorer whose kind of scores is told now makes the scores that it made before."""
    node = {"_target_": "x", "score_kind": "logit", "members": {"one": {"provenance": "told", "tokens_per_batch": 8}}}
    assert deciding("teacher", node) == {"_target_": "x", "members": {"one": {}}}


def log_of(folder):
    with (folder / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["paper", "released"])
def test_passage_centric_beside_listwise_kl_under_a_filter(small, ensemble, out, form):
    terms = "objective=[contrastive,passage_centric,listwise_kl]"
    setting = f"objective.passage_centric.form={form}"
    go(*small, *ensemble, terms, setting, "filter=dynamic", "trainer.log_every=1", f"output_dir={out}")
    rows = log_of(next(out.rglob("log.csv")).parent)
    told = {"train/passage_centric", "train/filtered", "train/without_negatives", "train/filter_threshold_minilm"}
    assert told <= set(rows[0])
    assert all(0 <= float(row["train/filtered"]) <= 1 for row in rows)
    assert json.loads((out / "metrics.json").read_text())["collections"]


@pytest.mark.slow
@pytest.mark.parametrize("student", ["sparse", "late_interaction"])
def test_a_filter_by_the_students_similarities(small, out, student):
    overrides = [f"student={student}", "objective=[contrastive]", "filter=dynamic", "filter.by=student"]
    go(*small, *overrides, f"output_dir={out}")
    assert (out / "metrics.json").exists()
