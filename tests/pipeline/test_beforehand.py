"""What cannot work is told before the first step, and a disk is refused only if it is too small for what is left."""

import json
import shutil
from collections import namedtuple

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.beforehand import Work, planned
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.parts import Parts
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.run import step, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

Usage = namedtuple("Usage", "total used free")
BM25_TEACHER = ("teacher=pointwise", "scorer@teacher.scorer=bm25")


@pytest.fixture
def fresh(small, tmp_path):
    """Overrides of a small training with an empty store."""
    return (*small, f"store={tmp_path / 'store'}")


@pytest.fixture
def disk(monkeypatch):
    """Says how much is free."""

    def has(free, total=10**15):
        monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(total, total - free, free))

    return has


# ---- settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.listwise_kl.unscored=foo", "objective.listwise_kl.unscored is exclude or zero, got foo"),
        ("objective.contrastive.temperature=0", "objective.contrastive.temperature must be > 0"),
        ("+objective.contrastive.temprature=1", "objective.contrastive: Contrastive: got an unexpected keyword"),
        ("+filter.keep=1", "filter: KeepAll"),
        ("+pacing.speed=1", "pacing: Constant"),
        ("+regularizer.strength=1", "regularizer: NoPenalty"),
        ("+optimizer.rate=1", "optimizer: "),
        ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
        ("negatives.window=[5,1]", "negatives.window: [first, last] rank"),
        ("negatives.window=[5]", "negatives.window=[5]: [first rank, last rank]"),
        ("negatives.positives=0", "negatives.positives must be at least 1"),
        ("+recipe.stages.second=['objective.listwise_kl.unscored=foo']", "objective.listwise_kl.unscored"),
        ("+recipe.stages.second=['negatives.positives=0']", "negatives.positives must be at least 1"),
    ],
)
def test_settings_that_nothing_accepts_are_told_before_the_first_step(fresh, override, message, written):
    with pytest.raises(UserError) as caught:
        train(compose([*fresh, override]))
    assert str(caught.value).startswith(message)
    assert written == []


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("data.split=dev", "trainer.select=best"), "trainer.select=best: the model is chosen on things/dev"),
        (("data.split=[dev,test]", "trainer.patience=2"), "trainer.patience=2: the model is chosen on things/dev"),
        (("data.split=dev",), None),
        (("data.split=test", "trainer.select=best"), None),
    ],
)
def test_a_model_that_is_chosen_on_what_is_reported_is_told_once(fresh, overrides, told, caplog):
    plan = Plan(compose([*fresh, "objective=[contrastive]", "trainer.validate_every=1", *overrides]))
    Work(plan, planned(plan), plan.entries.evaluate).tell_chosen()
    warnings = [record.getMessage() for record in caplog.records if "is chosen on" in record.getMessage()]
    assert len(warnings) == (told is not None)
    assert all(one.startswith(told) and "data.validation=" in one for one in warnings)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["mine", "score"])
def test_negatives_are_looked_at_before_they_are_mined(fresh, verb, written):
    with pytest.raises(UserError, match=r"negatives\.window: \[first, last\] rank"):
        step(compose([*fresh, "negatives.window=[5,1]"]), verb)
    step(compose([*fresh, *BM25_TEACHER, "objective.listwise_kl.unscored=foo"]), verb)  # nothing of a training
    assert written[-1] == verb


@pytest.mark.slow
def test_what_is_done_is_not_built_again(small, tmp_path, monkeypatch):
    done = compose([*small, "objective=[contrastive]", f"output_dir={tmp_path / 'out'}"])
    train(done)
    monkeypatch.setattr(Parts, "training", lambda self: pytest.fail("there is nothing to train"))
    train(done)


# ---- room


def needed(*overrides):
    plan = Plan(compose(overrides))
    return Work(plan, plan.results(), plan.entries.evaluate).bytes_needed()


def test_a_disk_that_is_too_small_is_told_before_the_first_step(fresh, disk, written, tmp_path):
    disk(100)
    with pytest.raises(UserError) as caught:
        train(compose([*fresh, *BM25_TEACHER]))
    assert str(caught.value).startswith(f"store={tmp_path / 'store'}: ")
    assert "are needed and 100 B are free" in str(caught.value)
    assert "runs " in str(caught.value)
    with pytest.raises(UserError, match="are needed and 100 B are free"):
        step(compose(fresh), "mine")
    assert written == []


@pytest.mark.slow
def test_a_disk_that_suffices_or_says_nothing_of_itself_is_not_refused(fresh, disk, written):
    mine = compose(fresh)
    disk(0, total=0)
    step(mine, "mine")
    assert written[-1] == "mine"
    disk(0)
    step(mine, "mine")  # what is done needs nothing
    kept = sum(needed(*fresh, *BM25_TEACHER).values())
    disk(kept - 1)
    with pytest.raises(UserError, match="are needed"):
        train(compose([*fresh, *BM25_TEACHER, "output_dir=null"]))


@pytest.mark.slow
def test_what_is_needed_is_what_will_be_there(fresh, tmp_path, written):
    """Runs, scores and model of a whole training, against the files that it left; nothing is asked for twice."""
    overrides = [*fresh, *BM25_TEACHER]
    before = needed(*overrides)
    assert set(before) == {"runs", "the teacher's scores"}  # the tiny encoder is made, its size stands nowhere
    out = train(compose([*overrides, f"output_dir={tmp_path / 'out'}"]))
    store = tmp_path / "store"
    runs = sum(path.stat().st_size for path in store.glob("search/*/run.trec"))
    assert 0.8 * runs < before["runs"] < 1.1 * runs
    scores = sum(path.stat().st_size for path in (store / "scores").rglob("*") if path.is_file())
    assert before["the teacher's scores"] < 1.1 * scores
    assert needed(*overrides) == {}
    shutil.rmtree(store / "train")
    shutil.rmtree(store / "score")
    assert set(needed(*overrides)) <= {"runs"}  # the store has the scores
    assert out.exists()


@pytest.mark.slow
def test_vectors_and_weights_are_counted(things, tmp_path):
    """By the headers of an encoder: 120 weights, 4 dimensions; 30 passages."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path / "encoder"
    folder.mkdir()
    save_file({"embeddings.weight": np.zeros((30, 4), np.float32)}, folder / "model.safetensors")
    config = {"hidden_size": 4, "num_hidden_layers": 3, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    small = ("data=folder", f"data.path={things}", f"store={tmp_path / 'store'}", f"encoder.name={folder}")
    own = needed(*small, *BM25_TEACHER)
    assert own["models"] == 120 * 4
    assert own["vectors"] == 30 * 4 * 4
    taught = needed(*small, "objective=[contrastive]", "+recipe.stages.second=['trainer.epochs=2']")
    assert taught["models"] == 2 * 120 * 4
    member = ("teacher=pointwise", "scorer@teacher.scorer=bi_encoder", f"teacher.scorer.encoder.encoder.name={folder}")
    vectors = needed(*small, *member)["the teacher's vectors"]
    assert 12 * 4 * 4 < vectors <= (12 + 30) * 4 * 4
    assert "the teacher's vectors" not in own
    assert set(needed(*small, "engine=bm25")) == {"runs"}
    ranked = needed(*small, "engine=rerank", *BM25_TEACHER)
    assert ranked["the teacher's scores"] == 8 * 100 * 20
