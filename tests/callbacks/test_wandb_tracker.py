"""One run for a job, whatever the server does; wandb itself is a stand-in here."""

import types

import pytest

from retrieval_kd.callbacks import wandb_tracker
from retrieval_kd.callbacks.wandb_tracker import STEP, About, WandbTracker
from retrieval_kd.contracts import UserError

pytestmark = pytest.mark.slow  # to import wandb takes a second


class Error(Exception):
    pass


class Run:
    __slots__ = ("ended", "finish", "id", "log", "logged", "metrics", "summary")  # a real one takes no others

    def __init__(self):
        self.id = str(id(self))
        self.log, self.finish = self._log, self._finish
        self.logged, self.summary, self.ended, self.metrics = [], {}, [], []

    def _log(self, metrics):
        self.logged.append(metrics)

    def define_metric(self, *arguments, **more):
        self.metrics.append((*arguments, *more.values()))

    def _finish(self, exit_code):
        self.ended.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    """The library: ``answers`` are what its server says to one run after another, a run where there is nothing else."""
    library = types.SimpleNamespace(errors=types.SimpleNamespace(Error=Error), run=None, asked=[], answers=[])

    def init(**arguments):
        library.asked.append(arguments)
        answer = library.answers.pop(0) if library.answers else Run()
        if isinstance(answer, Exception):
            raise answer
        library.run = answer
        return answer

    library.init, library.Settings = init, lambda **settings: settings
    library.login = lambda prompt, verify: True
    monkeypatch.setattr(wandb_tracker, "_library", lambda: library)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return library


@pytest.fixture
def track(tmp_path):
    settings = {"project": "p", "save_dir": str(tmp_path / "new"), "entity": None, "tags": ["mine"]}
    return lambda **changes: WandbTracker(**{**settings, "offline": True, "timeout": 5, **changes})


def test_a_run_says_what_it_is_of(wandb, track):
    tracker = track(about=About("adam seed=1", "abc", ["adam", "dense"], {"seed": 1}))
    (asked,) = wandb.asked
    assert (asked["mode"], asked["resume"]) == ("offline", None)
    assert (asked["name"], asked["id"], asked["tags"]) == ("adam seed=1", "abc", ["mine", "adam", "dense"])
    assert asked["config"] == {"seed": 1}
    assert asked["settings"]["init_timeout"] == asked["settings"]["finish_timeout"] == 5
    tracker.record({"evaluation/ndcg@10": 0.5})
    assert wandb.run.summary == {"evaluation/ndcg@10": 0.5}
    assert ("*", STEP, True) in wandb.run.metrics
    tracker.close(0)
    assert wandb.run.ended == [0]


def test_trainings_of_one_job_go_on_in_its_run(wandb, track):
    track()
    for _ in range(2):  # stages
        logger = track()
        for step in (0, 9):
            logger.log_metrics({"train/loss": 1.0}, step)
    assert len(wandb.asked) == 1
    assert [one[STEP] for one in wandb.run.logged] == [0, 9, 10, 19]


def test_a_server_that_does_not_answer_is_told_of_in_one_line(wandb, track, caplog, tmp_path):
    wandb.answers = [Error("timed out\nafter 5 s")]
    track(offline=False, about=About(identity="abc"))
    assert [asked["mode"] for asked in wandb.asked] == ["online", "offline"]
    assert [asked["id"] for asked in wandb.asked] == ["abc", None]  # the attempt may hold it
    assert wandb.asked[0]["resume"] == "allow"
    (record,) = caplog.records
    assert record.getMessage() == (
        f"logger=wandb: timed out after 5 s; the run stays in {tmp_path}/new/wandb, and wandb sync sends it later"
    )


def test_a_tracker_that_fails_later_is_told_of_once(wandb, track, caplog):
    logger = track()

    def log(*_, **__):
        raise Error("gone")

    wandb.run.log = log
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step)
    wandb.run.finish = log
    logger.close(1)
    assert [record.getMessage() for record in caplog.records] == [
        "logger=wandb: gone; nothing more is logged there, training goes on",
        "logger=wandb: gone; wandb sync sends the run later",
    ]


def test_what_cannot_be_is_told_before_the_work(wandb, track, monkeypatch):
    wandb.login = lambda prompt, verify: False
    with pytest.raises(UserError, match="offline=false needs an account: wandb login"):
        track(offline=False)
    monkeypatch.setenv("WANDB_MODE", "offline")  # whoever says so needs none
    assert track(offline=False).experiment is wandb.run
    wandb.run, wandb.answers = None, [Error("no room")]
    with pytest.raises(UserError, match=r"logger=wandb: no room; logger=csv needs nothing"):
        track()
