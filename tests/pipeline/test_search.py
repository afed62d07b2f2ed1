"""A search that was killed goes on as if it had not been; optuna's draws are what the keys allow."""

import math

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.search import STUDY, Search, distribution
from retrieval_kd.pipeline.sweep_space import read_space

pytest.importorskip("optuna")

COMMAND = ["optimizer.lr=tag(log,interval(1e-5,1e-1))", "student=dense,sparse", "trainer.epochs=range(1,6,2)", "seed=7"]


def search(**changes):
    settings = {"params": {}, "measure": None, "direction": "maximize", "fresh": False, "folder": None}
    return Search(**{**settings, "trials": 12, "parallel": 1, "startup": 4, "seed": 1, **changes})


def value(job):
    """Best at 1e-3, dense, three epochs."""
    said = dict(one.split("=") for one in job.overrides)
    away = abs(math.log10(float(said["optimizer.lr"])) + 3) + abs(int(said["trainer.epochs"]) - 3) / 4
    return -away - (said["student"] == "sparse")


def go(settings, folder, most=None, failing=()):
    """Run batches, and stop without a word after ``most`` jobs; all jobs that were begun."""
    batches = settings.batches(read_space(COMMAND), folder)
    begun, jobs = [], next(batches, None)
    while jobs is not None:
        begun += jobs
        if most is not None and len(begun) > most:
            return begun
        values = {job.number: None if job.number in failing else value(job) for job in jobs}
        try:
            jobs = batches.send(values)
        except StopIteration:
            jobs = None
    return begun


@pytest.mark.slow
def test_a_killed_search_draws_as_one_that_was_not(tmp_path):
    whole = go(search(), _made(tmp_path / "whole"))
    assert [job.number for job in whole] == list(range(12))
    killed = _made(tmp_path / "killed")
    first = go(search(), killed, most=5)
    assert first == whole[:6]
    with (killed / STUDY).open("a") as stream:
        stream.write('{"op_code": 6, "wor')  # half a line, and a lock that nobody holds
    (killed / f"{STUDY}.lock").symlink_to(killed / STUDY)
    assert go(search(), killed) == whole[5:]
    assert go(search(), killed) == []
    more = go(search(trials=14), killed)
    assert [job.number for job in more] == [12, 13]
    assert max(map(value, whole)) > max(map(value, whole[:4]))  # it learns


def _made(folder):
    folder.mkdir()
    return folder


def test_draws_are_what_the_keys_allow(tmp_path):
    for job in go(search(trials=8), tmp_path):
        said = dict(one.split("=") for one in job.overrides)
        assert 1e-5 <= float(said["optimizer.lr"]) <= 1e-1
        assert said["student"] in ("dense", "sparse")
        assert said["trainer.epochs"] in ("1", "3", "5")
        assert said["seed"] == "7"


def test_trials_that_fail_are_trials(tmp_path):
    jobs = go(search(trials=6), tmp_path, failing=(0, 2))
    assert [job.number for job in jobs] == list(range(6))


def test_several_are_drawn_at_once(tmp_path):
    batches = search(trials=5, parallel=2).batches(read_space(COMMAND), tmp_path)
    jobs, sizes = next(batches), []
    while jobs:
        sizes.append(len(jobs))
        try:
            jobs = batches.send({job.number: value(job) for job in jobs})
        except StopIteration:
            break
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(
    ("text", "kind", "known"),
    [
        ("a=int(interval(1,9))", "IntDistribution", {"low": 1, "high": 9, "log": False}),
        ("a=interval(0.5,1)", "FloatDistribution", {"low": 0.5, "high": 1.0}),
        ("a=tag(log,interval(1e-4,1))", "FloatDistribution", {"log": True}),
        ("a=range(1,6,2)", "IntDistribution", {"low": 1, "high": 5, "step": 2}),
        ("a=range(0.5,1.0,0.25)", "FloatDistribution", {"low": 0.5, "high": 0.75, "step": 0.25}),
        ("a=x,y", "CategoricalDistribution", {"choices": ("x", "y")}),
        ("a=[1,2],[3]", "CategoricalDistribution", {"choices": ("[1,2]", "[3]")}),
    ],
)
def test_distributions(text, kind, known):
    found = distribution(read_space([text]).overrides["a"])
    assert type(found).__name__ == kind
    assert {key: getattr(found, key) for key in known} == known


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["seed=3"], "sweep=search has nothing to search"),
        (["student=dense,spars"], "student=spars: student has the options"),
        (["optimizer.l=interval(1,2)"], "optimizer.l: there is no such key"),
        (["optimizer.lr=tag(log,interval(0.0,1.0))"], r"optimizer.lr=tag\(log,interval\(0.0,1.0\)\): "),
    ],
)
def test_mistakes_are_told_before_the_first_trial(command, said):
    with pytest.raises(UserError, match=said):
        search().prepare(read_space(command))
    assert search().prepare(read_space(COMMAND)) == 12
    with pytest.raises(UserError, match=r"sweep.trials=0: at least 1"):
        search(trials=0)
