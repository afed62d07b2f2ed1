"""A job's run in a tracker begins and ends with it."""

import json
import types

import pytest
from omegaconf import OmegaConf

from retrieval_kd.callbacks import wandb_tracker
from retrieval_kd.pipeline.tracking import LONGEST_NAME, figures, run_name, tracked

METRICS = {
    "collections": {
        "a/test": {"queries": 2, "measures": {"ndcg@10": 0.5}},
        "b/test": {"queries": 2, "measures": {"ndcg@10": 0.7}},
    },
    "cost": {"flops": 2.0, "timed_on": {"cores": 2}},
}


@pytest.fixture
def opened(monkeypatch):
    """What was opened, recorded and closed."""
    seen = []

    class Tracker:
        def __init__(self, about, project):
            seen.append(("open", project, about))

        def record(self, found):
            seen.append(("record", found))

        def close(self, code):
            seen.append(("close", code))

    monkeypatch.setattr(wandb_tracker, "WandbTracker", Tracker)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return seen


def plan(**logger):
    node = {
        "_target_": "retrieval_kd.callbacks.wandb_tracker.WandbTracker",
        "_partial_": True,
        "project": "p",
        **logger,
    }
    values = {
        "name": "adam",
        "overrides": ["experiment=adam", "seed=3", "logger=wandb"],
        "options": {"student": "dense", "teacher": "ensemble", "objective": ["contrastive"]},
        "seed": 3,
        "logger": node,
    }
    return types.SimpleNamespace(values=values, cfg=OmegaConf.create({"logger": node}))


def test_a_run_ends_with_its_job(opened, tmp_path):
    with tracked(plan(tracks=True), tmp_path, "key"):
        (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    (_, project, about), (_, found), end = opened
    assert (project, about.name, end) == ("p", "adam seed=3", ("close", 0))
    assert about.tags == ["adam", "dense", "ensemble"]
    assert about.config["seed"] == 3
    assert not {"options", "overrides"} & set(about.config)
    assert found == figures(METRICS)
    opened.clear()
    with tracked(plan(tracks=True), tmp_path, "key"):
        pass
    assert opened[0][2].identity == about.identity  # it goes on
    opened.clear()
    with tracked(plan(tracks=True), tmp_path / "other", "key"):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "metrics.json").write_text(json.dumps(METRICS))
    assert opened[0][2].identity != about.identity


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_however_the_job_ends(opened, tmp_path, error):
    with pytest.raises(error), tracked(plan(tracks=True), tmp_path, "key"):
        raise error
    assert [event[0] for event in opened] == ["open", "close"]
    assert opened[-1] == ("close", 1)


def test_only_trackers_and_only_the_first_process_open_one(opened, tmp_path, monkeypatch):
    with tracked(plan(), tmp_path, "key"):
        pass
    monkeypatch.setenv("LOCAL_RANK", "1")
    with tracked(plan(tracks=True), tmp_path, "key"):
        pass
    assert opened == []


def test_names_are_stable_and_short():
    assert figures(METRICS) == {
        "evaluation/ndcg@10": 0.5,
        "evaluation/a/test/ndcg@10": 0.5,
        "evaluation/b/test/ndcg@10": 0.7,
        "cost/flops": 2.0,
    }
    assert figures({"collections": {}, "cost": {}}) == {}
    long = {"name": "adam", "overrides": [f"seed={'1' * 200}"]}
    assert len(run_name(long)) == LONGEST_NAME


@pytest.mark.slow
def test_the_dashboard_shows_all_that_a_training_logs(trained):
    """``trained`` has the default objective; every column of its log has a panel."""
    import re

    from retrieval_kd.interop.dashboard import sections

    panels = [panel for section in sections(["contrastive", "listwise_kl"], ["ndcg@10"]) for panel in section.panels]
    header = (trained / "log.csv").read_text().splitlines()[0].split(",")
    logged = [name for name in header if "/" in name]
    assert "train/contrastive" in logged
    for name in logged:
        shown = [one for one in panels if name in one.metrics or (one.pattern and re.search(one.pattern, name))]
        assert shown, name
