import math

import pytest
import torch

from retrieval_kd.functional.confidence import CONFIDENCES, scattered

NAN = float("nan")


def make_lists(members=2, queries=5, passages=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(members, queries, passages, generator=generator, dtype=torch.float64) * 3
    listed = torch.rand(members, queries, passages, generator=generator) < 0.7
    target = torch.rand(queries, passages, generator=generator) < 0.3
    return scores, target.expand_as(listed), listed


def by_hand(name, scores, target, listed):
    places = [place for place in range(len(scores)) if listed[place]]
    own = [place for place in places if target[place]]
    others = [place for place in places if not target[place]]
    total = sum(math.exp(scores[place]) for place in places)
    mass = {place: math.exp(scores[place]) / total for place in places}
    if name == "certainty":
        entropy = -sum(value * math.log(value) for value in mass.values())
        return 1 - entropy / math.log(len(places)) if len(places) > 1 else NAN
    if not own or not others:
        return NAN
    gap = max(scores[place] for place in own) - max(scores[place] for place in others)
    return {
        "probability": sum(mass[place] for place in own),
        "top": float(gap > 0),
        "margin": 1 / (1 + math.exp(-gap)),
    }[name]


@pytest.mark.parametrize("name", CONFIDENCES)
@pytest.mark.parametrize("seed", range(3))
def test_matches_loops(name, seed):
    given = make_lists(seed=seed)
    found = CONFIDENCES[name](*given)
    expected = [
        [by_hand(name, *(part[member, query].tolist() for part in given)) for query in range(5)] for member in range(2)
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), equal_nan=True, rtol=1e-9, atol=0)
    assert not found.isnan().all()
    told = found[~found.isnan()]
    assert 0 <= told.min() <= told.max() <= 1


@pytest.mark.parametrize("name", ["probability", "margin"])
def test_a_saturated_teacher_still_orders_its_queries(name):
    """In 32 bits both would be 1."""
    scores = torch.tensor([[30.0, 0.0, 0.0], [34.0, 0.0, 0.0]])
    target = torch.tensor([[True, False, False]] * 2)
    less, more = CONFIDENCES[name](scores, target, torch.ones(2, 3, dtype=torch.bool)).tolist()
    assert 0.999 < less < more < 1


def test_equal_scores_are_no_certainty_and_ties_no_top():
    scores, target = torch.zeros(1, 4), torch.tensor([[True, False, False, False]])
    listed = torch.ones(1, 4, dtype=torch.bool)
    assert CONFIDENCES["certainty"](scores, target, listed).item() == pytest.approx(0, abs=1e-12)
    assert CONFIDENCES["top"](scores, target, listed).item() == 0
    assert CONFIDENCES["margin"](scores, target, listed).item() == 0.5
    assert CONFIDENCES["probability"](scores, target, listed).item() == pytest.approx(0.25)


def test_what_is_not_listed_does_not_count():
    scores, target, listed = make_lists()
    for name, confidence in CONFIDENCES.items():
        changed = scores.masked_fill(~listed, 1e6)
        torch.testing.assert_close(
            confidence(scores, target, listed), confidence(changed, target, listed), equal_nan=True, msg=name
        )


def test_scattered_is_uniform_and_depends_on_nothing_but_scores_and_seed():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(2, 4000, 6, generator=generator)
    listed = torch.rand(2, 4000, 6, generator=generator) < 0.8
    numbers = scattered(scores, listed, 42)
    assert 0 <= numbers.min() < numbers.max() < 1
    counts = torch.histc(numbers, 10, 0, 1)
    assert (counts - 400).abs().max() < 90  # about five standard deviations
    order = torch.randperm(6, generator=generator)
    assert torch.equal(scattered(scores[..., order], listed[..., order], 42), numbers)
    assert torch.equal(scattered(scores[:, 7:9], listed[:, 7:9], 42), numbers[7:9])
    hidden = scores.masked_fill(~listed, NAN)
    assert torch.equal(scattered(hidden, listed, 42), numbers)
    assert torch.corrcoef(torch.stack([scattered(scores, listed, 43), numbers]))[0, 1].abs() < 0.06
    shifted = scores + torch.tensor(1e-6)
    assert torch.corrcoef(torch.stack([scattered(shifted, listed, 42), numbers]))[0, 1].abs() < 0.06
