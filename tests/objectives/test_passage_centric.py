import math

import pytest
import torch
import torch.nn.functional as F
from evidence_case import ROLE, make_negative, make_signals
from training_case import make_batch, make_student, make_training

from retrieval_kd.contracts import Evidence, Role, Signal
from retrieval_kd.objectives.contrastive import Contrastive
from retrieval_kd.objectives.passage_centric import FORMS, PassageCentric
from retrieval_kd.objectives.weighted_sum import WeightedSum
from retrieval_kd.students.bi_encoder import BiEncoder

# Of each query: its positive; the passages against it, by form; and the other queries that have that positive against
# them (released). Passage 4 is dark, 3 is another positive of query 0, 0 and 3 are hard for somebody, 5 for nobody.
PAPER = [(0, [1, 2]), (1, [0, 2, 3]), (5, [0, 1, 2, 3])]
OWN = [(0, [1, 2]), (1, [2, 3]), (5, [0, 3])]
QUERIES_AGAINST = [[1, 2], [0, 2], [0, 1]]
IN_BATCH = [(0, [1, 2, 5]), (1, [0, 2, 3, 5]), (5, [0, 1, 2, 3])]


def vectors(queries=3, passages=6, seed=7):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(queries + passages, 4, generator=generator).mul_(0.5).requires_grad_()
    return drawn, Evidence(
        {"vectors": drawn[:queries]}, {"vectors": drawn[queries:]}, lambda q, p: q["vectors"] @ p["vectors"].T
    )


def value_and_gradient(objective, signals=None, negative=None, weight=None):
    signals = make_signals() if signals is None else signals
    drawn, evidence = vectors(*signals.role.shape)
    negative = make_negative(signals) if negative is None else negative
    weight = torch.ones(len(signals.role)) if weight is None else weight
    value = objective(evidence, signals, negative, weight)
    value.backward()
    return value.item(), drawn.grad, drawn.detach().double()


def by_hand(form, drawn, temperature=1.0, lists=None):
    """In plain loops and double precision, from the lists above."""
    queries, passages = drawn[:3].tolist(), drawn[3:].tolist()

    def power(left, right):
        return math.exp(sum(a * b for a, b in zip(left, right, strict=True)) / temperature)

    values = []
    for row, (target, negatives) in enumerate(lists or (IN_BATCH if form == "joint" else PAPER)):
        own = power(queries[row], passages[target])
        rest = [power(passages[target], passages[one]) for one in negatives]
        if form == "released":
            rest += [power(passages[target], queries[one]) for one in QUERIES_AGAINST[row]]
        if form == "joint":
            rest += [power(queries[row], passages[one]) for one in negatives]
        values.append(-math.log(own / (own + sum(rest))))
    return values


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_matches_the_loop(form, temperature):
    found, _, drawn = value_and_gradient(PassageCentric(temperature, form, in_batch=True))
    assert found == pytest.approx(sum(by_hand(form, drawn, temperature)) / 3, rel=1e-5)


@pytest.mark.parametrize("form", ["paper", "joint"])
def test_own_candidates_alone(form):
    found, _, drawn = value_and_gradient(PassageCentric(1.0, form, in_batch=False))
    assert found == pytest.approx(sum(by_hand(form, drawn, lists=OWN)) / 3, rel=1e-5)


def test_released_and_joint_hold_more_than_paper_and_contrastive():
    values = {form: value_and_gradient(PassageCentric(1.0, form, in_batch=True))[0] for form in FORMS}
    plain = value_and_gradient(Contrastive(1.0, in_batch=True))[0]
    assert values["released"] > values["paper"]
    assert values["joint"] > plain


def test_one_positive_and_one_negative_for_each_query():
    """The layout of the paper, where the loss is a cross-entropy over two blocks of columns."""
    drawn, evidence = vectors(5, 10)
    role = torch.full((5, 10), int(Role.NONE), dtype=torch.int8)
    role[range(5), range(5)] = int(Role.POSITIVE)
    role[range(5), range(5, 10)] = int(Role.HARD)
    signals = make_signals(role, torch.full(role.shape, float("nan")), role == Role.POSITIVE)
    given = evidence, signals, make_negative(signals), torch.ones(5)
    query, positive, negative = drawn[:5], drawn[5:10], drawn[10:]
    of_all = torch.cat([positive @ query.T, positive @ negative.T], 1)
    released = F.cross_entropy(of_all, torch.arange(5))
    torch.testing.assert_close(PassageCentric(1.0, "released", True)(*given), released)
    others = torch.cat([~torch.eye(5, dtype=torch.bool), torch.zeros(5, 5, dtype=torch.bool)], 1)
    paper = F.cross_entropy(of_all.masked_fill(others, -torch.inf), torch.arange(5))
    torch.testing.assert_close(PassageCentric(1.0, "paper", True)(*given), paper)
    assert released > paper


