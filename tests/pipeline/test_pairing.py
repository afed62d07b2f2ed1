"""Pairs from mined and scored lists: drawn, judged once, reported, and under keys of what decides them."""

import json
import re

import numpy as np
import pytest
from run_case import go, metrics

from retrieval_kd.contracts import Role, ScoreKind, UserError
from retrieval_kd.data.candidates import Candidate, Candidates
from retrieval_kd.data.pairs import BACKWARD, FORWARD, Pairs, place
from retrieval_kd.pairs.window import WindowPairs
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.explain import explain
from retrieval_kd.pipeline.page import TIMES
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.steps.pairing import _report, drawn_by, judged_pairs, pair
from retrieval_kd.pipeline.steps.scoring import signalled
from retrieval_kd.teachers.pairwise import Pairwise

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

MEMBER = (
    "teacher.base.members.minilm.encoder.encoder.name=tiny",
    "teacher.base.members.minilm.encoder.inference.precision=fp32",
)
PAIRED = ("teacher=pairwise", *MEMBER, "objective=[listwise_kl,pairwise]", "pairs.per_query=4")
CONTROL = "judge@teacher.judge=score_differences"
TRAINED = (
    "teacher.judge.max_length=48",
    "teacher.judge.train.batch_size=6",
    "teacher.judge.train.pairs=2",
    "teacher.judge.precision=fp32",
)


class Judge:
    """Prefers the longer passage, and what stands first."""

    kind, stored, fingerprint = ScoreKind.LOG_ODDS, True, "longer"

    def __init__(self):
        self.calls = []

    def score(self, queries, firsts, seconds):
        self.calls += zip(queries, firsts, seconds, strict=True)
        return np.array([(len(i) - len(j)) / 10 + 0.5 for _, i, j in self.calls[-len(queries) :]], np.float32)


@pytest.fixture(scope="module")
def plan(small):
    return Plan(compose([*small, *PAIRED, CONTROL]))


@pytest.fixture(scope="module")
def found(plan):
    entry = plan.train_entries[0]
    return [plan.candidates.mined(entry).make(), plan.candidates.scored(entry).make()]


@pytest.fixture(scope="module")
def lists(found):
    return Candidates.read(found[0] / "candidates.parquet")


def judged(plan, found, tmp_path, orders, judge):
    entry = plan.train_entries[0]
    teacher = Pairwise(plan.candidates.teacher(entry), judge, orders)
    folder = tmp_path / f"{orders}-{len(judge.calls)}"
    folder.mkdir()
    draw = drawn_by(WindowPairs(4, 32, 42, 5))
    record = pair(folder, entry.collection, found, teacher, draw, tmp_path / "store")
    return Pairs.read(folder / "pairs.parquet"), record, json.loads((folder / "pair_report.json").read_text())


@pytest.mark.slow
def test_pairs_are_judged_in_both_orders_and_never_twice(plan, found, lists, tmp_path):
    """One order first: then only the other one is asked, and a third time nothing at all."""
    collection, judge = plan.train_entries[0].collection, Judge()
    one, record, report = judged(plan, found, tmp_path, "one", judge)
    assert set(one.order) == {FORWARD}
    assert record["teacher_calls"] == len(one) == len(judge.calls) == 4 * record["queries"]
    assert report["read_twice"] == 0
    both, record, report = judged(plan, found, tmp_path, "both", judge)
    assert record["teacher_calls"] == len(both) == 2 * len(one)
    assert len(set(judge.calls)) == len(judge.calls) == len(both)
    assert report["order_bias"] == pytest.approx(0.5)
    rows = zip(both.query_ids, both.passage_i, both.passage_j, both.order, both.log_odds.tolist(), strict=True)
    for _, i, j, order, odds in rows:
        first, second = (len(text) for text in collection.passages.texts(collection.passages.rows([i, j])))
        assert odds == pytest.approx((first - second) / 10 + (0.5 if order == FORWARD else -0.5), abs=1e-5)
    assert both.order == [FORWARD, BACKWARD] * len(one)
    placed = place(both, lists, "here")
    assert len(placed) == len(one)
    texts = collection.passages.texts(collection.passages.rows(lists.passage_ids))
    expected = [(len(texts[i]) - len(texts[j])) / 10 for i, j in zip(placed.left, placed.right, strict=True)]
    np.testing.assert_allclose(placed.log_odds, expected, atol=1e-5)  # what standing first is worth has cancelled
    before = len(judge.calls)
    judged(plan, found, tmp_path, "both", judge)
    assert len(judge.calls) == before


