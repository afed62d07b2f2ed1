"""An artifact is complete or absent, is made once, and lies under a digest of what decides it and of nothing else."""

import json
import subprocess
import sys
import threading

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.artifacts import Step
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.plan import Plan


def step(store, name="thing", version=1, config=None, inputs=(), write=None):
    return Step(name, version, config or {"a": 1}, inputs, store, write or (lambda folder: {}))


def test_written_once_with_a_record(tmp_path):
    calls = []

    def write(folder):
        calls.append(folder)
        (folder / "content").write_text("x")
        return {"count": 7}

    one = step(tmp_path, write=write)
    assert not one.done
    assert one.make() == one.make() == tmp_path / "thing" / one.key
    assert len(calls) == 1
    assert step(tmp_path, write=write).done
    assert (one.path / "content").read_text() == "x"
    record = one.record()
    assert (record["count"], record["config"]) == (7, {"a": 1})
    assert json.loads((one.path / "step.json").read_text()) == record


@pytest.mark.parametrize("fault", [RuntimeError("fault"), KeyboardInterrupt()])
def test_a_step_that_fails_leaves_nothing(tmp_path, fault):
    def write(folder):
        (folder / "half").write_text("x")
        raise fault

    one = step(tmp_path, write=write)
    with pytest.raises(type(fault)):
        one.make()
    assert list((tmp_path / "thing").iterdir()) == []
    assert step(tmp_path).make() == one.path  # the next attempt starts afresh


def test_a_full_disk_is_told_in_one_line(tmp_path):
    def write(folder):
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="no space left on the disk"):
        step(tmp_path, write=write).make()
    assert list((tmp_path / "thing").iterdir()) == []


def test_key_is_of_name_version_config_and_inputs(tmp_path):
    first = step(tmp_path)
    others = [
        step(tmp_path, name="other"),
        step(tmp_path, version=2),
        step(tmp_path, config={"a": 2}),
        step(tmp_path, inputs=["digest"]),
        step(tmp_path, inputs=[first]),
        step(tmp_path, inputs=[step(tmp_path, version=2)]),
    ]
    assert len({first.key, *(other.key for other in others)}) == 7
    assert step(tmp_path / "elsewhere", config={"a": 1}).key == first.key
    assert step(tmp_path, config={"a": 1, "b": 2}).key == step(tmp_path, config={"b": 2, "a": 1}).key


def test_inputs_are_made_first_and_their_time_is_their_own(tmp_path):
    order = []

    def slow(folder):
        threading.Event().wait(0.2)
        order.append("input")
        return {}

    first = step(tmp_path, name="input", write=slow)
    second = step(tmp_path, name="output", inputs=[first], write=lambda folder: order.append("output") or {})
    assert [one.name for one in second.walk()] == ["input", "output"]
    assert second.record()["seconds"] < 0.1 < first.record()["seconds"]
    assert order == ["input", "output"]


def test_walk_is_not_longer_for_many_paths(tmp_path):
    """Forty steps, each read twice by the next: a walk along every path would not end."""
    one = step(tmp_path, name="0")
    for number in range(1, 40):
        one = step(tmp_path, name=str(number), inputs=[one, step(tmp_path, name=f"{number}b", inputs=[one])])
    assert [each.name for each in one.walk() if not each.name.endswith("b")] == [str(number) for number in range(40)]


def test_walk_has_each_step_once(tmp_path):
    base = step(tmp_path, name="base")
    left, right = (step(tmp_path, name=name, inputs=[base]) for name in ("left", "right"))
    assert [one.name for one in step(tmp_path, name="top", inputs=[left, right, "x"]).walk()] == [
        "base",
        "left",
        "right",
        "top",
    ]


PROCESS = """
import sys, time
from pathlib import Path
from retrieval_kd.pipeline.artifacts import Step

def write(folder):
    (folder / "content").write_text("the same")
    (Path(sys.argv[1]) / f"ready-{sys.argv[2]}").touch()
    while len(list(Path(sys.argv[1]).glob("ready-*"))) < 2:
        time.sleep(0.01)
    return {}

print(Step("thing", 1, {}, [], Path(sys.argv[1]), write).make())
"""


def test_two_processes_that_make_the_same_both_end_well(tmp_path):
    """Both are inside of the step at the same time."""
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    both = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    told = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1]
    (made,) = (tmp_path / "thing").iterdir()
    assert (made / "content").read_text() == "the same"


