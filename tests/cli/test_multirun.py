"""``-m``: a job per combination; one that fails does not stop the others, and what is done is not run again."""

import json
import logging
import os
import shutil
import signal
import sys
import types
from pathlib import Path

import pytest

from retrieval_kd.cli import launching, multirun
from retrieval_kd.cli.main import main
from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.sweep_folder import GROUP, Outcome
from retrieval_kd.pipeline.sweep_report import value_of

CELL = "docs/test"


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Jobs end as their seed says; the sweep runs in an empty folder. What ran is remembered."""
    module = types.ModuleType("retrieval_kd.pipeline.run")
    seen = []

    def folder(cfg):
        return Path("outputs") / f"{cfg.seed}-{cfg.optimizer.lr}"

    def run(cfg):
        seen.append((cfg.seed, cfg.optimizer.lr))
        if cfg.seed == 2:
            raise UserError("this seed is unlucky")
        if cfg.seed == 3:
            raise RuntimeError("a fault of the program")
        if cfg.seed == 7 and seen.count((7, cfg.optimizer.lr)) == 1:
            raise KeyboardInterrupt
        folder(cfg).mkdir(parents=True, exist_ok=True)
        value = cfg.optimizer.lr * 100 + cfg.seed / 1000
        found = {"collections": {CELL: {"queries": 3, "measures": {"ndcg@10": value}}}, "cost": {"train_seconds": 2}}
        (folder(cfg) / "metrics.json").write_text(json.dumps(found))
        return folder(cfg)

    module.train = run
    module.finished = lambda cfg: folder(cfg) if folder(cfg).exists() else None
    monkeypatch.setitem(sys.modules, "retrieval_kd.pipeline.run", module)
    monkeypatch.setattr("retrieval_kd.pipeline.sweep_report._draw", lambda *_: None)  # drawing takes a second
    monkeypatch.delenv(GROUP, raising=False)
    monkeypatch.chdir(tmp_path)
    before = logging.getLogger().handlers[:]
    yield seen
    logging.getLogger().handlers[:] = before


def errors(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def only_folder():
    (folder,) = Path("outputs/multirun").iterdir()
    return folder


def test_every_combination_runs_and_ends_in_a_table(train, tmp_path, capsys):
    assert main(["train", "-m", "seed=5,6", "optimizer.lr=2e-4,1e-3"]) == 0
    assert train == [(5, 2e-4), (5, 1e-3), (6, 2e-4), (6, 1e-3)]
    captured = capsys.readouterr()
    assert "job 1: seed=5 optimizer.lr=0.001" in captured.err
    assert "4 jobs, 0 failed" in captured.err
    folder = only_folder()
    assert f"# sweep {folder.name}\n" in captured.out
    assert (folder / "sweep.md").read_text() in captured.out
    table = json.loads((folder / "sweep.json").read_text())
    assert table["keys"] == ["optimizer.lr"]
    assert [(one["values"], len(one["jobs"])) for one in table["settings"]] == [
        ({"optimizer.lr": "0.001"}, 2),
        ({"optimizer.lr": "0.0002"}, 2),
    ]
    best = table["settings"][0]["cells"][f"{CELL} ndcg@10"]
    assert (best["value"], best["seeds"]) == (0.1055, pytest.approx([0.105, 0.106]))
    assert best["deviation"] == pytest.approx(0.5**0.5 / 1000, abs=1e-6)
    assert Path.cwd() == tmp_path


def test_a_killed_sweep_goes_on_and_done_jobs_are_left_out(train, capsys):
    command = ["train", "-m", "seed=5,7,6"]
    assert main(command) == 130
    assert [seed for seed, _ in train] == [5, 7]
    assert GROUP not in os.environ
    capsys.readouterr()
    assert main(command) == 0
    assert [seed for seed, _ in train] == [5, 7, 7, 6]
    assert "1 of 3 jobs are done already" in capsys.readouterr().err
    assert main(command) == 0
    assert len(train) == 4
    assert len(json.loads((only_folder() / "sweep.json").read_text())["settings"][0]["jobs"]) == 3
    shutil.rmtree(f"outputs/5-{train[0][1]}")
    assert main(command) == 0
    assert [seed for seed, _ in train[4:]] == [5]


def test_failing_jobs_are_told_and_the_others_run(train, capsys, monkeypatch):
    finished, groups = [], []
    monkeypatch.setitem(
        sys.modules,
        "wandb",
        types.SimpleNamespace(finish=lambda: (finished.append(1), groups.append(os.environ[GROUP]))),
    )
    assert main(["train", "--multirun", "seed=2,4"]) == 2
    assert [seed for seed, _ in train] == [2, 4]
    captured = capsys.readouterr()
    assert "error: job 0 (seed=2): this seed is unlucky\n" in captured.err
    assert "Traceback" not in captured.err
    assert "2 jobs, 1 failed" in captured.err
    assert "1 failed, the same command runs them again: job 0 (seed=2): this seed is unlucky" in captured.out
    assert len(finished) == 2
    assert set(groups) == {only_folder().name}
    assert main(["train", "--multirun", "seed=2,4"]) == 2
    assert [seed for seed, _ in train] == [2, 4, 2]


def test_what_a_stopped_sweep_did_not_look_at_is_not_run_again(train):
    """A job in a process of its own ended well, and the sweep was stopped before it kept where."""
    assert main(["train", "-m", "seed=5"]) == 0
    path = only_folder() / "jobs" / "00000.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "folder": None}))
    assert main(["train", "-m", "seed=5"]) == 0
    assert len(train) == 1
    assert json.loads(path.read_text()) == kept


def test_a_measure_that_no_job_has_loses_no_report(train, capsys):
    assert main(["train", "-m", "seed=5,6", "sweep.measure=mrr@10"]) == 0
    captured = capsys.readouterr()
    assert "sweep.measure=mrr@10: no job has it." in captured.out
    assert "job 1 has no mrr@10" in captured.err


@pytest.mark.slow
def test_measures_and_splits_are_those_of_the_collections(caplog):
    def look(measure, *overrides, known_before=True, swept=()):
        multirun._check_measure(
            types.SimpleNamespace(measure=measure, known_before=known_before), compose(overrides), swept
        )

    group = ("data=beir", "data.name=cqadupstack", "data.measures=[answers@5]")
    for measure in ("answers@5", "cqadupstack/test ndcg@10", "mean/all ndcg@10", "cqadupstack-tex/test answers@5"):
        look(measure, *group)
    with pytest.raises(UserError, match="there are the collections cqadupstack-android/test"):
        look("cqadupstack-latex/test ndcg@10", *group)
    look("scifact/test ndcg@10", *group, swept=("data.name",))
    assert not caplog.records
    look(None, "data=beir", "data.name=msmarco", known_before=False)
    assert not caplog.records
    look(None, "data=beir", known_before=False)
    assert "looks at the test split" in caplog.text


@pytest.mark.slow
def test_a_search_with_failures_is_not_fine_the_second_time(train, capsys):
    pytest.importorskip("optuna")
    for _ in range(2):
        assert main(["train", "-m", "sweep=search", "seed=range(2,3)", "sweep.trials=1"]) == 2
    assert train == [(2, train[0][1])]


@pytest.mark.slow
def test_a_fault_keeps_its_traceback(train, capsys):
    assert main(["train", "-m", "seed=3,1"]) == 1
    assert [seed for seed, _ in train] == [3, 1]
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "RuntimeError: a fault of the program" in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seed=1,2", "optimzer.lr=1e-3,1e-4"], "optimzer.lr: there is no such key; did you mean optimizer.lr?"),
        (["seed=1,2", "optimizer.beta=1"], "optimizer.beta: there is no such key"),
        (["student=dense,spars"], "student=spars: student has the options dense, late_interaction, sparse"),
        (["seed=range(1,1)"], "seed: seed=range(1,1) has no value"),
        (["optimizer.lr=interval(1,3)"], "optimizer.lr=interval(1,3) has no end of values; sweep=search draws from it"),
        (["sweep.params={sed: '1,2'}"], "sed: there is no such key; did you mean seed?"),
        (["sweep.params.seed=1,2"], "values of a sweep's own keys go into quotes: \"sweep.params.seed='1,2'\""),
        (["sweep.direction=up", "seed=1,2"], "sweep.direction=up: it is maximize or minimize"),
        (["sweep.measure=ndgc@10", "seed=1,2"], "sweep.measure=ndgc@10: evaluation.measures has ndcg@10, "),
        (["sweep.measure=other/test ndcg@10", "seed=1,2"], "other/test ndcg@10: there are the collections python"),
        (["sweep=bayes", "seed=1,2"], "sweep=bayes: sweep has the options grid, search, seeds"),
        (["output_dir=here", "seed=1,2"], "each job of a sweep has a folder of its own; sweep.folder=DIR"),
        (["hydra/sweeper=ax", "seed=1,2"], "sweep=grid, sweep=seeds and sweep=search say which jobs there are"),
        (["hydra/launcher=rayy", "seed=1,2"], "hydra/launcher=rayy: there are basic, joblib, submitit_local"),
    ],
)
def test_mistakes_in_the_command_are_one_line_before_any_job(train, capsys, arguments, said):
    assert main(["train", "-m", *arguments]) == 2
    (line,) = errors(capsys)
    assert said in line
    assert train == []
    assert not Path("outputs").exists()


@pytest.mark.parametrize("argument", ["sweep=seeds", "sweep.params={seed: '1,2'}", "hydra/launcher=joblib"])
def test_what_is_about_sweeps_needs_one(train, capsys, argument):
    assert main(["train", argument]) == 2
    assert errors(capsys) == [f"error: {argument} is about sweeps; add -m"]


@pytest.mark.slow
def test_combinations_that_cannot_work_are_left_out(train, capsys):
    """They are told before the first job, and the others run."""
    assert main(["train", "-m", "data.judgements=none,null", "seed=5"]) == 2
    assert len(train) == 1
    (line,) = errors(capsys)
    assert line.startswith("error: job 0 (data.judgements=none seed=5): objective.contrastive needs judgements")


@pytest.mark.slow
def test_seeds_come_with_the_option_and_the_command_wins(train):
    assert main(["train", "-m", "sweep=seeds", "sweep.params={seed: '4,5'}", "optimizer.lr=1e-3,2e-3"]) == 0
    assert train == [(4, 1e-3), (4, 2e-3), (5, 1e-3), (5, 2e-3)]
    assert main(["train", "-m", "sweep=seeds", "seed=8"]) == 0
    assert [seed for seed, _ in train[4:]] == [8]


@pytest.mark.slow
def test_sweeps_do_not_meet(train, capsys):
    assert main(["train", "-m", "seed=5,6"]) == 0
    assert main(["train", "-m", "seed=5,4"]) == 0
    assert len(list(Path("outputs/multirun").iterdir())) == 2
    assert main(["train", "-m", "seed=5,6", "sweep.folder=mine"]) == 0
    capsys.readouterr()
    assert main(["train", "-m", "seed=5,8", "sweep.folder=mine"]) == 2
    assert errors(capsys) == [
        "error: sweep.folder=mine is that of another sweep (train -m seed=5,6); name another folder"
    ]


@pytest.mark.slow
def test_a_second_process_beside_the_first_is_refused(train, capsys):
    import fcntl

    assert main(["train", "-m", "seed=5,6", "sweep.folder=mine"]) == 0
    with open("mine/.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert main(["train", "-m", "seed=5,6", "sweep.folder=mine"]) == 2
    assert errors(capsys) == ["error: mine: another process runs this sweep just now"]


DDP = ("trainer=ddp", "trainer.strategy=ddp", "trainer.devices=2")


@pytest.mark.slow
def test_several_processes_need_a_fresh_one_for_each_job(train, capsys, monkeypatch):
    assert main(["train", "-m", "seed=1,4", *DDP]) == 2
    assert all("one fresh process per job would not: sweep.fresh=true" in line for line in errors(capsys))
    assert train == []
    started = []

    def run(command, stream, _, environment):
        started.append((command[1:], environment[GROUP]))
        stream.write("error: no devices here\n" if "seed=4" in command else "fine\n")
        return 2 if "seed=4" in command else 0

    monkeypatch.setattr(launching, "run_child", run)
    for launcher in ("sweep.fresh=true", "hydra/launcher=basic"):
        started.clear()
        assert main(["train", "-m", "seed=1,4", *DDP, launcher]) == 2
        assert [command for command, _ in started] == [
            ["-m", "retrieval_kd", "train", f"seed={seed}", *DDP] for seed in (1, 4)
        ]
        assert errors(capsys) == [f"error: job 1 (seed=4 {' '.join(DDP)}): no devices here"]
        assert {group for _, group in started} == {only_folder().name}
    outcomes = [json.loads(path.read_text()) for path in sorted(only_folder().glob("jobs/*.json"))]
    assert [(one["code"], one["error"]) for one in outcomes] == [(0, ""), (2, "no devices here")]
    assert (only_folder() / "jobs" / "00000.log").read_text() == "fine\n"


def test_a_job_that_a_signal_ended_has_failed(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        assert launching.run_child(["sh", "-c", "kill -9 $$"], stream, tmp_path, os.environ) == 137
        assert launching.run_child(["sh", "-c", "exit 3"], stream, tmp_path, os.environ) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_job_does_not_outlive_its_sweep(tmp_path, monkeypatch, sent, raised):
    """An interruption leaves it time, for it was interrupted too; it is asked to end then, as by SIGTERM at once."""
    monkeypatch.setattr(launching, "GRACE", 0.1)
    before = signal.getsignal(signal.SIGTERM)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts tests in the background may ignore it
    script = f"echo $$; sleep 0.3; kill -{sent.value} {os.getpid()}; exec sleep 60"
    with (tmp_path / "log").open("w") as stream, pytest.raises(raised):
        launching.run_child(["sh", "-c", script], stream, tmp_path, os.environ)
    signal.signal(signal.SIGINT, ours)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "log").read_text()), 0)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_jobs_devices_are_not_slurms_tasks():
    given = {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}
    assert launching.without_tasks(given) == {"SLURM_JOB_ID": "7"}


def test_what_a_job_said_last():
    assert launching.error_in(["error: first", "more"], 2) == "first"
    assert launching.error_in(["Traceback", "ValueError: x", ""], 1) == "ValueError: x"
    assert launching.error_in([], -9) == "it ended with code -9"
    assert launching.error_in(["error: not one"], 0) == ""


def test_a_launcher_that_is_not_installed_names_its_extra():
    missing = Exception("Could not find 'hydra/launcher/joblib'")
    assert "pip install retrieval-kd[joblib]" in launching.not_there(["hydra/launcher=joblib"], missing)
    assert launching.not_there(["hydra.launcher.n=1"], Exception("no\n such key")) == "no such key"


def test_the_last_mean_is_what_a_sweep_goes_by(tmp_path):
    measured = {"a/test": 0.1, "b/test": 0.3, "mean/all": 0.2}
    collections = {label: {"queries": 1, "measures": {"ndcg@10": value}} for label, value in measured.items()}
    collections["mean/all"]["mean_of"] = ["a/test", "b/test"]
    (tmp_path / "metrics.json").write_text(json.dumps({"collections": collections, "cost": {}}))
    outcome = Outcome(0, ("seed=1",), 0, str(tmp_path))
    assert value_of(outcome, None) == value_of(outcome, "ndcg@10") == 0.2
    assert value_of(outcome, "b/test ndcg@10") == 0.3
    assert value_of(outcome, "b/test mrr@10") is None
