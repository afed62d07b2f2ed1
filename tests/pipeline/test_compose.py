"""The composed configuration equals Hydra's own; each mistake is one line that says what would fit."""

from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline import conf_tree
from retrieval_kd.pipeline.compose import RECORDED, compose, compose_stage, conf_dir, plain


def hydras_own(overrides):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["teacher=pointwise", "scorer@teacher.scorer=bm25", "trainer.epochs=3", "optimizer.lr=5e-5"],
        ["objective=[margin_mse]", "objective.margin_mse.weight=0.5", "student.query.prompt='query: '"],
        ["data=folder", "data.path=some/where", "+extra.key=1", "~evaluation.depth", "seed=1", "seed=2"],
        ["student.query={prompt: q}", "evaluation.measures=[ndcg@10]", "model=null", "engine=bm25"],
    ],
)
def test_equals_hydra(overrides):
    ours, theirs = compose(overrides), hydras_own(overrides)
    raw = {key: value for key, value in OmegaConf.to_container(ours).items() if key not in RECORDED}
    expected = {key: value for key, value in OmegaConf.to_container(theirs).items() if key not in RECORDED}
    assert raw == expected


def test_says_what_it_came_from():
    cfg = compose(["objective=[margin_mse]", "seed=3"])
    assert list(cfg.overrides) == ["objective=[margin_mse]", "seed=3"]
    assert cfg.options.objective == ["margin_mse"]
    assert cfg.options.student == "dense"
    assert not any(name.startswith("hydra") for name in cfg)


def test_the_later_of_two_wins():
    cfg = compose(["objective=[contrastive,margin_mse]", "seed=1", "objective=listwise_kl", "seed=2"])
    assert list(cfg.objective) == ["listwise_kl"]
    assert cfg.seed == 2


@pytest.mark.slow
def test_the_command_line_wins_over_an_experiment():
    assert list(compose(["experiment=plain_kl", "objective=[contrastive]"]).objective) == ["contrastive"]
    assert compose(["experiment=plain_kl", "experiment=null"]).options.get("experiment") is None


def test_composing_changes_nothing_that_others_compose():
    compose(["seed=7", "objective.contrastive.weight=9"]).trainer.epochs = 99
    again = compose([])
    assert (again.seed, again.trainer.epochs, again.objective.contrastive.weight) == (42, 1, 1.0)


def test_a_composition_inside_hydra_leaves_hydra_alone():
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        compose(["trainer=cpu", "filter=none", "pacing=none"])
        assert GlobalHydra.instance().hydra is outer


def test_a_stage_takes_the_commands_overrides_that_it_can():
    command = ["objective.contrastive.weight=0.5", "seed=7"]
    stage = compose_stage(["objective=[listwise_kl]", "seed=1"], command)
    assert list(stage.objective) == ["listwise_kl"]
    assert stage.seed == 7
    with pytest.raises(UserError, match="contrastive is not selected"):
        compose_stage(["objective=[listwise_kl]", "objective.contrastive.weight=1"], ["seed=1"])


