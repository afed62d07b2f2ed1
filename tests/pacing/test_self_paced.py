from dataclasses import replace

import pytest
import torch

from retrieval_kd.contracts import Role, Signals
from retrieval_kd.functional.confidence import CONFIDENCES
from retrieval_kd.pacing.self_paced import SelfPaced

EVERY = [*CONFIDENCES, "random"]
WHOLE = {"start": 1.0, "end": 1.0, "until": 1.0}


def make_pacing(confidence="probability", selection="hard", start=0.3, end=1.0, until=1.0, memory=4096, **more):
    share = {"start": start, "end": end, "until": until}
    settings = {"temperature": 1.0, "seed": 42} | more
    return SelfPaced(confidence, selection, share, memory=memory, **settings)


def make_signals(queries=40, found=6, dark=2, seed=0):
    """Lists of one positive, hard ones and made ones; the last query has no positive, one in six hard ones no score."""
    generator = torch.Generator().manual_seed(seed)
    width = found + dark
    role = torch.full((queries, queries * width), int(Role.NONE), dtype=torch.int8)
    members = torch.full((2, *role.shape), float("nan"))
    own = [Role.POSITIVE, *[Role.HARD] * (found - 1), *[Role.DARK_MASKED, Role.DARK_REINFORCED] * (dark // 2)]
    for query in range(queries):
        columns = slice(query * width, (query + 1) * width)
        role[query, columns] = torch.tensor([int(one) for one in own], dtype=torch.int8)
        members[:, query, columns] = torch.randn(2, width, generator=generator) * 3
    role[-1][role[-1] == Role.POSITIVE] = Role.HARD
    holes = (torch.rand(role.shape, generator=generator) < 1 / 6) & (role == Role.HARD)
    members[:, holes] = float("nan")
    return Signals(
        positive=role == Role.POSITIVE,
        role=role,
        scores=members.sum(0),
        members=members,
        pairs=torch.empty((0, 3), dtype=torch.int64),
        log_odds=torch.empty(0),
    )


@pytest.mark.parametrize("confidence", EVERY)
@pytest.mark.parametrize("selection", ["hard", "soft"])
def test_the_whole_share_is_weight_one_for_all(confidence, selection):
    """For a query without a positive, too."""
    weight = make_pacing(confidence, selection, start=1.0)(make_signals(), 0.5)
    assert weight.dtype == torch.float32
    assert weight.tolist() == [1.0] * 40


@pytest.mark.parametrize("confidence", EVERY)
def test_a_larger_share_keeps_all_that_a_smaller_one_takes(confidence):
    signals, pacing = make_signals(), make_pacing(confidence, start=0.0)
    pacing.step(make_signals(seed=1), 0.0)
    before = torch.zeros(40, dtype=torch.bool)
    sizes = []
    for progress in torch.linspace(0, 1, 21).tolist():
        weight = pacing(signals, progress)
        assert set(weight.tolist()) <= {0.0, 1.0}
        assert (weight.bool() | ~before).all()
        before = weight.bool()
        sizes.append(int(before.sum()))
    assert sizes[-1] == 40
    assert len(set(sizes)) > 10


@pytest.mark.parametrize("confidence", EVERY)
def test_soft_weights_rise_with_the_share_and_with_confidence(confidence):
    signals, pacing = make_signals(), make_pacing(confidence, "soft", start=0.0)
    low, high = pacing(signals, 0.2), pacing(signals, 0.6)
    assert (low <= high).all()
    expected = pacing.confidences(signals).nan_to_num(0.0)
    torch.testing.assert_close(low.double(), 0.8 * expected + 0.2, rtol=0, atol=1e-6)


def test_without_a_schedule_soft_weights_are_the_confidence():
    signals, pacing = make_signals(), make_pacing(selection="soft", start=0.0, end=0.0)
    torch.testing.assert_close(
        pacing(signals, 0.9).double(), pacing.confidences(signals).nan_to_num(0.0), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("confidence", EVERY)
@pytest.mark.parametrize("selection", ["hard", "soft"])
def test_weights_carry_no_gradient(confidence, selection):
    signals = make_signals()
    learned = replace(signals, members=signals.members.clone().requires_grad_())
    assert not make_pacing(confidence, selection)(learned, 0.3).requires_grad


@pytest.mark.parametrize("confidence", EVERY)
def test_made_passages_and_the_combined_scores_are_not_asked(confidence):
    """Dark passages would take the softmax's mass from the positive; an ensemble's scores depend on the list."""
    signals = make_signals()
    pacing = make_pacing(confidence)
    made = (signals.role == Role.DARK_MASKED) | (signals.role == Role.DARK_REINFORCED)
    other = replace(signals, members=signals.members.masked_fill(made, 50.0), scores=signals.scores * -3)
    torch.testing.assert_close(pacing.confidences(other), pacing.confidences(signals), equal_nan=True, rtol=0, atol=0)
    without = replace(signals, role=signals.role.masked_fill(made, int(Role.NONE)))
    torch.testing.assert_close(pacing.confidences(without), pacing.confidences(signals), equal_nan=True, rtol=0, atol=0)


def test_the_most_confident_are_taken():
    signals, pacing = make_signals(), make_pacing(start=0.25, end=0.25)
    confidence = pacing.confidences(signals).nan_to_num(-1.0)
    expected = torch.zeros(40).index_fill(0, confidence.topk(10).indices, 1.0)
    assert torch.equal(pacing(signals, 0.7), expected)


def test_the_mean_over_members_each_with_its_temperature():
    signals = make_signals()
    both = make_pacing(temperature={"bm25": 4.0, "minilm": 0.5}, members=["bm25", "minilm"])
    parts = []
    for member, temperature in ((0, 4.0), (1, 0.5)):
        alone = replace(signals, members=signals.members[member : member + 1])
        parts.append(make_pacing(temperature=temperature).confidences(alone))
    torch.testing.assert_close(both.confidences(signals), torch.stack(parts).mean(0), equal_nan=True)


def test_without_a_temperature_each_member_has_its_own_scale():
    signals = make_signals()
    pacing = make_pacing(temperature=None)
    other = replace(signals, members=signals.members * torch.tensor([100.0, 0.01]).view(2, 1, 1) + 7)
    torch.testing.assert_close(
        pacing.confidences(other), pacing.confidences(signals), equal_nan=True, rtol=1e-3, atol=0
    )
    found = signals.members.masked_fill(signals.role >= Role.DARK_REINFORCED, float("nan")).double()
    spreads = [
        torch.tensor([row[~row.isnan()].std(unbiased=False) for row in member]).mean().item() for member in found
    ]
    named = make_pacing(temperature={"a": spreads[0], "b": spreads[1]}, members=["a", "b"])
    torch.testing.assert_close(named.confidences(signals), pacing.confidences(signals), equal_nan=True)
    constant = replace(signals, members=torch.where(signals.members.isnan(), torch.nan, 2.0))
    assert pacing.confidences(constant)[0].item() == pytest.approx(1 / 6, abs=0.1)


def test_a_query_of_which_nothing_is_said_is_taken_last():
    signals = make_signals()
    pacing = make_pacing(start=0.0, end=1.0)
    assert pacing.confidences(signals).isnan().tolist() == [False] * 39 + [True]
    assert pacing(signals, 39 / 40).tolist() == [1.0] * 39 + [0.0]
    assert pacing.figures["pacing_untold"].item() == pytest.approx(1 / 40)
    assert not make_pacing("certainty").confidences(signals).isnan().any()


def test_no_scores_at_all():
    """What a term without teacher scores would give: everybody is alike, and nothing breaks."""
    signals = replace(make_signals(), members=torch.empty(0, 40, 320))
    weight = make_pacing(start=0.5, end=0.5)(signals, 0.0)
    assert set(weight.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("confidence", EVERY)
def test_a_query_is_ranked_among_those_seen_lately(confidence):
    """Also where confidences are equal: the share is met, batch by batch too small to meet it."""
    pacing = make_pacing(confidence, start=0.3, end=0.3, memory=400)
    for seed in range(60):
        pacing.step(make_signals(queries=8, seed=seed), 0.0)
    taken = torch.cat([pacing(make_signals(queries=8, seed=seed), 0.5) for seed in range(100, 150)])
    assert taken.mean().item() == pytest.approx(0.3, abs=0.1)


def test_memory_forgets_the_oldest():
    pacing = make_pacing(memory=20)
    for seed in range(5):
        pacing.step(make_signals(queries=8, seed=seed), 0.0)
    lately = torch.cat([pacing.confidences(make_signals(queries=8, seed=seed)) for seed in range(2, 5)])[-20:]
    lately = lately.nan_to_num(-1.0).sort().values
    torch.testing.assert_close(pacing.seen.sort().values, lately, rtol=0, atol=1e-8)
    pacing.step(make_signals(queries=40), 0.0)
    assert (pacing.seen >= -1).all()


def test_a_resumed_training_goes_on_with_the_same_weights():
    whole, first = make_pacing(memory=50), make_pacing(memory=50)
    for seed in range(9):
        whole.step(make_signals(seed=seed), 0.0)
        if seed < 5:
            first.step(make_signals(seed=seed), 0.0)
    resumed = make_pacing(memory=50)
    resumed.load_state_dict(first.state_dict())
    for seed in range(5, 9):
        resumed.step(make_signals(seed=seed), 0.0)
    assert torch.equal(resumed(make_signals(seed=20), 0.4), whole(make_signals(seed=20), 0.4))
    assert torch.equal(resumed.seen, whole.seen)
    assert not torch.equal(make_pacing(memory=50)(make_signals(seed=20), 0.4), whole(make_signals(seed=20), 0.4))


def test_figures_tell_what_was_selected():
    signals, pacing = make_signals(), make_pacing(start=0.25, end=0.75)
    weight = pacing(signals, 0.5)
    confidence = pacing.confidences(signals).nan_to_num(0.0)
    assert pacing.figures["pacing_share"].item() == pytest.approx(0.5)
    assert pacing.figures["pacing_weight"].item() == pytest.approx(weight.mean().item())
    assert pacing.figures["pacing_confidence"].item() == pytest.approx(confidence[weight == 1].mean().item())
    assert pacing.figures["pacing_threshold"].item() == pytest.approx(confidence[weight == 1].min().item(), abs=1e-8)


def test_random_selection_is_not_by_confidence():
    signals = make_signals(queries=400, found=4, dark=0)
    sure, chance = (make_pacing(one).confidences(signals) for one in ("probability", "random"))
    told = ~sure.isnan()
    assert torch.corrcoef(torch.stack([sure[told], chance[told]]))[0, 1].abs() < 0.15
    assert torch.equal(make_pacing("random")(signals, 0.4), make_pacing("random")(signals, 0.4))
    assert not torch.equal(make_pacing("random")(signals, 0.4), make_pacing("random", seed=1)(signals, 0.4))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"confidence": "entropy"}, r"pacing\.confidence is one of .*random, got entropy"),
        ({"selection": "firm"}, r"pacing\.selection is hard or soft, got firm"),
        ({"start": 1.5}, r"pacing\.share\.start is from 0 to 1, got 1\.5"),
        ({"memory": 0}, r"pacing\.memory must be at least 1, got 0"),
        ({"temperature": 0.0}, r"pacing\.temperature must be a number > 0, got 0\.0"),
        ({"temperature": {"a": 1.0}, "members": ["b"]}, r"pacing\.temperature\.a: .* the members are b"),
        ({"temperature": {"a": 1.0}, "members": ["a", "b"]}, r"pacing\.temperature: no number for b"),
        ({"temperature": {"a": -1.0}, "members": ["a"]}, r"pacing\.temperature\.a must be"),
    ],
)
def test_bad_settings(changes, says):
    with pytest.raises(ValueError, match=says):
        make_pacing(**changes)


def test_a_share_without_an_end():
    with pytest.raises(ValueError, match=r"pacing\.share has start, end, until, got start"):
        SelfPaced("top", "hard", {"start": 0.3}, 1.0, 10, 1)