def test_the_better_score_is_read_first_within_the_window(plan, found, lists, tmp_path):
    one, _, _ = judged(plan, found, tmp_path, "one", Judge())
    scores = signalled(found[1], lists, plan.candidates.teacher(plan.train_entries[0])).scores
    of = dict(zip(zip(lists.row_query_ids(), lists.passage_ids, strict=True), scores.tolist(), strict=True))
    for query, i, j in zip(one.query_ids, one.passage_i, one.passage_j, strict=True):
        assert of[query, i] >= of[query, j]


def test_judged_pairs_are_a_positive_beside_the_best_others(plan, found, lists):
    scores = signalled(found[1], lists, plan.candidates.teacher(plan.train_entries[0])).scores
    pairs = judged_pairs(lists, scores)
    roles = lists.role[pairs]
    assert len(pairs) > len(lists.query_ids)
    assert ((roles == 0).sum(1) == 1).all()
    assert (scores[pairs[:, 0]] >= scores[pairs[:, 1]]).all()


@pytest.mark.slow
def test_the_control_is_the_scores_themselves(plan, found, lists):
    made = plan.pairing.paired(plan.train_entries[0]).make()
    pairs = Pairs.read(made / "pairs.parquet")
    scores = signalled(found[1], lists, plan.candidates.teacher(plan.train_entries[0])).scores
    placed = place(pairs, lists, "here")
    np.testing.assert_allclose(placed.log_odds, scores[placed.left] - scores[placed.right], atol=1e-6)
    assert set(pairs.order) == {FORWARD}
    report = json.loads((made / "pair_report.json").read_text())
    assert report["disagreement"] == 0
    assert report["accuracy"] == report["base_accuracy"]


def keys(small, *overrides):
    plan = Plan(compose([*small, *PAIRED, CONTROL, *overrides]))
    entry = plan.train_entries[0]
    steps = (plan.candidates.mined(entry), plan.candidates.scored(entry), plan.pairing.paired(entry), plan.training())
    return [step.key for step in steps]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("pairs.per_query=5", 2),
        ("pairs=uniform", 2),
        ("teacher.orders=one", 4),  # scores are compared, and nothing is read first
        ("teacher.judge.scale=2", 2),
        ("judge@teacher.judge=sequence_to_sequence", 2),
        ("teacher.base.normalise=z_score", 1),
        ("objective.pairwise.teacher_temperature=2", 3),
        ("objective.pairwise.weight=0", 3),
        ("trainer.log_every=3", 4),
    ],
)
def test_what_decides_the_pairs_decides_their_key(small, override, same):
    """Of mining, scoring, pairs and training, so many steps are still the same."""
    before, after = keys(small), keys(small, override)
    assert [one == other for one, other in zip(before, after, strict=True)] == [True] * same + [False] * (4 - same)


def test_the_order_in_which_a_judge_reads_decides_its_pairs(small):
    judge = "judge@teacher.judge=sequence_to_sequence"
    both, one = keys(small, judge), keys(small, judge, "teacher.orders=one")
    assert [a == b for a, b in zip(both, one, strict=True)] == [True, True, False, False]


def test_the_report_averages_rows_that_repeat_a_pair_and_grades_nothing_that_was_made():
    def candidate(name, role, relevance=0):
        return Candidate(name, role, 1, "run", 0, relevance)

    made = [candidate("dark:1", Role.DARK_REINFORCED), candidate("c", Role.HARD)]
    lists = Candidates.from_lists([("q", [candidate("a", Role.POSITIVE, 2), candidate("b", Role.HARD), *made])])
    rows = [("a", "b", -1.0), ("a", "b", -3.0), ("b", "a", -7.0), ("a", "dark:1", -1.0), ("c", "a", 1.0)]
    one, other, odds = zip(*rows, strict=True)
    pairs = Pairs(["q"] * 5, list(one), list(other), ["ij"] * 5, np.array(odds, np.float32), ["file"] * 5)
    report = _report(pairs, lists, np.array([3.0, 1.0, 2.0, np.nan], np.float32))
    assert report.pairs == 3
    assert report.judged_pairs == 1  # neither what was made nor what has no score
    assert report.read_twice == 1
    # a over b: -2 read first, +7 read second
    assert report.order_bias == pytest.approx((-2 - 7) / 2)
    assert (report.accuracy, report.base_accuracy) == (1.0, 1.0)


