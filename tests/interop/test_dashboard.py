"""The dashboard as data, and as the library's own objects where it is installed."""

import json
import re
import sys
import types

import pytest

from retrieval_kd.cli.main import main
from retrieval_kd.interop import dashboard
from retrieval_kd.interop.dashboard import as_json, sections, workspace

OBJECTIVES, MEASURES = ("contrastive", "listwise_kl"), ("ndcg@10", "mrr@10")


def about():
    return as_json("mine", "project", "team", sections(OBJECTIVES, MEASURES))


def test_sections_show_what_is_logged():
    found = {section["name"]: section["panels"] for section in about()["sections"]}
    assert list(found) == ["Losses per objective", "Diagnostics", "nDCG by step", "Cost"]
    shown = [metric for panels in found.values() for panel in panels for metric in panel["metrics"]]
    assert {"train/loss", "train/contrastive", "train/listwise_kl", "train/penalty"} <= set(shown)
    assert {"validation/ndcg@10", "evaluation/ndcg@10", "evaluation/mrr@10", "cost/train_seconds"} <= set(shown)
    patterns = [panel["pattern"] for panel in found["Diagnostics"]]
    for name in ("diagnostics/teacher_entropy", "diagnostics/gradient_share_contrastive", "train/filter_threshold"):
        assert sum(bool(re.search(pattern, name)) for pattern in patterns) == 1
    assert not any(re.search(pattern, "train/loss") for pattern in patterns)


def test_the_command_writes_what_would_be_pushed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["dashboard", "entity=team", "project=p"]) == 0
    path = tmp_path / capsys.readouterr().out.strip()
    found = json.loads(path.read_text())
    assert (found["project"], found["entity"]) == ("p", "team")
    terms = next(panel for panel in found["sections"][0]["panels"] if panel["title"] == "Objectives")
    assert "train/word_level" in terms["metrics"]
    assert main(["dashboard", "offline=no"]) == 2
    assert main(["dashboard", "colour=red"]) == 2
    error = capsys.readouterr().err
    assert "error: offline=no: it is true or false" in error
    assert "error: colour: dashboard knows offline, entity" in error


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library about itself
def test_the_library_takes_it():
    pytest.importorskip("wandb_workspaces")
    said = about()
    made = workspace(said)
    assert (made.name, made.project, made.entity) == ("mine", "project", "team")
    assert [section.name for section in made.sections] == [section["name"] for section in said["sections"]]
    for section, told in zip(made.sections, said["sections"], strict=True):
        assert [panel.title for panel in section.panels] == [panel["title"] for panel in told["panels"]]
    assert made.sections[1].panels[0].metric_regex == "^diagnostics/teacher_entropy"


@pytest.fixture
def account(monkeypatch):
    """A stand-in for wandb with an account, and for the library's workspace; what was saved."""
    saved = []

    class Made:
        url = "https://there/mine"

        def __init__(self, said):
            self.said = said

        def save(self):
            if self.said["project"] == "closed":
                raise OSError("permission\ndenied")
            saved.append(self.said)

    library = types.SimpleNamespace(
        login=lambda prompt, verify: True,
        Api=lambda: types.SimpleNamespace(default_entity="own"),
        errors=types.SimpleNamespace(Error=RuntimeError),
    )
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.setattr(dashboard, "workspace", Made)
    library.saved = saved
    return library


def test_pushing(account, tmp_path, capsys):
    assert main(["dashboard", "offline=false", f"output_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "https://there/mine"
    (said,) = account.saved
    assert (said["entity"], said["project"]) == ("own", "retrieval_kd")
    assert main(["dashboard", "offline=false", "project=closed", f"output_dir={tmp_path}"]) == 2
    assert "error: the dashboard was not pushed: permission denied\n" in capsys.readouterr().err
    account.login = lambda prompt, verify: False
    assert main(["dashboard", "offline=false", f"output_dir={tmp_path}"]) == 2
    assert "error: offline=false needs an account: wandb login" in capsys.readouterr().err
