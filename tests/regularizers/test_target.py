import copy
import io

import pytest
import torch

from retrieval_kd.functional.sparsity import active_terms
from retrieval_kd.regularizers.df_flops import DfFlops
from retrieval_kd.regularizers.flops import Flops
from retrieval_kd.regularizers.l0 import L0
from retrieval_kd.regularizers.target import FIRST, HIGHEST, LOWEST, Control, Target

TERMS, PASSAGES = 200, 32


class Toy:
    """One bias per term, pulled to where it is wanted, with noise: dense unless it is penalised."""

    def __init__(self, regularizer, steps, bias=0.5, size=1.0, rate=None):
        self.generator = torch.Generator().manual_seed(0)
        self.wanted = torch.randn(TERMS, generator=self.generator) * 0.7 + 0.5
        self.bias = torch.full((TERMS,), bias, requires_grad=True)
        self.regularizer, self.steps, self.size = regularizer, steps, size
        self.rate = rate or {64: 0.15, 300: 0.05}[steps]
        self.optimizer = torch.optim.AdamW([self.bias], lr=self.rate, weight_decay=0.0)
        self.lengths, self.overlaps = [], []

    def step(self):
        step = len(self.lengths)
        progress = step / self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min((step + 1) / (0.1 * self.steps), (1 - progress) / 0.9)
        queries = (torch.rand(16, TERMS, generator=self.generator) < 6 / TERMS).float()
        values = torch.log1p((torch.randn(PASSAGES, TERMS, generator=self.generator) + self.bias).relu())
        loss = self.size * (self.bias - self.wanted).square().mean()
        sides = {"activations": queries}, {"activations": values}
        loss = loss + self.regularizer(*sides, progress)
        with torch.no_grad():
            self.regularizer.step(*sides, progress)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.lengths.append(active_terms(values).mean().item())
        self.overlaps.append((6 / TERMS) * self.lengths[-1])

    def run(self):
        for _ in range(self.steps - len(self.lengths)):
            self.step()
        last = self.lengths[-self.steps // 10 :]
        return sum(last) / len(last)


def make(terms=30.0, flops=None, ramp=0.5, penalty=None):
    return Target(penalty or Flops(1.0, 0.0, 0.0, "pooled"), terms, flops, ramp)


@pytest.mark.parametrize("bias", [0.5, -2.0], ids=["from above", "from below"])
@pytest.mark.parametrize(("steps", "tolerance"), [(64, 0.3), pytest.param(300, 0.05, marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", [0.1, 10.0])
def test_comes_to_the_target_whatever_the_size_of_the_loss(bias, steps, tolerance, size):
    toy = Toy(make(), steps, bias, size)
    end = toy.run()
    assert (toy.lengths[0] > 100) == (bias > 0)
    assert toy.lengths[0] < 10 or bias > 0
    assert end == pytest.approx(30, rel=tolerance)


def test_without_it_the_toy_is_dense():
    assert Toy(Flops(0.0, 0.0, 0.0, "pooled"), 64).run() > 100


@pytest.mark.parametrize("weight", [1e-4, 1e4])
def test_the_penalty_s_own_weight_does_not_matter(weight):
    ends = [Toy(make(penalty=Flops(one, 0.0, 0.0, "pooled")), 64).run() for one in (1.0, weight)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "penalty",
    [
        lambda: L0(1.0, 0.0, 0.0, "pooled", threshold=15),
        lambda: DfFlops(1.0, 0.0, 0.0, "pooled", alpha=0.1, beta=2.0, every=20),
    ],
    ids=["l0", "df_flops"],
)
def test_scales_any_penalty(penalty):
    assert Toy(make(penalty=penalty()), 300).run() == pytest.approx(30, rel=0.1)


@pytest.mark.slow
def test_comes_to_an_expected_overlap():
    """Queries of 6 terms drawn evenly: 0.9 shared terms mean a length of 30."""
    toy = Toy(make(terms=None, flops=0.9), 300)
    assert toy.run() == pytest.approx(30, rel=0.1)
    assert toy.regularizer.figures["target_measured"] == pytest.approx(0.9, rel=0.25)


def test_overlap_is_measured_against_queries_of_other_batches():
    """A batch's passages hold all of its queries' terms, and nothing of what other batches ask."""
    regularizer = make(terms=None, flops=1.0)
    eye = torch.eye(8)
    measured = []
    for step in range(8):
        measured.append(regularizer._measure({"activations": eye[[step]]}, {"activations": eye[[step]]}, step))
    assert measured == [1.0] + [0.0] * 7
    torch.testing.assert_close(regularizer.query_share, torch.full((8,), 1 / 8))


def test_figures_are_what_was_measured():
    toy = Toy(make(ramp=0.0), 64)
    toy.step()
    figures = toy.regularizer.figures
    assert figures["target_measured"] == pytest.approx(toy.lengths[0])
    assert figures["target_aim"] == 30
    toy.step()
    mean = (toy.lengths[0] * toy.lengths[1]) ** 0.5
    assert toy.regularizer.figures["target_measured"] == pytest.approx(mean)


def test_the_first_penalty_is_small_and_later_ones_are_in_proportion():
    regularizer = make(penalty=Flops(123.0, 0.0, 0.0, "pooled"))
    passages = {"activations": torch.rand(4, 9)}
    assert regularizer({}, passages, 0.0).item() == pytest.approx(FIRST)
    regularizer.step({}, passages, 0.0)
    regularizer.control.copy_(torch.tensor(Control()))
    double = {"activations": passages["activations"] * 2}
    assert regularizer({}, double, 0.0).item() == pytest.approx(4 * FIRST)


def test_nothing_to_penalise_yet_is_no_trouble():
    regularizer = make(penalty=L0(1.0, 0.0, 0.0, "pooled", threshold=9))
    short = {"activations": torch.rand(4, 9, requires_grad=True)}
    regularizer({}, short, 0.0).backward()
    regularizer.step({}, short, 0.0)
    assert short["activations"].grad.abs().sum() == 0
    long = {"activations": torch.rand(4, 20) + 1}
    assert 0 < regularizer({}, long, 0.1).item() < 10


@pytest.mark.parametrize(("length", "limit"), [(0, LOWEST), (TERMS, HIGHEST)])
def test_the_weight_has_limits(length, limit):
    """Of empty representations too, which have no logarithm."""
    regularizer = make(terms=30.0, ramp=0.0)
    passages = {"activations": (torch.arange(TERMS) < length).float().expand(4, -1)}
    for step in range(1000):
        regularizer({}, passages, step / 1000)
        regularizer.step({}, passages, step / 1000)
    assert Control(*regularizer.control.tolist()).weight == pytest.approx(torch.tensor(limit).log().item(), rel=1e-6)
    assert regularizer({}, {"activations": torch.ones(2, TERMS)}, 1.0).isfinite()


def test_a_loaded_state_goes_on_bit_for_bit():
    toys = [Toy(make(terms=None, flops=0.9, penalty=DfFlops(1.0, 0.0, 0.0, "pooled", 0.1, 2.0, 5)), 64) for _ in "ab"]
    for _ in range(30):
        toys[0].step()
    stored = io.BytesIO()
    torch.save(toys[0].regularizer.state_dict(), stored)
    stored.seek(0)
    toys[1].regularizer.load_state_dict(torch.load(stored, weights_only=True))
    with torch.no_grad():
        toys[1].bias.copy_(toys[0].bias)
    toys[1].optimizer.load_state_dict(copy.deepcopy(toys[0].optimizer.state_dict()))
    toys[1].generator.set_state(toys[0].generator.get_state())
    toys[1].lengths, toys[1].overlaps = list(toys[0].lengths), list(toys[0].overlaps)
    assert toys[0].run() == toys[1].run()
    for name, value in toys[0].regularizer.state_dict().items():
        assert torch.equal(value, toys[1].regularizer.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terms": None}, "regularizer.terms or regularizer.flops: one of them"),
        ({"flops": 1.0}, "regularizer.terms or regularizer.flops: one of them"),
        ({"terms": 0.0}, "must be a number > 0, got 0"),
        ({"ramp": 2.0}, "regularizer.ramp is a share"),
        ({"penalty": Flops(1.0, 0.0, 0.3, "pooled")}, "regularizer.penalty.ramp=0.3: under a target it must be 0"),
    ],
)
def test_wrong_settings_are_refused_by_key(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
