"""What a command sweeps over, in the order in which Hydra has it."""

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.pipeline.sweep_space import read_space


def jobs(*arguments, **params):
    return [job.overrides for job in read_space(arguments, params).combinations()]


def test_the_last_key_changes_first_and_fixed_ones_stay_as_they_are_written():
    assert jobs("seed=1,2", "a.b=2e-4", "c=x,y") == [
        ("seed=1", "a.b=2e-4", "c=x"),
        ("seed=1", "a.b=2e-4", "c=y"),
        ("seed=2", "a.b=2e-4", "c=x"),
        ("seed=2", "a.b=2e-4", "c=y"),
    ]


def test_every_form_of_values():
    assert jobs("a=range(1,7,2)") == [("a=1",), ("a=3",), ("a=5",)]
    assert jobs("a=choice([1,2],[3])") == [("a=[1,2]",), ("a=[3]",)]
    assert jobs("objective=[contrastive],[listwise_kl,pairwise]") == [
        ("objective=[contrastive]",),
        ("objective=[listwise_kl,pairwise]",),
    ]
    assert jobs("+a=1,2", "~b") == [("+a=1", "~b"), ("+a=2", "~b")]
    assert jobs("a='x y','z'") == [("a='x y'",), ("a='z'",)]
    assert jobs("recipe=glob(*,exclude=[i*,l*,t*])") == [("recipe=no_training",), ("recipe=one_stage",)]


def test_a_job_is_run_once():
    assert jobs("a=1,1,2") == [("a=1",), ("a=2",)]
    assert jobs() == [()]
    assert [job.number for job in read_space(["a=1,1,2"]).combinations()] == [0, 1]


def test_params_come_before_the_command_which_wins():
    assert jobs("c=3", seed="1,2") == [("seed=1", "c=3"), ("seed=2", "c=3")]
    assert jobs("seed=9", seed="1,2") == [("seed=9",)]
    assert jobs(seed=[1, 2]) == [("seed=1",), ("seed=2",)]
    assert jobs("seed=1,2", "seed=3") == [("seed=3",)]


def test_what_has_no_end_or_no_value():
    assert read_space(["a=interval(1,2)", "b=5,6"]).first().overrides == ("a=1.0", "b=5")
    with pytest.raises(UserError, match=r"^a: a=interval\(1,2\) has no end of values; sweep=search draws from it$"):
        jobs("a=interval(1,2)")
    with pytest.raises(UserError, match="has no value"):
        read_space(["a=range(2,2)"])
    with pytest.raises(UserError, match="cannot be read"):
        read_space(["a=1,(2"])
