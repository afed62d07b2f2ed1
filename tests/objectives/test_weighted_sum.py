from dataclasses import replace

import pytest
import torch
from evidence_case import make_evidence, make_negative, make_signals
from torch import nn

from retrieval_kd.objectives.contrastive import Contrastive
from retrieval_kd.objectives.listwise_kl import ListwiseKL
from retrieval_kd.objectives.weighted_sum import WeightedSum


def ask(objective):
    signals = make_signals()
    similarities = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    return objective(make_evidence(similarities), signals, make_negative(signals), torch.ones(3))


def test_each_term_has_its_own_name_and_weight():
    terms = {
        "soft": ListwiseKL(1.0, 1.0, "exclude"),
        "sharp": ListwiseKL(0.1, 1.0, "exclude"),
        "hard": Contrastive(1.0, True),
    }
    found = ask(WeightedSum(terms, {"soft": 0.5, "sharp": 2, "hard": 0.0}))
    assert list(found) == ["soft", "sharp", "hard"]
    assert found["soft"].item() == pytest.approx(0.5 * ask(terms["soft"]).item())
    assert found["sharp"].item() == pytest.approx(2 * ask(terms["sharp"]).item())
    assert found["sharp"].item() != pytest.approx(4 * found["soft"].item(), rel=0.01)
    assert found["hard"].item() == 0


def test_a_term_takes_the_scores_of_its_own_teacher():
    signals, similarities = make_signals(), torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    others = torch.stack([signals.scores.flip(0), -2 * signals.scores])
    terms = {name: ListwiseKL(1.0, 1.0, "exclude") for name in ("main", "second", "first")}
    objective = WeightedSum(terms, dict.fromkeys(terms, 1.0), own=("first", "second"))
    negative = make_negative(signals)
    found = objective(make_evidence(similarities), replace(signals, own=others), negative, torch.ones(3))
    for name, scores in (("main", signals.scores), ("first", others[0]), ("second", others[1])):
        alone = terms[name](make_evidence(similarities), replace(signals, scores=scores), negative, torch.ones(3))
        assert found[name].item() == pytest.approx(alone.item())
    assert len({round(value.item(), 6) for value in found.values()}) == 3


def test_state_of_terms_is_part_of_the_sum():
    """A term with buffers must reach the checkpoint."""
    term = ListwiseKL(1.0, 1.0, "exclude")
    term.register_buffer("centre", torch.ones(2))
    assert "terms.soft.centre" in WeightedSum({"soft": term}, {"soft": 1.0}).state_dict()


def test_no_term_is_refused():
    with pytest.raises(ValueError, match=r"objective=\[\]"):
        WeightedSum({}, {})


def test_a_term_that_is_no_module_is_refused_not_left_out():
    with pytest.raises(TypeError, match=r"objective\.plain"):
        WeightedSum({"plain": lambda *_: torch.zeros(())}, {"plain": 1.0})


@pytest.mark.parametrize("name", ["penalty", "loss"])
def test_names_of_the_training_log_are_taken(name):
    with pytest.raises(ValueError, match=f"{name} is taken"):
        WeightedSum({name: nn.Identity()}, {name: 1.0})