@pytest.mark.parametrize("form", FORMS)
def test_weight_zero_is_contrastive_alone(form):
    """PAIR with alpha = 0, value and gradient."""
    terms = {"contrastive": Contrastive(0.1, True), "passage_centric": PassageCentric(0.1, form, True)}
    both = WeightedSum(terms, {"contrastive": 1.0, "passage_centric": 0.0})
    found, gradient, _ = value_and_gradient(lambda *given: sum(both(*given).values()))
    plain, expected, _ = value_and_gradient(Contrastive(0.1, True))
    assert found == plain
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_dark_passage_is_nobodys_negative(form):
    _, gradient, _ = value_and_gradient(PassageCentric(1.0, form, in_batch=True))
    assert gradient[3 + 4].abs().max() == 0


@pytest.mark.parametrize("form", FORMS)
def test_another_known_positive_of_the_query_is_no_negative(form):
    """Passage 3 is judged relevant to query 0: they would only meet in its loss, which is the one that counts here."""
    negative = make_negative(make_signals())
    negative[1:] = False
    _, gradient, _ = value_and_gradient(PassageCentric(1.0, form, True), negative=negative)
    assert gradient[3 + 3].abs().max() == 0
    assert gradient[3 + 1].abs().max() > 0


@pytest.mark.parametrize("form", FORMS)
def test_what_the_filter_drops_is_no_negative(form):
    signals = make_signals()
    negative = make_negative(signals)
    negative[:, 2] = False
    _, gradient, _ = value_and_gradient(PassageCentric(1.0, form, True), negative=negative)
    assert gradient[3 + 2].abs().max() == 0


def test_a_query_whose_positive_may_not_be_anothers_negative_is_not_against_it():
    """Query 1 would be against passage 0; if 0 may not serve as a negative of 1, 1 is none of 0 either."""
    negative = torch.zeros_like(make_negative(make_signals()))
    negative[1, 0] = True
    objective = PassageCentric(1.0, "released", True)
    _, before, _ = value_and_gradient(objective, negative=negative)
    negative[1, 0] = False
    _, after, _ = value_and_gradient(objective, negative=negative)
    assert before[1].abs().max() > 0
    assert after[1].abs().max() == 0


@pytest.mark.parametrize("form", ["paper", "joint"])
def test_a_query_without_negatives_is_left_out(form):
    negative = make_negative(make_signals())
    negative[0] = False
    found, gradient, drawn = value_and_gradient(PassageCentric(1.0, form, False), negative=negative)
    assert found == pytest.approx(sum(by_hand(form, drawn, lists=OWN)[1:]) / 2, rel=1e-5)
    assert gradient[0].abs().max() == 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nothing", ["target", "negative"])
def test_a_batch_without_anything_to_say_is_zero_not_nan(form, nothing):
    role = torch.full_like(ROLE, int(Role.HARD)) if nothing == "target" else ROLE
    signals = make_signals(role)
    negative = make_negative(signals) & (nothing == "target")
    found, gradient, _ = value_and_gradient(PassageCentric(1.0, form, True), signals, negative)
    assert found == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_pacing_changes_nothing():
    """It is about what a teacher says."""
    objective = PassageCentric(1.0, "joint", True)
    found, gradient, _ = value_and_gradient(objective, weight=torch.tensor([0.5, 0.0, 2.0]))
    plain, expected, _ = value_and_gradient(objective)
    assert found == plain
    assert torch.equal(gradient, expected)


def test_two_positives_count_as_one_query():
    role = ROLE.clone()
    role[0, 3] = int(Role.POSITIVE)
    objective = PassageCentric(1.0, "paper", in_batch=False)
    found, _, drawn = value_and_gradient(objective, make_signals(role))
    losses = by_hand("paper", drawn, lists=[*OWN])
    second = by_hand("paper", drawn, lists=[(3, [1, 2]), *OWN[1:]])
    assert found == pytest.approx(((losses[0] + second[0]) / 2 + losses[1] + losses[2]) / 3, rel=1e-5)


def test_what_it_needs():
    assert PassageCentric.needs == {Signal.JUDGEMENTS}
    assert PassageCentric.shared_space


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((0.0, "paper", True), "temperature must be > 0"),
        ((1.0, "code", True), "form is paper, released, joint, got code"),
        ((1.0, "released", False), "form=paper or in_batch=true would fit"),
    ],
)
def test_settings_that_it_refuses(settings, words):
    with pytest.raises(ValueError, match=rf"objective\.passage_centric\..*{words}"):
        PassageCentric(*settings)


@pytest.mark.parametrize("form", FORMS)
def test_cached_gradients_are_the_plain_ones(form, tiny, training_set, monkeypatch):
    monkeypatch.setattr(BiEncoder, "progress", 0.5)
    monkeypatch.setattr(BiEncoder, "log_dict", lambda *_, **__: None)
    objective = WeightedSum({"term": PassageCentric(0.1, form, True)}, {"term": 1.0})
    found = []
    for cache in (False, True):
        student = make_student(tiny).train()
        student.prepare(make_training(gradient_cache=cache, objective=objective))
        torch.manual_seed(1)
        student.training_step(make_batch(training_set, student, range(6)), 0).backward()
        found.append([value.grad for value in student.parameters()])
    assert all(torch.equal(plain, cached) for plain, cached in zip(*found, strict=True))
    assert max(value.abs().max() for value in found[0]) > 0.01
