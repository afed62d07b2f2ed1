"""Rounds: each mines with the student of the one before, asks the teacher only what is new, and is measured."""

import numpy as np
import pytest
from run_case import BM25_TEACHER, CROSS_ENCODER, go, metrics

from retrieval_kd.contracts import Role, UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.score_store import ScoreStore
from retrieval_kd.evaluation.per_query import read_per_query
from retrieval_kd.evaluation.significance import compare
from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.explain import explain
from retrieval_kd.pipeline.plan import Plan
from retrieval_kd.pipeline.recipes import stages
from retrieval_kd.pipeline.rounds import tell, with_rounds
from retrieval_kd.pipeline.run import step

pytestmark = [
    pytest.mark.slow,  # whole runs and plans
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]

KL = ("objective=[listwise_kl]", *BM25_TEACHER)
ROUNDS = (*KL, "recipe=iterative", "recipe.rounds=2")


def planned(*overrides):
    return Plan(compose(overrides))


def lists_of(plan):
    return {name: stage.candidates.mined(stage.train_entries[0]) for name, stage in stages(plan)}


@pytest.fixture(scope="module")
def two(small):
    return planned(*small, *ROUNDS)


def test_a_round_goes_on_from_the_one_before_and_mines_with_its_student(two):
    first, second = two.trainings.values()
    assert list(two.trainings) == ["round_1", "round_2"]
    assert two.trained is second
    assert first.key in {one.key for one in second.inputs if not isinstance(one, str)}
    mined = lists_of(two)
    assert "train" not in {one.name for one in mined["round_1"].walk()}
    assert [one.key for one in mined["round_2"].walk() if one.name == "train"] == [first.key]
    assert mined["round_2"].config["negatives"]["source"] == "student"


def test_rounds_of_shorter_and_longer_recipes_are_the_same_steps(small, two):
    first, second = two.trainings.values()
    assert planned(*small, *KL).trained.key == first.key
    assert planned(*small, *ROUNDS, "recipe.rounds=1").trained.key == first.key
    three = planned(*small, *ROUNDS, "recipe.rounds=3").trainings
    assert [one.key for one in three.values()][:2] == [first.key, second.key]
    alone = planned(*small, *KL).results()
    assert [one.key for one in with_rounds(two, two.results())] == [*(one.key for one in alone), two.results()[0].key]


def test_the_command_line_wins_in_every_round(small):
    mined = lists_of(planned(*small, *ROUNDS, "negatives.source=bm25"))
    assert mined["round_1"].key == mined["round_2"].key
    rates = [one.config["optimizer"]["lr"] for one in planned(*small, *ROUNDS, "optimizer.lr=0.5").trainings.values()]
    assert rates == [0.5, 0.5]


def test_a_single_round_has_overrides_of_its_own(small):
    single = "+recipe.stages.round_2=['optimizer.lr=0.25','trainer.epochs=3']"
    first, second = planned(*small, *ROUNDS, single).trainings.values()
    assert (first.config["optimizer"]["lr"], second.config["optimizer"]["lr"]) == (5e-4, 0.25)
    assert second.config["trainer"]["epochs"] == 3
    with pytest.raises(UserError, match=r"recipe\.stages\.round_3: recipe\.rounds=2 has round_1, round_2"):
        planned(*small, *ROUNDS, "+recipe.stages.round_3=['optimizer.lr=0.25']").results()


def test_a_recipe_of_no_round_is_refused(small, command):
    code, _, told = command("train", *small, *ROUNDS, "recipe.rounds=0")
    assert code == 2
    assert "recipe.rounds=0: at least 1" in told[-1]


def test_a_teacher_is_trained_once_and_judged_by_lists_that_do_not_move(small):
    """On the lists of the first round; so are held-out lists, which validation compares rounds by."""
    paired = ("teacher=pairwise", "scorer@teacher.base.members.minilm=bm25", "objective=[listwise_kl,pairwise]")
    for overrides in (("objective=[listwise_kl]", *CROSS_ENCODER), paired):
        plan = planned(*small, *overrides, "recipe=iterative", "recipe.rounds=2", "trainer.validate_every=2")
        walked = plan.results()[0].walk()
        assert [one.name for one in walked].count("train") == 2
        assert [one.name for one in walked].count("teach") == 1
        held_out = [one for one in walked if one.name == "mine" and "dev" in one.about]
        assert len(held_out) == 1
        assert "train" not in {one.name for one in held_out[0].walk()}