def test_plain_holds_no_omegaconf_object():
    def types(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return {type(value)}.union(*map(types, inner))

    values = plain(compose())
    assert types(values) <= {dict, list, str, int, float, bool, type(None)}
    assert values["student"]["encoder"] == values["encoder"]


def test_empty_mappings_take_any_key():
    cfg = compose(["data.train={mine: {path: a}}", "data.evaluate.theirs.path=b"])
    assert cfg.data.train.mine.path == "a"
    assert cfg.data.evaluate.theirs.path == "b"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optimizer.lr=1", 1),
        ("data.split=2024", "2024"),
        ("trainer.devices=auto", "auto"),
        ("trainer.devices=[0,1]", [0, 1]),
        ("negatives.margin={absolute: 0.1}", {"absolute": 0.1}),
        ("trainer.max_steps=3", 3),
        ("trainer.epochs=${seed}", 42),
    ],
)
def test_fitting_values(override, value):
    assert OmegaConf.select(compose([override]), override.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["teacher=pointwize"], ["teacher=pointwize", "ensemble, pairwise, pointwise", "did you mean pointwise?"]),
        (["objective=[contrastive,listwise]"], ["objective=listwise", "did you mean listwise_kl?"]),
        (["teachr=ensemble"], ["teachr: there is no such key", "did you mean teacher?"]),
        (["scorrer@teacher.x=bm25"], ["scorrer: there is no such group", "scorer"]),
        (["trainer.epoch=3"], ["did you mean trainer.epochs?"]),
        (["lr=3"], ["did you mean optimizer.lr?"]),
        (["objective.margin_mse.weight=3"], ["objective=[contrastive,listwise_kl,margin_mse]"]),
        (["data.path=x"], ["data=python_docs has no such key", "data=folder has"]),
        (["teacher.scorer=bm25"], ["teacher=pointwise has"]),
        (["teacher.members.bm25=bi_encoder"], ["scorer@teacher.members.bm25=bi_encoder"]),
        (["student.query={promt: a}"], ["student.query.promt", "student.query.prompt?"]),
        (["student.encoder.name=x"], ["set encoder.name"]),
        (["data=folder"], ["data=folder needs data.path=…", "BEIR"]),
        (["trainer.epochs=abc"], ["trainer.epochs=abc", "an integer", "the default is 1"]),
        (["trainer.epochs=2.5"], ["an integer"]),
        (["trainer.epochs=true"], ["trainer.epochs=true", "an integer"]),
        (["trainer.gradient_cache=1"], ["true or false", "the default is false"]),
        (["trainer.clip=abc"], ["a number"]),
        (["trainer.clip=null"], ["trainer.clip=null", "a number"]),
        (["student.pooling=[a]"], ["text", "the default is mean"]),
        (["evaluation.measures=ndcg@10"], ["a list", "[ndcg@10,"]),
        (["optimizer=3"], ["a mapping"]),
        (["seed=${sed}"], ["seed", "'sed' not found"]),
        (["trainer.epochs=[1"], ["trainer.epochs", "cannot be read"]),
        (["model=runs/lr=3/model"], ["quotes", "model='runs/lr=3/model'"]),
        (["seed"], ["'seed' is not an override", "key=value"]),
        (["=3"], ["is not an override"]),
        (["seed=1,2"], ["add -m"]),
        (["teacher=null"], ["teacher=null", "ensemble, pairwise, pointwise"]),
        (["~sed"], ["did you mean seed?"]),
        (["overrides=[a]"], ["overrides: there is no such key"]),
    ],
)
def test_mistakes_are_one_line_that_says_what_would_fit(overrides, parts):
    with pytest.raises(UserError) as caught:
        compose(overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def test_defaults_for_help_are_the_composed_ones():
    cfg = compose()
    for key in ("trainer.epochs", "optimizer.lr", "objective.listwise_kl.teacher_temperature", "data.limit.queries"):
        assert conf_tree.default_of(key)[0] == OmegaConf.select(cfg, key)
    assert conf_tree.default_of("trainer.max_steps")[1].startswith("stops")
    with pytest.raises(KeyError):
        conf_tree.default_of("trainer.nothing")


def test_options_are_the_files():
    assert conf_tree.options()["trainer"] == sorted(path.stem for path in Path(conf_dir() / "trainer").glob("*.yaml"))


def test_what_only_a_scale_sets_can_be_unset():
    assert compose(["encoder.layers=null"]).encoder.layers is None
    assert compose(["trainer.max_steps=null"]).trainer.max_steps is None
    assert compose(["student=sparse", "student.start_terms=null"]).student.start_terms is None
    with pytest.raises(UserError, match=r"trainer\.epochs=null"):
        compose(["trainer.epochs=null"])


def test_what_an_experiment_sets_of_objectives_that_are_not_selected_is_left_out():
    cfg = compose(["experiment=pairdistill", "objective=[pairwise]"])
    assert list(cfg.objective) == ["pairwise"]
    assert cfg.options.objective == ["pairwise"]
    assert cfg.objective.pairwise.weight == 3


@pytest.mark.slow
@pytest.mark.parametrize(("student", "temperature"), [("dense", 0.05), ("late_interaction", 1.0)])
def test_an_experiments_temperatures_follow_the_student(student, temperature):
    terms = plain(compose(["experiment=pairdistill", f"student={student}"]))["objective"]
    assert terms["pairwise"]["student_temperature"] == terms["contrastive"]["temperature"] == temperature
    said = plain(compose(["experiment=pairdistill", "objective.pairwise.student_temperature=0.3"]))["objective"]
    assert said["pairwise"]["student_temperature"] == 0.3


@pytest.mark.slow
def test_what_a_stage_sets_of_an_option_is_left_out_where_the_command_selects_another():
    stage = ["labels=thresholds", "labels.judged=ignore", "objective=[contrastive]", "objective.contrastive.weight=0.9"]
    cfg = compose_stage(stage, ["labels=none", "objective=[listwise_kl]"])
    assert (cfg.options.labels, list(cfg.objective)) == ("none", ["listwise_kl"])
    assert compose_stage(stage, ["objective=[contrastive,listwise_kl]"]).objective.contrastive.weight == 0.9
    with pytest.raises(UserError, match=r"labels\.judged: labels=none has no such key"):
        compose_stage(["labels.judged=ignore"], ["seed=1"])


@pytest.mark.slow
def test_what_an_experiment_sets_of_an_option_that_the_command_replaced_is_left_out():
    cfg = compose(["experiment=adam", "pacing=none", "negatives=hard"])
    assert set(cfg.pacing) == {"_target_"}
    assert "made" not in cfg.negatives
    kept = compose(["experiment=adam", "negatives=dark", "pacing=self_paced"])
    assert (kept.pacing.share.start, kept.negatives.made.reinforced.count, kept.negatives.pool) == (0.3, 4, 32)


@pytest.mark.parametrize(("said", "found"), [("null", None), ("{bm25:3,minilm:0.05}", {"bm25": 3, "minilm": 0.05})])
def test_pacings_temperature_is_a_number_one_for_each_member_or_none(said, found):
    assert compose(["pacing=self_paced", f"pacing.temperature={said}"]).pacing.temperature == found
