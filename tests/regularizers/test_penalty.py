import pytest
import torch
from penalty_case import H, N, P, oracle_flops, representations, signals_of

from retrieval_kd.contracts import Role, UserError
from retrieval_kd.regularizers.flops import Flops
from retrieval_kd.regularizers.penalty import list_positions


def make(passage_weight=1.0, query_weight=0.0, ramp=0.0, reduction="pooled", **changes):
    return Flops(passage_weight, query_weight, ramp, reduction, **changes)


def test_both_sides_have_their_weights():
    queries, passages = representations(3), representations(5, seed=1)
    expected = [oracle_flops(side["activations"].tolist()) for side in (queries, passages)]
    assert make(2.0)(queries, passages, 1.0).item() == pytest.approx(2 * expected[1])
    assert make(2.0, 3.0)(queries, passages, 1.0).item() == pytest.approx(2 * expected[1] + 3 * expected[0])


def test_without_a_weight_queries_are_not_looked_at():
    """Those of an inference-free student may be anything."""
    passages = representations(5)
    make()({}, passages, 1.0).backward()
    assert passages["activations"].grad.abs().max() > 0


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.0625), (0.2, 0.25), (0.4, 1.0), (1.0, 1.0)])
def test_weights_rise_as_the_square_of_progress(progress, share):
    queries, passages = representations(3), representations(5, seed=1)
    full = make(2.0, 3.0)(queries, passages, 0.0).item()
    assert make(2.0, 3.0, ramp=0.4)(queries, passages, progress).item() == pytest.approx(share * full)


def test_by_position_is_a_mean_for_each_position():
    """Lists of two: who stands first and second is known. Passage 1 stands in two lists."""
    passages = representations(4)
    signals = signals_of([[P, H, N, N], [N, H, P, N], [N, N, H, P]])
    rows = passages["activations"].tolist()
    expected = oracle_flops([rows[0], rows[2], rows[3]]) + oracle_flops([rows[1], rows[1], rows[2]])
    assert make(2.0, reduction="by_position")({}, passages, 1.0, signals).item() == pytest.approx(2 * expected)


def test_by_position_is_worth_the_length_of_the_lists_where_positions_are_alike():
    """Equal passages in lists of three; one that is in no list (-1) is not counted by position."""
    passages = {"activations": representations(1)["activations"].detach().expand(6, -1).clone()}
    signals = signals_of([[P, H, H, N, N, N], [N, N, H, P, H, N]])
    both = [make(reduction=name)({}, passages, 1.0, signals).item() for name in ("by_position", "pooled")]
    assert both[0] == pytest.approx(3 * both[1])
    passages["activations"][5] *= 100
    assert make(reduction="by_position")({}, passages, 1.0, signals).item() == pytest.approx(both[0])


def test_every_listed_passage_has_a_place_and_targets_stand_first():
    generator = torch.Generator().manual_seed(0)
    role = torch.where(torch.rand(40, 64, generator=generator) < 0.2, Role.HARD, Role.NONE).to(torch.int8)
    target = torch.arange(40) + 3
    role[torch.arange(40), target] = Role.POSITIVE
    role[7, 10] = Role.NONE  # a query without a target
    columns, positions = list_positions(role)
    start, orders = 0, []
    for query, row in enumerate(role):
        listed = (row != Role.NONE).nonzero()[:, 0]
        places = positions[start : start + len(listed)]
        assert columns[start : start + len(listed)].tolist() == listed.tolist()
        assert sorted(places.tolist()) == list(range(len(listed)))
        if query != 7:
            assert listed[places == 0].item() == target[query]
        orders.append(torch.corrcoef(torch.stack([listed[places > 0].float(), places[places > 0].float()]))[0, 1])
        start += len(listed)
    assert start == len(columns)
    assert abs(torch.stack(orders).mean()) < 0.1  # positions do not follow columns


def test_by_position_asks_for_lists():
    with pytest.raises(UserError, match=r"regularizer.reduction=by_position needs the lists"):
        make(reduction="by_position")({}, representations(2), 1.0)


def test_a_student_without_activations_is_refused():
    with pytest.raises(UserError, match="the student gives vectors; student=sparse fits"):
        make()({}, {"vectors": torch.ones(2, 3)}, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passage_weight": -1.0}, "regularizer.passage_weight must be a number >= 0, got -1"),
        ({"query_weight": float("nan")}, "regularizer.query_weight"),
        ({"ramp": 1.5}, "regularizer.ramp is a share"),
        ({"reduction": "mean"}, "regularizer.reduction is pooled or by_position, got mean"),
    ],
)
def test_wrong_settings_are_refused_by_key(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
