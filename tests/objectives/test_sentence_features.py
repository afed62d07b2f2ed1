import pytest
import torch
from evidence_case import ROLE, make_negative, make_signals

from retrieval_kd.contracts import Evidence, Role, Signal
from retrieval_kd.objectives.sentence_features import SentenceFeatures

QUERY_WORDS, PASSAGE_WORDS = [2, 3, 1], [4, 1, 3, 2, 2, 5]
# Of each query: the positive and the hard one that SIMILARITIES place highest.
PAIRS = [(0, 0), (0, 2), (1, 1), (1, 3), (2, 0), (2, 5)]
SIMILARITIES = torch.tensor(
    [[0.0, 0.1, 0.2, 0.9, 0.9, 0.9], [0.9, 0.0, 0.1, 0.3, 0.9, 0.9], [0.5, 0.9, 0.9, 0.4, 0.9, 0.0]]
)


class Teacher:
    """Three features that depend on the lengths of both texts."""

    def __init__(self):
        self.asked = []

    def __call__(self):
        return self

    def features(self, pairs):
        assert not torch.is_grad_enabled()
        self.asked.append(pairs)
        return features(pairs.query_lengths, pairs.passage_lengths)


def features(left, right):
    return torch.stack([left * 1.0, right * 1.0, left * right / 2], -1)


def side(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "vectors": torch.randn(len(lengths), 4, generator=generator).requires_grad_(),
        "word_ids": torch.randint(1, 50, (len(lengths), 6), generator=generator),
        "word_lengths": torch.tensor(lengths),
    }


def make_evidence(queries=QUERY_WORDS, passages=PASSAGE_WORDS):
    return Evidence(side(queries, 1), side(passages, 2), lambda *_: SIMILARITIES)


def value(objective, evidence, signals=None, weight=None):
    signals = make_signals() if signals is None else signals
    weight = torch.ones(3) if weight is None else weight
    return objective(evidence, signals, torch.zeros_like(make_negative(signals)), weight)


def by_hand(objective, evidence, pairs):
    """The squared distance of each pair, in plain loops."""
    matrix, shift = objective.projection.weight.tolist(), objective.projection.bias.tolist()
    found = {}
    for query, passage in pairs:
        left, right = evidence.queries["vectors"][query].tolist(), evidence.passages["vectors"][passage].tolist()
        both = [*left, *right, *(one * other for one, other in zip(left, right, strict=True))]
        said = [sum(w * x for w, x in zip(row, both, strict=True)) + b for row, b in zip(matrix, shift, strict=True)]
        told = features(torch.tensor(QUERY_WORDS[query]), torch.tensor(PASSAGE_WORDS[passage])).tolist()
        found[query, passage] = sum((one - other) ** 2 for one, other in zip(said, told, strict=True)) / 3
    return found


def test_matches_the_loop_and_weighs_queries():
    objective, evidence = SentenceFeatures(Teacher(), (4, 3), 1), make_evidence()
    losses = by_hand(objective, evidence, PAIRS)
    assert value(objective, evidence).item() == pytest.approx(sum(losses.values()) / 6, rel=1e-5)
    found = value(objective, evidence, weight=torch.tensor([2.0, 0.0, 1.0]))
    expected = (losses[0, 0] + losses[0, 2]) + (losses[2, 0] + losses[2, 5]) / 2
    assert found.item() == pytest.approx(expected / 3, rel=1e-5)


def test_what_is_learned_beside_the_student():
    """W alone: the same start every time, with a gradient of its own; the teacher is no part of it."""
    objective, other = (SentenceFeatures(Teacher(), (4, 3), 1) for _ in range(2))
    assert torch.equal(objective.projection.weight, other.projection.weight)
    assert [name for name, _ in objective.named_parameters()] == ["projection.weight", "projection.bias"]
    evidence = make_evidence()
    value(objective, evidence).backward()
    assert objective.projection.weight.grad.abs().min() > 0
    assert all((evidence.passages["vectors"].grad[row].abs().max() > 0) == (row != 4) for row in range(6))
    assert SentenceFeatures.needs == {Signal.FEATURES}


def test_a_text_without_a_word_is_in_no_pair():
    teacher = Teacher()
    value(SentenceFeatures(teacher, (4, 3), 1), make_evidence([2, 0, 1], [4, 1, 0, 2, 2, 5]))
    assert teacher.asked[0].query_lengths.tolist() == [2, 1, 1]


def test_a_batch_without_a_pair_is_zero_with_gradients_for_everything():
    """Other processes wait for the gradients of every parameter."""
    teacher = Teacher()
    objective = SentenceFeatures(teacher, (4, 3), 1)
    found = value(objective, make_evidence(), make_signals(torch.full_like(ROLE, int(Role.NONE))))
    found.backward()
    assert found.item() == 0
    assert objective.projection.weight.grad.abs().max() == 0
    assert teacher.asked == []
    with pytest.raises(ValueError, match=r"objective\.sentence_features\.pairs_per_query is at least 0"):
        SentenceFeatures(teacher, (4, 3), -1)
