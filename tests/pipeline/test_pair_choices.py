"""PAIR's and MD2PR's parts in whole configurations: what cannot work is refused, what goes together trains."""

import csv
import json
import shutil

import numpy as np
import pytest
from run_case import BM25_TEACHER, CROSS_ENCODER, go

from retrieval_kd.contracts import Role, UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.explain import explain
from retrieval_kd.pipeline.keys import deciding
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.run import step, train

pytestmark = [
    pytest.mark.slow,  # whole runs and plans
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]

PASSAGE_CENTRIC = "objective=[contrastive,passage_centric]"
LATE = ["student=late_interaction", "student.add_markers=true"]


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
    assert "filter: reconstruction" in text
    assert "reconstruction" not in explain(compose(["filter=none"]))


def test_what_an_option_says_of_itself_decides_no_artifact():
    """A scorer whose kind of scores is told now makes the scores that it made before."""
    node = {"_target_": "x", "score_kind": "logit", "members": {"one": {"provenance": "told", "tokens_per_batch": 8}}}
    assert deciding("teacher", node) == {"_target_": "x", "members": {"one": {}}}


def log_of(folder):
    with (folder / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("form", ["paper", "released"])
def test_passage_centric_beside_listwise_kl_under_a_filter(small, ensemble, out, form):
    terms = "objective=[contrastive,passage_centric,listwise_kl]"
    setting = f"objective.passage_centric.form={form}"
    go(*small, *ensemble, terms, setting, "filter=dynamic", "trainer.log_every=1", f"output_dir={out}")
    rows = log_of(next(out.rglob("log.csv")).parent)
    told = {"train/passage_centric", "train/filter_share", "train/filter_emptied", "train/filter_threshold_minilm"}
    assert told <= set(rows[0])
    assert all(0 <= float(row["train/filter_share"]) <= 1 for row in rows)
    assert json.loads((out / "metrics.json").read_text())["collections"]


@pytest.mark.parametrize("more", [["student=sparse", "student.start_terms=100"], LATE], ids=["sparse", "late"])
def test_a_filter_by_the_students_similarities(small, out, more):
    overrides = [*more, "objective=[contrastive]", "filter=dynamic", "filter.by=student"]
    go(*small, *overrides, f"output_dir={out}")
    assert (out / "metrics.json").exists()


# ---- word level

WORD_LEVEL = "objective=[contrastive,listwise_kl,word_level]"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["teacher=ensemble"], ["objective.word_level needs attention", "teacher=ensemble gives score"]),
        (["teacher=pairwise"], ["objective.word_level needs attention", "teacher=pairwise"]),
        (BM25_TEACHER, ["objective.word_level needs attention", "teacher=pointwise gives score"]),
        (["teacher=pointwise", "scorer@teacher.scorer=language_model"], ["objective.word_level needs attention"]),
        (
            ["teacher=pointwise", "scorer@teacher.scorer=run_file", "teacher.scorer.path=x"],
            ["objective.word_level needs attention", "scorer@teacher.scorer=cross_encoder or"],
        ),
        (["teacher=pointwise", "student=sparse"], ["needs attention", "student=sparse has none of queries"]),
    ],
)
def test_word_level_needs_a_white_box_and_words(overrides, words):
    with pytest.raises(UserError) as caught:
        check(compose([WORD_LEVEL, *overrides]))
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("student", ["dense", "late_interaction"])
def test_word_level_goes_with_a_cross_encoder(student):
    check(compose([WORD_LEVEL, "teacher=pointwise", f"student={student}"]))


def test_other_tokens_are_told_before_the_first_step(small, tmp_path, tiny, written):
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    (other / "vocab.txt").unlink(missing_ok=True)
    overrides = [WORD_LEVEL, "teacher=pointwise", f"teacher.scorer.name={other}", f"store={tmp_path / 'store'}"]
    with pytest.raises(UserError, match=r"objective\.word_level shows its teacher the student's tokens") as caught:
        train(compose([*small, *overrides]))
    assert str(other) in str(caught.value)
    assert "encoder.name=tiny" in str(caught.value)
    assert written == []


def test_explain_says_that_word_level_is_a_reconstruction():
    text = explain(compose([WORD_LEVEL, "teacher=pointwise"]))
    assert "objective.word_level: reconstruction" in text


@pytest.mark.parametrize("student", ["dense", "late_interaction"])
def test_word_level_beside_the_others(small, out, student):
    words = [WORD_LEVEL, *CROSS_ENCODER, "teacher.scorer.max_length=48", "filter=dynamic", "trainer.log_every=1"]
    go(*small, *words, *(LATE if student == "late_interaction" else []), f"output_dir={out}")
    rows = log_of(next(out.rglob("log.csv")).parent)
    assert all(float(row["train/word_level"]) > 0 for row in rows)


# ---- labels

# Not the cross-encoder's: its scores after three steps are all alike.
LABELS = (*BM25_TEACHER, "labels=thresholds", "labels.kind=similarity", "labels.positive=2.0", "labels.negative=1.5")


def test_labels_are_told_before_the_first_step(small, tmp_path, written):
    overrides = [*small, "labels=thresholds", f"store={tmp_path / 'store'}"]
    with pytest.raises(UserError, match=r"labels\.kind=probability, and the teacher's member bm25 gives similarity"):
        train(compose(overrides))
    with pytest.raises(UserError, match=r"labels\.negative=0\.95 is not below"):
        train(compose([*overrides, "teacher=pointwise", "labels.negative=0.95"]))
    assert written == []


