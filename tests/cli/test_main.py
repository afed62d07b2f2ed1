"""Verbs are found by listing; mistakes are one line and a code; log lines are clean."""

import json
import logging
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from retrieval_kd.cli import guide, main
from retrieval_kd.cli.messages import Lines, start_logging
from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.conf_tree import options


@pytest.fixture
def pipeline(monkeypatch):
    """Stands for the pipeline: remembers what it was asked for."""
    module = types.ModuleType("retrieval_kd.pipeline.run")
    module.asked = []
    monkeypatch.setitem(sys.modules, "retrieval_kd.pipeline.run", module)
    return module


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = before


def test_verbs_are_the_modules_that_run():
    known = main.verbs()
    assert {"train", "mine", "score", "encode", "search", "evaluate", "compare", "explain", "export", "doctor"} <= set(
        known
    )
    assert not {"main", "guide", "messages", "multirun", "artifact", "measures"} & set(known)
    assert all(f"usage: retrieval-kd {verb}" in text for verb, text in known.items())


def test_overview_names_every_verb(capsys):
    assert main.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for verb, text in main.verbs().items():
        assert f"  {verb} " in printed
        assert text.splitlines()[0] in printed
    assert main.main([]) == 0


def test_help_of_a_verb_shows_text_groups_options_and_defaults(capsys):
    assert main.main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    assert main.verbs()["train"] in printed
    for group, names in options().items():
        line = next(line for line in printed.splitlines() if line.startswith(f"  {group} "))
        assert names[0] in line.replace("*", "")
    assert "contrastive* listwise_kl* " in printed
    assert "trainer.validate_every=null" in printed
    assert "evaluation.measures=[ndcg@10," in printed
    assert max(map(len, printed.splitlines())) <= 160


@pytest.mark.parametrize("verb", sorted(main.verbs()))
def test_every_verb_has_help(verb):
    assert "usage:" in guide.verb_help(verb, main.verbs()[verb])


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_imports_nothing_heavy_and_is_quick(arguments):
    code = (
        "import sys; from retrieval_kd.cli.main import main; main(sys.argv[1:]); "
        "heavy = [n for n in ('hydra', 'omegaconf', 'torch', 'numpy', 'pyarrow') if n in sys.modules]; "
        "print(heavy, file=sys.stderr)"
    )
    before = time.process_time(), os.times().children_user
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert os.times().children_user - before[1] < 1.0


def test_unknown_verbs_and_keys_are_told_in_one_line(capsys):
    assert main.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: trian: there is no such verb; did you mean train?")
    assert main.main(["train", "trainer.epoch=3"]) == 2
    error = capsys.readouterr().err
    assert error == "error: trainer.epoch: there is no such key; did you mean trainer.epochs?\n"


def test_incompatible_combinations_are_refused_before_the_pipeline_is_imported(pipeline, capsys):
    assert main.main(["train", "data.judgements=none"]) == 2  # the stand-in has no train: importing it would fail
    assert "objective.contrastive needs judgements" in capsys.readouterr().err


def test_train_prints_measures_and_folder(pipeline, tmp_path, capsys):
    def train(cfg):
        pipeline.asked.append(cfg.seed)
        measures = {"collections": {"docs/test": {"queries": 1500, "measures": {"ndcg@10": 0.5}}}}
        (tmp_path / "metrics.json").write_text(json.dumps(measures))
        return tmp_path

    pipeline.train = train
    assert main.main(["train", "seed=9"]) == 0
    assert pipeline.asked == [9]
    assert capsys.readouterr().out == f"docs/test, 1,500 queries: ndcg@10 0.5000\n{tmp_path}\n"


@pytest.mark.parametrize("verb", ["mine", "score", "encode", "search", "evaluate"])
def test_a_step_alone_prints_what_it_holds(verb, pipeline, tmp_path, capsys):
    def step(cfg, name):
        pipeline.asked.append((name, cfg.seed))
        for folder in (tmp_path / "one", tmp_path / "two"):
            folder.mkdir()
            (folder / "file.bin").write_bytes(b"x" * 2500)
            (folder / "step.json").write_text(json.dumps({"seconds": 1.5, "config": {}, "queries": 3}))
        return [tmp_path / "one", tmp_path / "two"]

    pipeline.step = step
    assert main.main([verb, "seed=9"]) == 0
    assert pipeline.asked == [(verb, 9)]
    held = "file.bin  2.5 kB\nseconds 1.5  queries 3\n"
    assert capsys.readouterr().out == f"{held}{tmp_path / 'one'}\n{held}{tmp_path / 'two'}\n"


def test_mining_needs_no_judgements_for_an_objective(pipeline, tmp_path):
    pipeline.step = lambda cfg, name: [tmp_path]
    assert main.main(["mine", "data.judgements=none"]) == 0
    assert main.main(["evaluate", "data.judgements=none"]) == 2
    assert main.main(["evaluate", "data.judgements=none", "model=there"]) == 0


def test_explain_and_export(pipeline, monkeypatch, capsys):
    monkeypatch.setattr("retrieval_kd.pipeline.explain.explain", lambda cfg: f"seed {cfg.seed}")
    pipeline.export = lambda cfg, form: Path(cfg.output_dir)
    assert main.main(["explain", "seed=3"]) == 0
    assert main.main(["export", "model=a", "output_dir=b"]) == 0
    assert capsys.readouterr().out == "seed 3\nb\n"
    assert main.main(["export", "model=a"]) == 2
    assert "export needs output_dir=" in capsys.readouterr().err


def test_codes_of_other_ends(pipeline, monkeypatch, capsys):
    finished = []
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(finish=lambda: finished.append(1)))

    def interrupted(cfg):
        raise KeyboardInterrupt

    def faulty(cfg):
        raise RuntimeError("a fault of the program")

    def mistaken(cfg):
        raise UserError("corpus.jsonl:3: two\nlines")

    pipeline.train = interrupted
    assert main.main(["train"]) == 130
    assert "finished artifacts are kept" in capsys.readouterr().err
    pipeline.train = mistaken
    assert main.main(["train"]) == 2
    assert capsys.readouterr().err.splitlines() == ["error: corpus.jsonl:3: two lines"]
    pipeline.train = faulty
    with pytest.raises(RuntimeError, match="fault"):
        main.main(["train"])
    assert len(finished) == 3


def test_log_lines_are_ours_and_others_warnings(capsys, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    start_logging()
    start_logging()
    assert sum(isinstance(handler, Lines) for handler in logging.getLogger().handlers) == 1
    for name in ("retrieval_kd.pipeline", "some_library", "pytorch_lightning.utilities"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if name != "retrieval_kd.pipeline" else logging.NOTSET)
        logger.info("%s info", name)
        logger.warning("%s warning", name)
        logger.error("%s error", name)
    lines = [line.partition(" ") for line in capsys.readouterr().err.splitlines()]
    assert [text for _, _, text in lines] == [
        "retrieval_kd.pipeline info",
        "retrieval_kd.pipeline warning",
        "retrieval_kd.pipeline error",
        "some_library warning",
        "some_library error",
        "pytorch_lightning.utilities error",
    ]
    assert all(len(clock) == 8 and clock[2] == clock[5] == ":" for clock, _, _ in lines)
