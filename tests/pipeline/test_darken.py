"""Dark passages through the pipeline: made once, scored by content, learned from, and nobody's hard-label negative."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from run_case import BM25_TEACHER, go, metrics
from torch import nn
from training_case import make_training

from retrieval_kd.contracts import DARK_ROLES, Role, ScoreKind, UserError
from retrieval_kd.data.batches import BatchMaker
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.masks import has_masks
from retrieval_kd.data.representations import StoredRepresentations
from retrieval_kd.data.score_store import ScoreStore
from retrieval_kd.pairs.uniform import UniformPairs
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.explain import explain
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.run import step
from retrieval_kd.pipeline.steps.lists import read_lists
from retrieval_kd.pipeline.steps.pairing import drawn_by, pair
from retrieval_kd.pipeline.steps.stage import _training_set
from retrieval_kd.students.bi_encoder import BiEncoder
from retrieval_kd.teachers.pairwise import Pairwise

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

SPARSE = ("student=sparse", "student.start_terms=9", "regularizer=flops")
LATE = ("student=late_interaction", "student.add_markers=true", "student.dimensions=8", "student.query.max_length=12")
DARK = ("negatives=dark", "negatives.made.per_query=3")
FILES = ("candidates.parquet", "made.parquet", "made/texts.bin", "made/ids.bin")


@pytest.fixture(scope="module")
def plan(small, ensemble):
    return Plan(compose([*small, *ensemble, *DARK]))


@pytest.fixture(scope="module")
def entry(plan):
    return plan.train_entries[0]


@pytest.fixture(scope="module")
def lists(plan, entry):
    return read_lists(plan.candidates.darkened(entry).make(), entry.collection)


def origins_of(plan, entry):
    return pq.read_table(plan.candidates.darkened(entry).path / "made.parquet").to_pylist()


def made_rows(candidates):
    return np.flatnonzero(np.isin(candidates.role, DARK_ROLES))


def test_what_is_made_is_listed_and_found_by_its_id(plan, entry, lists):
    candidates, passages = lists
    rows = made_rows(candidates)
    ids = [candidates.passage_ids[row] for row in rows]
    texts = passages.texts(passages.rows(ids))
    roles = candidates.role[rows]
    assert [has_masks(text) for text in texts] == (roles == Role.DARK_MASKED).tolist()
    assert all(name.startswith("dark:") for name in ids)
    assert (candidates.relevance[rows] == 0).all()
    record = plan.candidates.darkened(entry).record()
    assert record["made"] == len(rows) > 60
    assert record["queries"] == 12
    assert record["seconds_per_100k_lists"] > 0
    origins = origins_of(plan, entry)
    assert {one["passage_id"] for one in origins} == set(ids)
    assert (entry.collection.passages.rows([one["base"] for one in origins]) >= 0).all()


def test_titles_are_left_alone(plan, entry, lists):
    """Passage p3 begins with its title, t3."""
    _, passages = lists
    origins = origins_of(plan, entry)
    for one in origins:
        (text,) = passages.texts(passages.rows([one["passage_id"]]))
        title = f"t{one['base'][1:]} "
        assert text.startswith(title)
        assert f"t{one['positive'][1:]} " not in text.removeprefix(title)


def test_where_judgements_are_ignored_no_made_passage_tells_what_was_judged(small):
    labels = ["labels=thresholds", "labels.judged=ignore", "labels.kind=similarity", "labels.positive=2"]
    plan = Plan(compose([*small, *BM25_TEACHER, *DARK, *labels, "labels.negative=1.5"]))
    entry = plan.train_entries[0]
    labelled = Candidates.read(plan.candidates.labelled(entry).make() / "candidates.parquet")
    told = json.loads((plan.candidates.labelled(entry).path / "statistics.json").read_text())
    made_of = {one["passage_id"]: one["positive"] for one in origins_of(plan, entry)}
    left = 0
    for one in labelled.lists():
        roles = one.role.tolist()
        positives = {name for name, role in zip(one.passage_ids, roles, strict=True) if role == Role.PSEUDO_POSITIVE}
        dark = [name for name, role in zip(one.passage_ids, roles, strict=True) if role in DARK_ROLES]
        assert {made_of[name] for name in dark} <= positives
        left += len(dark)
    assert left == told["made"]
    assert told["made_of_others"] > 0


def test_the_same_seed_makes_the_same_bytes(plan, entry, small, ensemble, tmp_path):
    other = Plan(compose([*small, *ensemble, *DARK, f"store={tmp_path}"]))
    one, again = plan.candidates.darkened(entry), other.candidates.darkened(other.train_entries[0])
    assert one.key == again.key
    assert [(one.make() / name).read_bytes() for name in FILES] == [
        (again.make() / name).read_bytes() for name in FILES
    ]
    seeded = Plan(compose([*small, *ensemble, *DARK, "negatives.made.seed=7"])).candidates.darkened(entry)
    assert seeded.key != one.key
    assert (seeded.make() / "made/texts.bin").read_bytes() != (one.path / "made/texts.bin").read_bytes()


@pytest.mark.slow
def test_what_is_found_does_not_depend_on_what_is_made(plan, entry, small, ensemble):
    hard = Plan(compose([*small, *ensemble]))
    assert hard.candidates.mined(entry).key == plan.candidates.mined(entry).key
    assert hard.candidates.listed(entry).key == plan.candidates.mined(entry).key
    fewer = Plan(compose([*small, *ensemble, "negatives=dark", "negatives.made.per_query=1"]))
    assert fewer.candidates.scored(entry).key == plan.candidates.scored(entry).key
    assert fewer.training().key != plan.training().key


@pytest.mark.slow
def test_made_passages_are_in_no_index_and_no_encoding(plan, entry, lists):
    candidates, _ = lists
    ids = [candidates.passage_ids[row] for row in made_rows(candidates)]
    assert (entry.collection.passages.rows(ids) == -1).all()
    assert plan.index(entry).record()["passages"] == 30
    untrained = Plan(compose([*[str(one) for one in plan.values["overrides"]], "recipe=no_training"]))
    encoded = StoredRepresentations.open(untrained.encoded(untrained.entries.evaluate[0]).make() / "passages")
    assert not set(encoded.ids) & set(ids)
    assert len(encoded.ids) == 30


def test_scores_are_kept_by_content(plan, entry, lists):
    """Of a made passage as of a found one: who makes the same text again does not ask again."""
    candidates, passages = lists
    scores = np.load(plan.candidates.scored(entry).make() / "scores.npy")
    assert scores.shape == (2, len(candidates))
    assert np.isfinite(scores).all()
    bm25 = plan.candidates.teacher(entry).members["bm25"]
    rows = made_rows(candidates)
    owners = candidates.row_query_ids()
    queries = [entry.collection.queries[owners[row]] for row in rows]
    texts = passages.texts(passages.rows([candidates.passage_ids[row] for row in rows]))
    store = ScoreStore(plan.store / "scores")
    np.testing.assert_array_equal(store.lookup(store.keys(bm25.fingerprint, queries, texts)), scores[0, rows])


class Spy(nn.Module):
    """An objective that remembers what it was given."""

    def forward(self, evidence, signals, negative, weight):
        self.negative = negative
        return {"spy": evidence.query_passage.sum()}


def test_batches_hold_made_passages_and_no_hard_label_negative_among_them(plan, entry, monkeypatch):
    training_set = _training_set(plan, entry)
    student = plan.parts.student(None)
    batch = BatchMaker(training_set, student.tokenizer)([(0, 0), (1, 0), (2, 0)])
    signals = batch.signals
    dark = np.array([name.startswith("dark:") for name in batch.passage_ids])
    assert signals.dark.tolist() == dark.tolist()
    assert 0 < dark.sum() <= 9
    monkeypatch.setattr(BiEncoder, "progress", 0.5)
    monkeypatch.setattr(BiEncoder, "log_dict", lambda *_, **__: None)
    spy = Spy()
    student.prepare(make_training(objective=spy))
    student.training_step(batch, 0)
    assert not spy.negative[:, dark].any()
    assert spy.negative[:, ~dark].any(1).all()
    assert not signals.positive[:, dark].any()
    assert signals.scores[:, dark].isfinite().any(0).all()
    mask = student.tokenizer.tokenizer.mask_token_id
    ids = [row.tolist() for group in batch.passages.groups for row in group.input_ids]
    masked = {number for number, row in enumerate(ids) if mask in row}
    texts = training_set.passages.texts(training_set.passages.rows(batch.passage_ids))
    assert {int(batch.passages.order[number]) for number in masked} == {
        number for number, text in enumerate(texts) if has_masks(text)
    }


class Judge:
    """Prefers the passage that shows more."""

    kind, stored, fingerprint = ScoreKind.LOG_ODDS, True, "shown"

    def score(self, queries, firsts, seconds):
        self.seen = {*firsts, *seconds}
        return np.array([len(i) - len(j) for i, j in zip(firsts, seconds, strict=True)], np.float32)


def test_a_judge_of_pairs_reads_made_passages(plan, entry, tmp_path):
    judge = Judge()
    found = [plan.candidates.listed(entry).make(), plan.candidates.scored(entry).make()]
    teacher = Pairwise(plan.candidates.teacher(entry), judge, "one")
    record = pair(tmp_path, entry.collection, found, teacher, drawn_by(UniformPairs(6, 32, 1)), tmp_path / "store")
    assert record["pairs"] == 72
    assert any(has_masks(text) for text in judge.seen)


def test_the_band_keeps_what_the_teacher_scores_between(plan, entry, small, ensemble, lists):
    banded = Plan(compose([*small, *ensemble, *DARK, "negatives.made.band=true"]))
    candidates, _ = read_lists(banded.candidates.darkened(entry).make(), entry.collection)
    statistics = json.loads((banded.candidates.darkened(entry).path / "statistics.json").read_text())
    assert 0 < statistics["reinforced"] + statistics["masked"] == len(made_rows(candidates)) < len(made_rows(lists[0]))
    members = np.load(banded.candidates.scored(entry).make() / "scores.npy")
    teacher = banded.candidates.teacher(entry)
    for first, last in zip(candidates.offsets[:-1], candidates.offsets[1:], strict=True):
        role = candidates.role[first:last]
        dark = np.isin(role, DARK_ROLES)
        scores = teacher.combine(members[:, first:last], dark)
        assert (scores[dark] >= scores[role == Role.HARD].max()).all()
        assert (scores[dark] <= scores[role == Role.POSITIVE].max()).all()


def test_the_verb(command, small, ensemble):
    code, out, err = command("darken", *small, *ensemble, *DARK)
    assert code == 0, err
    assert "made/texts.bin" in out
    assert "seconds_per_100k_lists" in out
    code, _, err = command("darken", *small, *ensemble)
    assert (code, err) == (2, ["error: negatives=hard makes no passages; negatives=dark would"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.judgements=none", "objective=[listwise_kl]"], ["negatives=dark", "no judgements", "negatives=hard"]),
        (["objective=[contrastive]"], ["negatives=dark", "objective=[contrastive]", "negatives=hard", "listwise_kl]"]),
        (
            ["objective=[listwise_kl_found]", "pacing=self_paced"],
            ["pacing=self_paced", "asks no teacher", "pacing=none"],
        ),
        (
            ["teacher=pointwise", "scorer@teacher.scorer=run_file", "teacher.scorer.path=run.trec"],
            ["negatives=dark makes passages", "teacher.scorer", "negatives=hard would fit"],
        ),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_composed(small, overrides, says):
    with pytest.raises(UserError) as caught:
        check(compose([*small, *DARK, *overrides]))
    assert [word for word in says if word not in str(caught.value)] == []


def test_a_wrong_setting_is_told_before_anything_is_mined(small, ensemble, tmp_path):
    wrong = [*small, *ensemble, *DARK, f"store={tmp_path}", "negatives.made.masked.share=[0.5,2]"]
    for what in (lambda: go(*wrong), lambda: step(compose(wrong), "darken")):
        with pytest.raises(UserError, match=r"negatives\.made\.masked\.share"):
            what()
    assert not (tmp_path / "search").exists()


@pytest.mark.slow
@pytest.mark.parametrize("who", ["a cross-encoder", "a bi-encoder", "a judge"])
def test_a_teacher_without_a_mask_is_told_before_anything_is_mined(small, ensemble, tiny, tmp_path, written, who):
    other = tmp_path / "maskless"
    shutil.copytree(tiny, other)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (other / name).exists():
            settings = json.loads((other / name).read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
            (other / name).write_text(json.dumps({key: value for key, value in settings.items() if "mask" not in key}))
    says = {
        "a cross-encoder": ["teacher=pointwise", f"teacher.scorer.name={other}"],
        "a bi-encoder": [f"teacher.members.minilm.encoder.encoder.name={other}"],
        "a judge": ["teacher=pairwise", f"teacher.judge.name={other}", "objective=[listwise_kl,pairwise]"],
    }
    store = f"store={tmp_path / 'store'}"
    with pytest.raises(UserError, match=rf"{other} has no mask token.*masked\.variant=delete") as caught:
        go(*small, *DARK, *says[who], store)
    assert "\n" not in str(caught.value)
    assert written == []


def test_explain_tells_what_is_made_and_that_it_is_a_reconstruction(small, ensemble):
    text = explain(compose([*small, *ensemble, *DARK, "pacing=self_paced"]))
    assert "reinforced.count 4" in text
    assert "negatives.made: reconstruction, after ADAM" in text
    assert "pacing: reconstruction, after ADAM" in text
    assert "14 passages" in text  # 6 of the pool and 8 made ones, for the teacher


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("pacing=self_paced",),
        pytest.param(("teacher.in_batch=true",), marks=pytest.mark.slow),
        pytest.param(("objective=[listwise_kl,ranknet,margin_mse]", "pacing=self_paced"), marks=pytest.mark.slow),
        pytest.param((*BM25_TEACHER, *SPARSE), marks=pytest.mark.slow),
        pytest.param((*BM25_TEACHER, *LATE), marks=pytest.mark.slow),
        pytest.param(("negatives.made.masked.variant=delete",), marks=pytest.mark.slow),
    ],
    ids=["paced", "in batch", "terms", "sparse", "late", "delete"],
)
def test_a_training(small, ensemble, out, more):
    members = () if BM25_TEACHER[0] in more else ensemble
    go(*small, *members, *DARK, *more, "trainer.log_every=1", f"output_dir={out}")
    assert metrics(out)["collections"]["things/test"]["measures"]["ndcg@10"] > 0
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert all(float(row["train/loss"]) > 0 for row in rows)
    if "pacing=self_paced" in more:
        shares = [float(row["train/pacing_share"]) for row in rows]
        assert shares == sorted(shares)
        assert 0 < float(rows[0]["train/pacing_weight"]) < 1


@pytest.mark.slow
def test_a_judge_that_is_trained_here_and_a_teacher_that_is_trained_here(small, out):
    go(
        *small,
        *DARK,
        "teacher=pairwise",
        "teacher@teacher.base=pointwise",
        "teacher.base.scorer.max_length=24",
        "teacher.base.scorer.train.batch_size=6",
        "teacher.judge.max_length=48",
        "teacher.judge.train.batch_size=6",
        "teacher.judge.train.pairs=2",
        "teacher.judge.train.labels=scores",
        "teacher.judge.precision=fp32",
        "objective=[listwise_kl,pairwise]",
        "pacing=self_paced",
        f"output_dir={out}",
    )
    assert metrics(out)["collections"]["things/test"]["measures"]["ndcg@10"] > 0