def test_the_verb_without_labels_says_what_would_make_them(small, written):
    with pytest.raises(UserError, match=r"labels=none makes no labels; labels=thresholds would"):
        step(compose([*small]), "label")
    assert written == []


def test_labels_ask_the_teacher():
    text = explain(compose([*BM25_TEACHER, *LABELS, "objective=[contrastive]"]))
    assert "not asked" not in text


def test_labels_and_no_labels_share_what_was_scored():
    plain, labelled = (Plan(compose([*BM25_TEACHER, *more])) for more in ((), LABELS))
    entry = plain.train_entries[0]
    assert plain.candidates.scored(entry).key == labelled.candidates.scored(entry).key
    assert plain.candidates.told(entry).key == plain.candidates.scored(entry).key
    assert labelled.candidates.learned(entry).key == labelled.candidates.told(entry).key
    names = [step.name for step in labelled.training().walk()]
    assert "label" in names
    assert "label" not in [step.name for step in plain.training().walk()]


def test_the_verb_writes_candidates_with_scores_and_an_account(command, small, out):
    code, told, errors = command("label", *small, *LABELS, f"output_dir={out}", f"store={out.parent / 'store'}")
    assert code == 0, errors
    (path,) = out.rglob("candidates.parquet")
    found = Candidates.read(path)
    scores = np.load(path.parent / "scores.npy")
    assert scores.shape == (1, len(found))
    account = json.loads((path.parent / "statistics.json").read_text())
    assert account["negatives"] == int((found.role == Role.HARD).sum())
    assert (scores[0][found.role == Role.HARD] < 1.5).all()
    assert account["queries"] == 12
    assert "candidates.parquet" in told
    assert any("label: things/train: 12 queries" in line for line in errors)


def test_nothing_above_the_threshold_is_told(small):
    overrides = [*small, *LABELS, "labels.positive=500", "labels.judged=ignore", "objective=[contrastive]"]
    with pytest.raises(UserError, match=r"none of 12 queries of things/train has a passage above labels\.positive=500"):
        train(compose(overrides))


def test_pair_trains_two_stages_on_its_labels(small, out):
    experiment = ["experiment=pair", *LABELS]
    go(*small, *experiment, "trainer.log_every=1", f"output_dir={out}")
    last = Plan(compose([*small, *experiment])).trained
    steps = {step.key: step.name for step in last.walk()}
    assert sorted(name for name in steps.values() if name in ("label", "train")) == ["label", "label", "train", "train"]
    logs = [out / "log.csv", *(out / "stages" / stage / "log.csv" for stage in ("pretrain", "finetune"))]
    columns = [set(log.read_text().splitlines()[0].split(",")) for log in logs]
    assert ["train/passage_centric" in one for one in columns] == [False, True, False]
    assert logs[0].read_text() == logs[2].read_text()
    assert all((log.parent / "diagnostics.svg").stat().st_size > 0 for log in logs)


def test_pair_without_pseudo_labels_has_the_same_stages(small):
    """The first stage sets a key of labels=thresholds, which then nobody has."""
    trainings = Plan(compose([*small, "experiment=pair", *BM25_TEACHER, "labels=none"])).trainings
    assert list(trainings) == ["pretrain", "finetune"]
    assert [step.name for step in trainings["finetune"].walk() if step.name in ("label", "train")] == ["train", "train"]


def test_the_report_is_about_the_lists_that_are_learned_from(small, out):
    """Softmax and spread are those of what labels left; agreement is that with all that was found."""
    plan = Plan(compose([*small, *LABELS, "objective=[contrastive,listwise_kl]"]))
    labelled = Candidates.read(plan.candidates.learned(plan.train_entries[0]).make() / "candidates.parquet")
    mined = Candidates.read(plan.candidates.listed(plan.train_entries[0]).make() / "candidates.parquet")
    report = json.loads((plan.training().make() / "report.json").read_text())
    assert len(labelled) < len(mined)
    assert report["total_lists"] == len(labelled.query_ids)
    assert report["judged_lists"] == len(mined.query_ids)
    assert 0 < report["pairwise_accuracy"] < 1


def test_pair_runs_by_the_recipe_that_is_asked_for(small):
    assert Plan(compose([*small, "experiment=pair", *LABELS, "recipe=no_training"])).trained is None
    (only,) = Plan(compose([*small, "experiment=pair", *LABELS, "recipe=one_stage"])).trainings
    assert only == "train"


def test_pair_needs_no_judgements(small):
    check(compose([*small, "experiment=pair", *LABELS, "data.judgements=none"]))


def test_labels_without_judgements(small, out):
    """Hard labels on a collection that has none."""
    overrides = [*LABELS, "objective=[contrastive,passage_centric]", "data.judgements=none"]
    with pytest.raises(UserError, match="needs judgements"):
        check(compose([*small, *BM25_TEACHER, *overrides[len(LABELS) :]]))
    go(*small, *overrides, f"output_dir={out}")


def test_both_experiments_say_what_they_are():
    assert "reconstruction" in explain(compose(["experiment=md2pr"]))
    text = explain(compose(["experiment=pair"]))
    assert "0.9 · contrastive" in text
    assert "0.1 · passage_centric" in text
    assert "labels" in text