def test_scores_are_shared_with_a_teacher_that_judges_nothing(small, ensemble, plan):
    alone = Plan(compose([*small, *ensemble]))
    entry = plan.train_entries[0]
    assert alone.candidates.scored(alone.train_entries[0]).key == plan.candidates.scored(entry).key
    assert "pair" not in {step.name for step in alone.training().walk()}


def test_batch_sizes_of_a_judge_decide_nothing(small):
    judge = "judge@teacher.judge=sequence_to_sequence"
    assert keys(small, judge) == keys(small, judge, "teacher.judge.tokens_per_batch=7")


@pytest.mark.slow
def test_training_takes_pairs_and_says_what_the_judge_is_worth(small, out):
    logged = "trainer.log_every=1"
    assert metrics(go(*small, *PAIRED, CONTROL, logged, f"output_dir={out}"))["cost"]["train_steps"] == 3
    plan = Plan(compose([*small, *PAIRED, CONTROL]))
    record = plan.training().record()
    assert record["judge_accuracy"] == record["base_accuracy"] > 0
    assert (plan.training().path / "pair_report.json").exists()
    assert "train/pairwise" in (out / "log.csv").read_text().splitlines()[0]


@pytest.mark.slow
def test_a_judge_is_trained_here_and_told_about_on_held_out_pairs(small, out):
    plan = Plan(compose([*small, *PAIRED, *TRAINED]))
    go(*small, *PAIRED, *TRAINED, f"output_dir={out}")
    steps = plan.training().walk()
    assert [step.about for step in steps if step.name == "teach"] == ["judge of pairs"]
    assert plan.reported_entry.split == "dev"
    assert sorted(step.about for step in steps if step.name == "pair") == ["judged pairs of things/dev", "things/train"]
    pairs = Pairs.read(plan.pairing.paired(plan.train_entries[0]).path / "pairs.parquet")
    assert set(pairs.order) == {FORWARD, BACKWARD}
    assert np.abs(pairs.log_odds).max() > 0


@pytest.mark.slow
def test_without_judgements_the_scores_teach_the_judge_and_the_student(small, out):
    bare = ("data.judgements=none", "teacher.judge.train.labels=scores")
    assert metrics(go(*small, *PAIRED, *TRAINED, *bare, f"output_dir={out}"))["cost"]["train_steps"] == 3


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("labels", ["judgements", "scores"])
def test_a_judge_is_trained_on_what_was_found(small, labels):
    """Nobody knows what made passages are worth; so their making asks for no other judge."""
    said = [*small, *PAIRED, f"teacher.judge.train.labels={labels}"]
    hard, dark = (Plan(compose([*said, f"negatives={name}"])) for name in ("hard", "dark"))
    assert dark.pairing.taught().key == hard.pairing.taught().key
    entry = dark.train_entries[0]
    assert dark.pairing.paired(entry).key != hard.pairing.paired(entry).key


@pytest.mark.slow
def test_target_teacher_trains_the_judge(small, out):
    go(*small, *PAIRED, *TRAINED, "target=teacher", f"output_dir={out}")
    assert (out / "judge" / "model.safetensors").exists()


@pytest.mark.slow
def test_explain_counts_the_calls(small):
    text = explain(compose([*small, *PAIRED]))
    (row,) = [line for line in text.splitlines() if f"4 pairs {TIMES} 2 orders {TIMES}" in line]
    assert "12 queries = 96 calls" in row
    assert "cross_encoder(" in text
    assert "orders both" in text
    assert "window(per_query 4" in text
    assert "asks no model" in explain(compose([*small, *PAIRED, CONTROL]))
    unasked = explain(compose([*small, "teacher=pairwise", *MEMBER])).splitlines()  # no term asks for pairs
    assert not [line for line in unasked if "judge" in line.replace("positive judged", "").split()]


