"""Nodes become objects: nested first, plain arguments, metadata dropped, mistakes named by their key."""

from functools import partial

import pytest
from omegaconf import OmegaConf

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.build import METADATA, build

HERE = f"{__name__}."


class Thing:
    def __init__(self, size: int, inner: object = None) -> None:
        if size < 0:
            raise ValueError(f"size must be >= 0, got {size}")
        self.size = size
        self.inner = inner


class Broken:
    def __init__(self) -> None:
        raise UserError("config.yaml:3: not this way")


class Faulty:
    def __init__(self, size: int) -> None:
        raise RuntimeError("a fault of the program")


def node(**keys):
    return OmegaConf.create({"part": {"thing": {"_target_": f"{HERE}Thing", **keys}}}).part.thing


def test_nested_nodes_lists_and_interpolations():
    cfg = OmegaConf.create(
        {
            "size": 3,
            "thing": {
                "_target_": f"{HERE}Thing",
                "size": "${size}",
                "inner": {"a": [{"_target_": f"{HERE}Thing", "size": 1}, 2], "b": {"c": [1, 2]}},
            },
        }
    )
    thing = build(cfg.thing)
    assert thing.size == 3
    assert thing.inner["a"][0].size == 1
    assert (type(thing.inner), type(thing.inner["b"]), thing.inner["b"]["c"]) == (dict, dict, [1, 2])


def test_injected_arguments_win_and_are_passed_as_they_are():
    given = {"an": object()}
    thing = build(node(size=1, inner={"_target_": "nowhere.to.be.Found"}), inner=given, size=5)
    assert thing.inner is given
    assert thing.size == 5


def test_metadata_stays_out_of_constructors():
    assert build(node(size=1, **dict.fromkeys(METADATA, "x"))).size == 1
    assert build({"_target_": "builtins.dict", "needs": [1], "size": 2}) == {"size": 2}


def test_metadata_names_are_kept_outside_of_nodes():
    assert build(node(size=1, inner={"weight": 3})).inner == {"weight": 3}


def test_partial_and_positional():
    waiting = build(node(_partial_=True, inner=4))
    assert isinstance(waiting, partial)
    assert (waiting(size=2).size, waiting(size=2).inner) == (2, 4)
    assert build(node(_args_=[7])).size == 7


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"size": -1}, ["part.thing: size must be >= 0, got -1"]),
        ({"sise": 1}, ["part.thing", "Thing", "sise"]),
        ({"size": 1, "inner": {"_target_": f"{HERE}Thing", "size": -2}}, ["part.thing.inner", "got -2"]),
        ({"_target_": f"{HERE}Nothing"}, ["part.thing", "Nothing", "cannot be imported"]),
        ({"_target_": "no_such_package.Thing"}, ["part.thing", "no_such_package"]),
        ({"_target_": f"{HERE}HERE"}, ["part.thing", "not a class or function"]),
        ({"_target_": f"{HERE}Broken"}, ["config.yaml:3: not this way"]),
    ],
)
def test_mistakes_name_the_key(keys, parts):
    with pytest.raises(UserError) as caught:
        build(node(**keys))
    assert [part for part in parts if part not in str(caught.value)] == []


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="fault"):
        build({"_target_": f"{HERE}Faulty", "size": 1})