def test_the_first_round_may_mine_with_the_student_as_it_starts(small):
    (training,) = planned(*small, *KL, "negatives.source=student").trainings.values()
    assert [one.about for one in training.walk() if one.name == "encode"] == ["things by the untrained student"]
    (folder,) = step(compose([*small, "negatives.source=student"]), "mine")
    found = Candidates.read(folder / "candidates.parquet")
    assert set(np.array(found.source)[found.role == Role.HARD]) == {"student"}
    assert set(found.round.tolist()) == {0}


def test_a_trained_student_has_no_rounds(small, out, trained, written, tmp_path):
    go(*small, *ROUNDS, f"model={trained}", f"output_dir={out}", f"store={tmp_path / 'store'}")
    assert "train" not in written
    assert "rounds" not in metrics(out)


def test_explain_shows_every_round_and_its_calls(small):
    text = explain(compose([*small, *ROUNDS]))
    first, second = text.split("Training, stage ")[1:]
    assert first.startswith("round_1")
    assert "bm25 → ranks" in first
    assert "student → ranks" in second
    assert "stage round_2" in second
    costs = text[text.index("Costs") :]
    assert "round_1: 6 passages" in costs
    assert "round_2: 6 passages" in costs
    assert sum(" train/" in line for line in text.splitlines()) == 2
    assert sum(" evaluate/" in line for line in text.splitlines()) == 2


def test_verdicts_name_what_chance_would_do_too(caplog):
    caplog.set_level("INFO", "retrieval_kd")

    def told(difference, p):
        cell = {"difference": difference, "interval": [-0.01, 0.02], "p": p}
        return {"name": "round_2", "against": {"round": "round_1", "cells": {"c/test ndcg@10": cell}}}

    tell([{"name": "round_1"}, told(0.02, 0.2), told(0.02, 0.01), told(-0.02, 0.01)])
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    nothing, better, worse = caplog.messages
    assert nothing.startswith("round_2 brings nothing that chance would not beside round_1: c/test ndcg@10 +0.0200 [")
    assert better.startswith("round_2 is better")
    assert worse.startswith("round_2 is worse")


def test_rounds_end_to_end(small, tmp_path, caplog, capsys):
    """Measures of every round, a test against the one before, and no pair of texts scored twice."""
    store = tmp_path / "store"
    three = (*small, *ROUNDS, "recipe.rounds=3", "optimizer.lr=0.01", f"store={store}")
    folder = go(*three, f"output_dir={tmp_path / 'out'}")
    rounds = metrics(folder)["rounds"]
    assert [one["name"] for one in rounds] == ["round_1", "round_2", "round_3"]
    assert rounds[-1]["collections"] == metrics(folder)["collections"]
    assert metrics(folder)["cost"]["train_steps"] == 9
    plan = planned(*three)
    values = [
        read_per_query(plan.with_student(one).results()[0].path / "per_query.parquet", "things", "test", "ndcg@10")
        for one in plan.trainings.values()
    ]
    for number in (1, 2):
        cell = rounds[number]["against"]["cells"]["things/test ndcg@10"]
        (expected,) = compare(values[number - 1], {"it": values[number]})
        assert rounds[number]["against"]["round"] == f"round_{number}"
        assert cell["difference"] == pytest.approx(expected.difference, abs=1e-6)
        assert cell["p"] >= expected.p  # corrected over two rounds
    assert sum(" beside round_" in message for message in caplog.messages) == 2
    texts, numbers = set(), []
    for _, stage in stages(plan):
        entry = stage.train_entries[0]
        found = Candidates.read(stage.candidates.mined(entry).path / "candidates.parquet")
        numbers.append(set(found.round.tolist()))
        texts |= set(zip(found.row_query_ids(), found.passage_ids, strict=True))
    assert numbers == [{0}, {1}, {2}]
    (member,) = plan.candidates.teacher(plan.train_entries[0]).members.values()
    assert ScoreStore(store / "scores").count(member.fingerprint) == len(texts)
    from retrieval_kd.cli.measures import print_measures

    print_measures(folder)
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "round_1: things/test",
        "round_2: things/test",
        "round_3: things/test",
        "things/test",
    ]