def test_the_verb_writes_the_pairs(small, command, out):
    code, told, _ = command("pair", *small, *PAIRED, CONTROL, f"output_dir={out}")
    assert code == 0
    assert "pairs.parquet" in told
    assert "teacher_calls 0" in told
    assert (out / "pair_report.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pairs.top=1"], "pairs.top must be at least 2"),
        (["pairs.per_query=0"], "pairs.per_query must be at least 1"),
        (["teacher.orders=twice"], "teacher.orders is one or both"),
        (["teacher.judge.scale=-1"], "teacher.judge.scale must be"),
        (["objective.pairwise.average=lists"], "objective.pairwise.average"),
    ],
)
def test_bad_settings_are_one_line(small, command, overrides, message):
    code, _, told = command("train", *small, *PAIRED, CONTROL, *overrides)
    assert code == 2
    assert re.search(message, told[-1])
    assert "Traceback" not in "".join(told)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective=[pairwise]"], "objective.pairwise needs preference.*teacher=pairwise would fit"),
        (["teacher=pairwise", "teacher@teacher.base=pairwise"], "teacher.base=pairwise is a judge of pairs itself"),
    ],
)
def test_teachers_that_do_not_fit_are_one_line(small, command, overrides, message):
    code, _, told = command("train", *small, *overrides)
    assert code == 2
    assert re.search(message, told[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([CONTROL, "teacher.judge.scale=-1"], r"teacher\.judge\.scale must be"),
        ([CONTROL, "teacher.orders=twice"], r"teacher\.orders is one or both"),
        (["judge@teacher.judge=pair_file", "teacher.judge.path=nowhere"], r"teacher\.judge\.path=nowhere: there is no"),
        (["teacher.judge.train.labels=guesses"], r"teacher\.judge\.train\.labels is judgements or scores, got guesses"),
        (["teacher.judge.train.pairs=0"], r"teacher\.judge\.train\.pairs=0"),
        (["teacher.judge.train.labels=scores", "teacher.judge.train.temperature=0"], r"train\.temperature=0"),
        (["teacher.judge.name=/no/such/folder"], r"teacher\.judge\.name: no folder /no/such/folder"),
        (["teacher.judge.train=null", "teacher.judge.name=/no/such/folder"], "cross-encoder /no/such/folder"),
        (
            ["judge@teacher.judge=language_model", "teacher.judge.template='{query} {first}'"],
            r"template: \{second\} must",
        ),
        (["judge@teacher.judge=language_model", "teacher.judge.name=/no/such/folder"], "language model /no/such"),
    ],
)
def test_a_judges_mistakes_are_told_before_anything_is_mined(small, tmp_path, written, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        go(*small, *PAIRED, *overrides, f"store={tmp_path / 'store'}")
    assert "\n" not in str(caught.value)
    assert written == []


def test_answers_that_are_split_are_told_before_anything_is_mined(small, command, written, monkeypatch, tiny, tmp_path):
    from transformers import AutoTokenizer

    from retrieval_kd.teachers import language_model

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    monkeypatch.setattr(language_model, "load_tokenizer", lambda name: (None, tokenizer))
    judge = ("judge@teacher.judge=language_model", "teacher.judge.answers=[yes,negative]")
    code, _, told = command("train", *small, *PAIRED, *judge, f"store={tmp_path / 'store'}")
    assert code == 2
    assert "answers: the tokenizer of google/flan-t5-base makes" in told[-1]
    assert written == []


def test_a_pair_file_is_taken_as_it_is(small, plan, tmp_path):
    made = plan.pairing.paired(plan.train_entries[0]).make()
    pairs = Pairs.read(made / "pairs.parquet")
    pairs.write(tmp_path / "mine.parquet")
    file = ("judge@teacher.judge=pair_file", f"teacher.judge.path={tmp_path / 'mine.parquet'}")
    own = Plan(compose([*small, *PAIRED, *file]))
    taken = Pairs.read(own.pairing.paired(own.train_entries[0]).make() / "pairs.parquet")
    assert taken.passage_i == pairs.passage_i
    np.testing.assert_array_equal(taken.log_odds, pairs.log_odds)
    entry = own.train_entries[0]
    key = own.pairing.paired(entry).key
    assert own.pairing.reported(entry).key == key  # it holds no others, whose answer were known
    assert [one.key for one in own.pairing.of_training([entry], entry)] == [key]
    assert len(plan.pairing.of_training([entry], entry)) == 2
    nothing_drawn = Plan(compose([*small, *PAIRED, *file, "pairs.per_query=1", "teacher.orders=one"]))
    assert nothing_drawn.pairing.paired(entry).key == key
    pairs.passage_j[2] = "p29x"
    pairs.write(tmp_path / "mine.parquet")
    own = Plan(compose([*small, *PAIRED, *file]))
    with pytest.raises(UserError, match=r"mine\.parquet: .*passage 'p29x', which is not in its list"):
        own.pairing.paired(own.train_entries[0]).make()