def test_two_trainings_of_the_same_do_not_share_a_work_folder(tmp_path):
    from retrieval_kd.pipeline.steps.training import work_folder

    with work_folder(tmp_path / "key.work", 1) as first:
        with work_folder(tmp_path / "key.work", 1) as second:
            assert first == tmp_path / "key.work"
            assert second != first
            (second / "last.ckpt").touch()
        assert not second.exists()
        with work_folder(tmp_path / "key.work", 2) as shared:  # the processes of one training
            assert shared == first
    with work_folder(tmp_path / "key.work", 1) as again:
        assert again == first


# ---- which keys decide which step


@pytest.fixture
def keys(small, ensemble):
    """Digests of the steps of a config by name, the run of the student among them."""

    def of(*overrides):
        plan = Plan(compose([*small, *ensemble, *overrides]))
        steps = {"results": plan.results()[0]} | {one.name: one for one in plan.results()[0].walk()}
        return {name: one.key for name, one in steps.items()}

    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        "logger=wandb",
        "trainer.workers=3",
        "trainer.devices=2",
        "trainer.accelerator=gpu",
        "trainer.log_every=1",
        "trainer.checkpoint_every=5",
        "student.inference.tokens_per_batch=64",
        "teacher.members.minilm.encoder.inference.tokens_per_batch=64",
        "output_dir=elsewhere",
        "name=another",
    ],
)
def test_what_changes_no_result_changes_no_key(keys, override):
    assert keys(override) == keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("bm25.k1=0.9", "index"),
        ("negatives.pool=5", "mine"),
        ("negatives.window=[2,12]", "mine"),
        ("teacher.members.minilm.encoder.query.max_length=9", "score"),
        ("objective.listwise_kl.weight=2", "train"),
        ("negatives.per_query=2", "train"),
        ("optimizer.lr=0.5", "train"),
        ("trainer.batch_size=6", "train"),
        ("student.pooling=cls", "train"),
        ("student.inference.precision=fp32", "encode"),
        ("evaluation.measures=[mrr@10]", "evaluate"),
    ],
)
def test_a_key_changes_the_steps_that_read_it_and_those_behind(keys, override, first):
    order = ["index", "mine", "score", "train", "encode", "evaluate"]
    changed, plain = keys(override), keys()
    found = [name for name in order if changed[name] != plain[name]]
    assert found == order[order.index(first) :]


def test_the_seed_decides_training_alone(keys):
    """Runs with several seeds learn from the same candidates and the same teacher."""
    one, other = keys(), keys("seed=7")
    assert [one[name] == other[name] for name in ("mine", "score", "train")] == [True, True, False]
    assert keys("negatives.seed=7")["mine"] != one["mine"]


def test_scores_depend_on_an_index_only_where_a_member_reads_it(keys, tmp_path):
    run = tmp_path / "found.trec"
    run.write_text("q0 Q0 p0 1 1.0 found\n")
    found = f"negatives.source={run}"
    alone = "~teacher.members.bm25"
    assert keys(found, alone, "bm25.k1=0.9")["score"] == keys(found, alone)["score"]
    assert keys(found, "bm25.k1=0.9")["score"] != keys(found)["score"]


def test_a_margin_depends_on_the_teacher(keys):
    margin = "negatives.margin={relative: 0.9}"
    other = "teacher.members.minilm.encoder.query.max_length=9"
    assert keys(margin)["mine"] != keys(margin, other)["mine"]
    assert keys()["mine"] == keys(other)["mine"]


@pytest.mark.slow
def test_files_decide_by_their_content(small, things, tmp_path):
    """Scores in a file, a teacher's and an encoder's folder, a run's folder that is written again."""
    scores = tmp_path / "scores.tsv"

    def key(*overrides):
        return Plan(compose([*small, *overrides])).results()[0].key

    raw = ("teacher=pointwise", "scorer@teacher.scorer=run_file", f"teacher.scorer.path={scores}")
    scores.write_text("q0 p0 1\n")
    before = key(*raw)
    scores.write_text("q0 p0 2.5\n")
    assert key(*raw) != before

    folder = tmp_path / "encoder"
    folder.mkdir()
    for override in (f"encoder.name={folder}", f"teacher.members.minilm.encoder.encoder.name={folder}"):
        (folder / "model.safetensors").write_bytes(b"one")
        before = key(override)
        (folder / "model.safetensors").write_bytes(b"other")
        assert key(override) != before

    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "model" / "model.safetensors").write_bytes(b"one")
    (run / "model" / "vocab.txt").write_text("a")
    (run / "manifest.json").write_text("{}")
    before = key(f"model={run}")
    (run / "manifest.json").write_text('{"commit": "another"}')
    assert key(f"model={run}") == key(f"model={run}", "student.inference.tokens_per_batch=64") == before
    assert key(f"model={run / 'model'}") == before
    (run / "model" / "vocab.txt").write_text("b")
    assert key(f"model={run}") != before
