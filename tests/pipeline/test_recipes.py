"""A stage is a list of overrides; it goes on from the stage before, and the command line wins in every stage."""

import json

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.run import train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

TWO = (
    "recipe=no_training",
    "recipe.stages={first: ['objective=[contrastive]','optimizer.lr=0.01'], second: ['objective=[listwise_kl]',"
    "'trainer.max_steps=2','optimizer.lr=0.02']}",
    "teacher=pointwise",
    "scorer@teacher.scorer=bm25",
)


def stages(*overrides):
    return [one for one in Plan(compose(overrides)).results()[0].walk() if one.name == "train"]


@pytest.mark.slow
def test_each_stage_has_its_own_overrides(small):
    first, second = stages(*small, *TWO)
    assert (list(first.config["objective"]), list(second.config["objective"])) == (["contrastive"], ["listwise_kl"])
    assert (first.config["optimizer"]["lr"], second.config["optimizer"]["lr"]) == (0.01, 0.02)
    assert first in second.inputs


@pytest.mark.slow
def test_the_command_line_wins_in_every_stage(small):
    won = stages(*small, *TWO, "optimizer.lr=0.5")
    assert [one.config["optimizer"]["lr"] for one in won] == [0.5, 0.5]
    assert [one.config["trainer"]["max_steps"] for one in stages(*small, *TWO)] == [3, 3]  # ``small`` says it


@pytest.mark.slow
def test_a_stage_has_a_rate_and_a_number_of_steps_of_its_own(small):
    said = [one for one in small if not one.startswith("trainer.max_steps")]
    two = (*said, *TWO, "recipe.stages.first=['optimizer.lr=0.01','trainer.max_steps=5']")
    found = [(one.config["optimizer"]["lr"], one.config["trainer"]["max_steps"]) for one in stages(*two)]
    assert found == [(0.01, 5), (0.02, 2)]


@pytest.mark.slow
def test_a_second_stage_starts_where_the_first_ended(small, tmp_path):
    folder = train(compose([*small, *TWO, f"output_dir={tmp_path / 'out'}"]))
    steps = [one["step"] for one in json.loads((folder / "manifest.json").read_text())["steps"]]
    assert steps.count("train") == 2
    cost = json.loads((folder / "metrics.json").read_text())["cost"]
    assert cost["train_steps"] == 6
    first, second = stages(*small, *TWO)
    (alone,) = stages(*small, *TWO[2:], "objective=[listwise_kl]", "optimizer.lr=0.02")
    alone.make()
    weights = [(one.path / "model" / "model.safetensors").read_bytes() for one in (first, second, alone)]
    assert len(set(weights)) == 3
    assert (folder / "model" / "model.safetensors").read_bytes() == weights[1]


def test_a_stage_that_cannot_work_is_refused_before_the_first_one_runs(small, written):
    with pytest.raises(UserError, match=r"objective=\[\] leaves nothing"):
        train(compose([*small, "+recipe.stages.second=['objective=[]']"]))
    assert written == []
