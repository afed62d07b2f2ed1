"""Every option of every group composes and binds; experiments only select; metadata tells what the classes tell."""

import inspect
from functools import cache

import pytest
import yaml
from omegaconf import OmegaConf

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.pipeline import conf_tree
from retrieval_kd.pipeline.build import METADATA, RESERVED, resolve
from retrieval_kd.pipeline.compatibility import check
from retrieval_kd.pipeline.compose import compose, conf_dir

OPTIONS = [(group, name) for group, names in conf_tree.options().items() for name in names]
EXPERIMENTS = conf_tree.options().get("experiment", [])
MOST_LINES = 60

# Options that are composed by themselves: other options place these, and experiments set keys of what they select.
ALONE = {"scorer": ["teacher=pointwise"], "judge": ["teacher=pairwise"], "experiment": []}
PLACES = {"scorer": "scorer@teacher.scorer", "judge": "judge@teacher.judge"}
WITHOUT_DEFAULT = {"data": "data.path=folder"}

# Keys that the pipeline itself reads, and does not hand to the constructor: by group.
READ_BY_THE_PIPELINE = {
    "negatives": {"source", "pool", "per_query"},
    "engine": {"depth"},
}


def selection(group, name):
    value = f"[{name}]" if group in conf_tree.multi_select() else name
    return f"{PLACES.get(group, group)}={value}"


def missing(node, path=""):
    """Keys that must be given."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from missing(value, f"{path}{key}.")
        elif value == "???":
            yield f"{path}{key}"


def composed(group, name):
    """A configuration with this option; one holds an option of every other group too, for composing takes time."""
    if group in ALONE:
        place = PLACES.get(group, group).rpartition("@")[2]
        required = [f"{place}.{key}=file" for key in missing(conf_tree.load(f"{group}/{name}"))]
        return _composed((*ALONE[group], selection(group, name), *required))
    number = conf_tree.options()[group].index(name)
    selections = []
    for other, names in conf_tree.options().items():
        if other not in ALONE:
            chosen = names[number % len(names)]
            selections.append(selection(other, chosen))
            if conf_tree.load(f"{other}/{chosen}").get("path") == "???":
                selections.append(WITHOUT_DEFAULT[other])
    return _composed(tuple(selections))


_composed = cache(compose)


def targets(node, path=""):
    """Every mapping with a ``_target_``, as it will be built."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from targets(value, f"{path}[{number}]")


def bind(path, node):
    """Fail if the target does not take a key; what is injected when it is built may be absent."""
    keys = [key for key in node if key not in METADATA | RESERVED | READ_BY_THE_PIPELINE.get(path, set())]
    try:
        inspect.signature(resolve(node["_target_"])).bind_partial(*node.get("_args_", []), **dict.fromkeys(keys))
    except TypeError as error:
        pytest.fail(f"{path}: {node['_target_']}: {error}")


@pytest.mark.slow  # `make check` runs it too
@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_option_composes(group, name):
    cfg = composed(group, name)
    if group in cfg.options:
        chosen = cfg.options[group]
        assert name in (chosen if OmegaConf.is_list(chosen) else [chosen])


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_targets_take_their_keys(group, name):
    root = PLACES.get(group, group).rpartition("@")[2]
    for path, node in targets(conf_tree.load(f"{group}/{name}")):
        bind(path or root, {key: value for key, value in node.items() if key != "defaults"})


def test_config_yaml_itself_binds():
    found = dict(targets(conf_tree.load("config")))
    assert "optimizer" in found
    for path, node in found.items():
        bind(path, node)


@pytest.mark.parametrize(("group", "name"), [option for option in OPTIONS if option[0] == "objective"])
def test_an_objective_stands_under_its_own_name(group, name):
    content = conf_tree.load(f"{group}/{name}")
    assert list(content) == [name]
    assert isinstance(content[name]["weight"], int | float)


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_metadata_is_what_the_class_says(group, name):
    nodes = list(targets(conf_tree.load(f"{group}/{name}")))
    if group == "objective":
        assert all("needs" in node for _, node in nodes)
    for path, node in nodes:
        target = resolve(node["_target_"])
        for key in ("needs", "gives", "shared_space", "white_box"):
            declared = getattr(target, key, None)
            if isinstance(declared, frozenset):
                assert {str(signal) for signal in declared} == set(node.get(key, [])), f"{name}: {path}.{key}"
            elif isinstance(declared, bool):
                assert declared == node.get(key, False), f"{name}: {path}.{key}"
        if group == "scorer" and isinstance(getattr(target, "kind", None), ScoreKind):
            assert node["score_kind"] == target.kind, f"{name}: {path}.score_kind"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_only_select(name):
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    assert "_target_" not in text
    assert len(text.splitlines()) <= MOST_LINES
    assert text.startswith("# @package _global_\n")
    cfg = compose([f"experiment={name}"])
    check(cfg)
    known = compose()
    for key in yaml.safe_load(text).keys() - {"defaults"}:
        assert key in known, f"{name}: {key}"
    for path, node in targets(OmegaConf.to_container(cfg, resolve=True)):
        bind(path, node)


def test_the_default_works():
    check(compose())


def test_groups_are_keys():
    keys = set(compose(["teacher=pointwise"]))
    unplaced = {"experiment", "scale"} | set(PLACES)  # packages of their own
    assert {group for group in conf_tree.options() if "/" not in group} - keys <= unplaced


def test_conf_holds_data_only():
    strange = [path for path in conf_dir().rglob("*") if path.is_file() and path.suffix != ".yaml"]
    assert strange == []
    assert all(isinstance(yaml.safe_load(path.read_text()) or {}, dict) for path in conf_dir().rglob("*.yaml"))


def test_a_misspelt_key_in_an_option_would_be_found():
    node = {"_target_": "retrieval_kd.objectives.contrastive.Contrastive", "temprature": 1}
    with pytest.raises(TypeError, match="temprature"):
        inspect.signature(resolve(node["_target_"])).bind_partial(temprature=1)
    with pytest.raises(UserError, match="did you mean"):
        compose(["objective.contrastive.temprature=1"])
