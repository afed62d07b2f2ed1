"""``-m``: a job per combination through Hydra; one that fails does not stop the others."""

import logging
import sys
import types
from pathlib import Path

import pytest

from retrieval_kd.cli.main import main
from retrieval_kd.contracts import UserError


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Jobs end as their seed says; the sweep runs in an empty folder."""
    module = types.ModuleType("retrieval_kd.pipeline.run")
    seen = []

    def run(cfg):
        seen.append((cfg.seed, cfg.optimizer.lr, Path.cwd()))
        if cfg.seed == 2:
            raise UserError("this seed is unlucky")
        if cfg.seed == 3:
            raise RuntimeError("a fault of the program")
        return tmp_path

    module.train = run
    monkeypatch.setitem(sys.modules, "retrieval_kd.pipeline.run", module)
    monkeypatch.chdir(tmp_path)
    before = logging.getLogger().handlers[:]
    yield seen
    logging.getLogger().handlers[:] = before


@pytest.mark.slow
def test_every_combination_runs_in_the_same_folder(train, tmp_path, capsys):
    assert main(["train", "-m", "seed=5,6", "optimizer.lr=2e-4"]) == 0
    assert train == [(seed, 2e-4, tmp_path) for seed in (5, 6)]
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [str(tmp_path)] * 2
    assert "job 1: seed=6 optimizer.lr=0.0002" in captured.err
    assert "2 jobs, 0 failed" in captured.err
    assert Path.cwd() == tmp_path


@pytest.mark.slow
def test_failing_jobs_are_told_and_the_others_run(train, capsys, monkeypatch):
    finished = []
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(finish=lambda: finished.append(1)))
    assert main(["train", "--multirun", "seed=2,4"]) == 2
    assert [seed for seed, *_ in train] == [2, 4]
    error = capsys.readouterr().err
    assert "error: job 0 (seed=2): this seed is unlucky\n" in error
    assert "Traceback" not in error
    assert "2 jobs, 1 failed" in error
    assert len(finished) == 2


@pytest.mark.slow
def test_a_fault_keeps_its_traceback(train, capsys):
    assert main(["train", "-m", "seed=3,1"]) == 1
    assert [seed for seed, *_ in train] == [3, 1]
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "RuntimeError: a fault of the program" in error


def test_mistakes_in_the_command_are_one_line(train, capsys):
    assert main(["train", "-m", "sed=1,2"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "sed" in lines[0]
    assert train == []


@pytest.mark.slow
def test_several_processes_are_refused(train, capsys):
    assert main(["train", "-m", "seed=1", "trainer=ddp", "trainer.strategy=ddp", "trainer.devices=2"]) == 2
    assert "one fresh process per job" in capsys.readouterr().err
    assert train == []
