"""Sweeps of real runs: in one process, through launchers, by a search, with a tracker."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bm25(things):
    """The overrides of a job that trains nothing."""
    return ("train", "experiment=bm25", "data=folder", f"data.path={things}", "evaluation.measures=[ndcg@10]")


@pytest.fixture
def plain_environment(monkeypatch):
    """Jobs in processes of their own find this package."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def folder_of(place):
    (folder,) = (place / "outputs" / "multirun").iterdir()
    return folder


def test_trained_students_end_in_a_table_and_plots(command, small, ensemble, tmp_path, written):
    swept = ("train", "-m", *small, *ensemble, "optimizer.lr=1e-4,1e-2", "seed=1,2")
    code, out, err = command(*swept)
    assert code == 0, err
    folder = folder_of(tmp_path)
    assert {path.name for path in folder.iterdir()} >= {"sweep.md", "sweep.json", "parallel.png", "parallel.svg"}
    table = json.loads((folder / "sweep.json").read_text())
    assert table["keys"] == ["optimizer.lr"]
    assert [len(one["jobs"]) for one in table["settings"]] == [2, 2]
    assert (folder / "sweep.md").read_text() in out
    written.clear()
    code, _, err = command(*swept)
    assert code == 0
    assert written == []
    assert any("4 of 4 jobs are done already" in line for line in err)


@pytest.mark.parametrize(
    ("package", "launcher"),
    [
        ("hydra", ("sweep.fresh=true",)),
        ("hydra_plugins.hydra_joblib_launcher", ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")),
        ("hydra_plugins.hydra_submitit_launcher", ("hydra/launcher=submitit_local",)),
    ],
)
def test_launchers_run_each_job_in_a_process_of_its_own(package, launcher, command, bm25, tmp_path, plain_environment):
    pytest.importorskip(package)
    code, out, err = command(*bm25, "-m", "bm25.k1=0.9,1.2", *launcher)
    assert code == 0, err
    folder = folder_of(tmp_path)
    assert "| k1 " in out
    assert [path.name for path in sorted(folder.glob("jobs/*.log"))] == ["00000.log", "00001.log"]
    assert "ndcg@10" in (folder / "jobs" / "00001.log").read_text()
    code, out, err = command(*bm25, "-m", "bm25.k1=0.9,1.2")  # without a launcher it is the same sweep
    assert code == 0
    assert any("2 of 2 jobs are done already" in line for line in err)


def test_a_search_by_bm25s_numbers(command, bm25, tmp_path):
    pytest.importorskip("optuna")
    searched = (*bm25, "-m", "sweep=search", "bm25.k1=interval(0.5,2.0)", "bm25.b=0.3,0.75", "data.split=dev")
    code, _, err = command(*searched, "sweep.trials=3")
    assert code == 0, err
    code, _, err = command(*searched, "sweep.trials=4")
    assert code == 0, err
    assert any("1 jobs, 0 failed" in line for line in err)
    table = json.loads((folder_of(tmp_path) / "sweep.json").read_text())
    assert sum(len(one["jobs"]) for one in table["settings"]) == 4
    assert table["measure"].endswith("/dev ndcg@10")


def test_each_job_has_a_run_of_its_own_in_the_sweeps_group(command, small, ensemble, tmp_path):
    pytest.importorskip("wandb")
    code, _, err = command("train", "-m", *small, *ensemble, "logger=wandb", "trainer.log_every=1", "seed=11,12")
    assert code == 0, err
    folder = folder_of(tmp_path)
    runs = sorted((tmp_path / "outputs" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 2
    for run in runs:
        content = run.read_bytes()
        assert folder.name.encode() in content
        assert b"train/contrastive" in content
        assert b"evaluation/ndcg@10" in content
        assert b"cost/train_seconds" in content


def test_a_server_that_does_not_answer_stops_nothing(small, ensemble, tmp_path, plain_environment):
    pytest.importorskip("wandb")
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []
        threading.Thread(target=lambda: [held.append(server.accept()) for _ in range(99)], daemon=True).start()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("WANDB")},
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
            "WANDB_API_KEY": "0" * 40,
        }
        done = subprocess.run(
            [
                *(sys.executable, "-m", "retrieval_kd", "train", *small, *ensemble, "seed=13", "logger=wandb"),
                *("logger.offline=false", "logger.timeout=3"),
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "wandb sync sends" in line]
    assert len(warnings) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "outputs" / "wandb").glob("offline-run-*"))
