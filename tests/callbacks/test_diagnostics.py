import math

import pytest
import torch
from training_case import fit, make_batch, make_student, make_training

from retrieval_kd.callbacks.diagnostics import Diagnostics, gradient_shares, list_figures
from retrieval_kd.contracts import Evidence, Role, Signals
from retrieval_kd.students.bi_encoder import BiEncoder

NAN = float("nan")
ROLE = torch.tensor(
    [
        [Role.POSITIVE, Role.HARD, Role.HARD, Role.DARK_MASKED, Role.NONE],
        [Role.NONE, Role.POSITIVE, Role.RANDOM, Role.NONE, Role.DARK_REINFORCED],
    ],
    dtype=torch.int8,
)
SCORES = torch.tensor([[4.0, 1.0, NAN, 3.0, 9.0], [NAN, 2.0, 0.0, NAN, 1.0]])


def make_signals(role=ROLE, scores=SCORES):
    return Signals(
        positive=role == Role.POSITIVE,
        role=role,
        scores=scores,
        members=scores[None],
        pairs=torch.empty((0, 3), dtype=torch.int64),
        log_odds=torch.empty(0),
    )


def entropy(*scores):
    total = sum(math.exp(score) for score in scores)
    return -sum(math.exp(score) / total * math.log(math.exp(score) / total) for score in scores)


def test_figures_of_lists_by_hand():
    """A score of a passage that is no candidate of the query is none of its list's."""
    similarities = torch.tensor([[3.0, 2.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.5, 0.0, 0.7]])
    found = {name: value.item() for name, value in list_figures(similarities, make_signals(), 2.0).items()}
    assert found["teacher_entropy"] == pytest.approx((entropy(2, 0.5) + entropy(1, 0)) / 2)
    assert found["teacher_entropy_with_dark"] == pytest.approx((entropy(2, 0.5, 1.5) + entropy(1, 0, 0.5)) / 2)
    assert found["teacher_entropy_with_dark"] > found["teacher_entropy"]
    assert found["teacher_score_positive"] == 3.0
    assert found["teacher_score_hard"] == 1.0
    assert found["teacher_score_random"] == 0.0
    assert found["teacher_score_dark_masked"] == 3.0
    assert found["teacher_score_dark_reinforced"] == 1.0
    assert math.isnan(found["teacher_score_pseudo_positive"])
    assert found["kendall_tau"] == pytest.approx((1 / 3 + 1) / 2)


def test_without_made_passages_there_is_one_entropy():
    role = ROLE.masked_fill(ROLE >= Role.DARK_REINFORCED, int(Role.HARD))
    found = list_figures(torch.zeros(2, 5), make_signals(role), 1.0)
    assert found["teacher_entropy_with_dark"].isnan()
    assert not found["teacher_entropy"].isnan()
    assert found["kendall_tau"].isnan()  # the student has no order


def test_shares_are_those_of_the_representations_gradients():
    queries, passages = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    evidence = Evidence(
        {"vectors": queries * 1.0},
        {"vectors": passages * 1.0, "lengths": torch.arange(5)},
        lambda q, p: q["vectors"] @ p["vectors"].T,
    )
    terms = {
        "a": evidence.query_passage.square().sum(),
        "b": 3 * evidence.query_passage.sum(),
        "queries": evidence.queries["vectors"].sum() * 0.5,
        "constant": torch.tensor(2.0),
    }
    found = gradient_shares(terms, evidence)
    norms = {}
    for name in ("a", "b", "queries"):
        parts = torch.autograd.grad(terms[name], (queries, passages), retain_graph=True, allow_unused=True)
        norms[name] = math.sqrt(sum(part.square().sum().item() for part in parts if part is not None))
    assert found.keys() == {f"gradient_share_{name}" for name in norms}
    for name, norm in norms.items():
        assert found[f"gradient_share_{name}"].item() == pytest.approx(norm / sum(norms.values()), rel=1e-5)
    assert queries.grad is None


@pytest.mark.slow
@pytest.mark.parametrize("gradient_cache", [False, True])
def test_training_is_the_same_with_and_without(tiny, training_set, monkeypatch, gradient_cache):
    logged, weights = [], []
    monkeypatch.setattr(BiEncoder, "log_dict", lambda _, values, **__: logged.append(dict(values)))
    for callbacks in ([], [Diagnostics()]):
        torch.manual_seed(0)
        student = make_student(tiny)
        student.prepare(make_training(gradient_cache=gradient_cache))
        fit(student, training_set, callbacks, max_epochs=1, log_every_n_steps=2)
        weights.append(student.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    found = [values for values in logged if any(name.startswith("diagnostics/") for name in values)]
    assert len(found) == 1  # of three steps, the second is logged
    shares = {name: float(value) for name, value in found[0].items() if "gradient_share" in name}
    assert shares.keys() == {"diagnostics/gradient_share_contrastive", "diagnostics/gradient_share_listwise_kl"}
    assert sum(shares.values()) == pytest.approx(1)
    assert {"diagnostics/kendall_tau", "diagnostics/teacher_entropy", "diagnostics/teacher_score_hard"} <= found[
        0
    ].keys()


def test_it_stops_watching(tiny, training_set):
    student = make_student(tiny)
    student.prepare(make_training())
    fit(student, training_set, [Diagnostics()], max_epochs=1, limit_train_batches=1)
    parts = student.training_parts
    assert not parts.objective._forward_hooks
    assert not parts.regularizer._forward_hooks
    assert make_batch(training_set, student, [0])
