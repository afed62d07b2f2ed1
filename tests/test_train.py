"""Training as a whole: it learns, it repeats itself, and a killed one goes on as if nothing had happened."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from training_case import fit, make_student, make_training, make_training_set

from retrieval_kd.callbacks.speed import Speed
from retrieval_kd.data.batches import BatchMaker
from retrieval_kd.data.sampler import EpochBatches
from retrieval_kd.regularizers.none import NoPenalty

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BATCH = 4  # of 14 queries: 3 steps an epoch


class Curve(pl.Callback):
    """Losses by step, and a kill at a given one, behind the checkpoint of that step."""

    def __init__(self, kill_after=None):
        self.losses = {}
        self.modes = set()
        self.kill_after = kill_after

    def on_before_backward(self, trainer, pl_module, loss):
        self.losses[trainer.fit_loop.total_batch_idx] = loss.item()
        self.modes |= {module.training for module in pl_module.modules()}

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.kill_after:
            raise RuntimeError("killed")


def run(training_set, checkpoint, epochs=1, curve=None, callbacks=(), dropout=True, **changes):
    """One training, from a seed or a checkpoint; the student and its losses."""
    pl.seed_everything(3, verbose=False)
    student = make_student(checkpoint, dropout)
    curve = curve or Curve()
    parts = {
        name: changes.pop(name)
        for name in ("filter", "regularizer", "gradient_cache", "lr", "names")
        if name in changes
    }
    student.prepare(make_training(**parts))
    settings = {"batch_size": BATCH, "gradient_clip_val": 1.0, "max_epochs": epochs}
    return student, curve, fit(student, training_set, [curve, *callbacks], **settings | changes)


def keep(folder, every=1):
    return pl.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)


@pytest.fixture(scope="module")
def uninterrupted(training_set, tiny, tmp_path_factory):
    """Two epochs of three steps, with a checkpoint behind each."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    speed = Speed()
    student, curve, _ = run(training_set, tiny, 2, callbacks=[keep(folder), speed])
    return student, curve, folder, speed


def test_dropout_is_on(uninterrupted):
    """Lightning leaves Hugging Face encoders in the eval mode in which they were loaded."""
    _, curve, *_ = uninterrupted
    assert curve.modes == {True}


def test_dropout_is_part_of_the_loss(uninterrupted, training_set, tiny):
    _, plain, _ = run(training_set, tiny, dropout=False)
    assert abs(plain.losses[0] - uninterrupted[1].losses[0]) > 1e-4


def test_same_seed_same_loss_and_weights(uninterrupted, training_set, tiny):
    student, curve, *_ = uninterrupted
    again, found, _ = run(training_set, tiny, 2, workers=1)
    assert found.losses == curve.losses
    assert equal(again, student)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_resumed_is_uninterrupted(uninterrupted, training_set, tiny, step):
    """Bit for bit, within an epoch (1, 2, 4) and between two (3), with dropout on."""
    student, curve, folder, speed = uninterrupted
    counted = Speed()
    resumed, found, trainer = run(training_set, tiny, 2, resume=folder / f"step={step}.ckpt", callbacks=[counted])
    assert trainer.global_step == 6
    assert found.losses == {index: loss for index, loss in curve.losses.items() if index >= step}
    assert len(found.losses) == 6 - step
    assert equal(resumed, student)
    assert (counted.queries, counted.passages) == (speed.queries, speed.passages)
    assert counted.queries == 6 * BATCH
    assert 0 < counted.seconds < 60  # the clock starts with this training, not with the machine


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_checkpoint(uninterrupted, training_set, tiny, tmp_path):
    """The kill comes a step behind the checkpoint: that step is done again, in bf16 and with a cache as well."""
    options = {"precision": "bf16-mixed", "gradient_cache": True, "epochs": 2}
    student, curve, _ = run(training_set, tiny, **options)
    killed = Curve(kill_after=5)
    with pytest.raises(RuntimeError, match="killed"):
        run(training_set, tiny, curve=killed, callbacks=[keep(tmp_path, every=2)], **options)
    assert list(killed.losses) == [0, 1, 2, 3, 4]
    last = max(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    resumed, found, _ = run(training_set, tiny, resume=last, **options)
    assert killed.losses | found.losses == curve.losses
    assert list(found.losses) == [4, 5]
    assert equal(resumed, student)
    assert curve.losses != uninterrupted[1].losses


def equal(one, other):
    weights = other.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in one.state_dict().items())


class Stepping(nn.Module):
    """A filter that remembers at which optimizer steps it was stepped, in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.seen = []

    def forward(self, evidence, signals):
        return torch.ones_like(signals.positive)

    def step(self, evidence, signals, progress):
        assert evidence.query_passage.shape == signals.role.shape
        self.count += 1
        self.seen.append(round(progress, 3))


class SteppingPenalty(NoPenalty):
    """A penalty that remembers at which optimizer steps it was stepped."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def step(self, queries, passages, progress):
        assert queries["vectors"].shape[1] == passages["vectors"].shape[1]
        self.seen.append(round(progress, 3))


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 6), (2, 4), (3, 2)])
def test_optimizer_and_filter_step_once_per_accumulated_batch(training_set, tiny, accumulate, steps):
    """3 batches an epoch: what is left over at the end of an epoch makes a step of its own."""
    stepping, penalty = Stepping(), SteppingPenalty()
    parts = {"filter": stepping, "regularizer": penalty}
    _, curve, trainer = run(training_set, tiny, 2, accumulate_grad_batches=accumulate, **parts)
    assert len(curve.losses) == 6
    assert trainer.global_step == steps
    assert stepping.count == steps
    assert stepping.seen == penalty.seen == [round(step / steps, 3) for step in range(steps)]


def test_the_filters_state_is_resumed(training_set, tiny, tmp_path):
    run(training_set, tiny, 2, accumulate_grad_batches=2, filter=Stepping(), callbacks=[keep(tmp_path)])
    stepping = Stepping()
    resume = tmp_path / "step=2.ckpt"
    run(training_set, tiny, 2, accumulate_grad_batches=2, filter=stepping, resume=resume)
    assert stepping.count == 4
    assert stepping.seen == [0.5, 0.75]


def test_accumulated_gradients_are_the_mean_of_the_batches(training_set, tiny):
    """One step over 3 batches by plain descent = the mean of their gradients, each from the same weights."""
    student, _, _ = run(training_set, tiny, dropout=False, accumulate_grad_batches=3, lr=1e-3)
    other = make_student(tiny, dropout=False)
    other.prepare(make_training())
    other.__class__ = type("Alone", (type(other),), {"progress": 0.0, "log_dict": lambda *_, **__: None})
    maker = BatchMaker(training_set, other.tokenizer)
    for items in EpochBatches(len(training_set), BATCH, training_set.draw.seed):
        (other.training_step(maker(items), 0) / 3).backward()
    nn.utils.clip_grad_norm_(other.parameters(), 1.0)
    rate = 1.0  # of one step in all, none is warm-up
    torch.optim.AdamW(other.parameters(), lr=1e-3 * rate).step()
    weights = other.state_dict()
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=1e-6, rtol=1e-5, msg=name)


def test_learning_rate_rises_and_falls_over_optimizer_steps(training_set, tiny):
    rates = []

    class Rates(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    run(training_set, tiny, 7, callbacks=[Rates()], lr=1.0, batch_size=7)
    assert len(rates) == 14
    assert rates[:2] == pytest.approx([1 / 2, 1.0])
    assert rates[1:] == pytest.approx([(14 - step) / 13 for step in range(1, 14)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [["listwise_kl"], *(pytest.param([name], marks=pytest.mark.slow) for name in ("contrastive", "margin_mse"))],
)
def test_learns_a_small_set_by_heart(tiny, tmp_path, names):
    """To what the teacher's own entropy leaves: both losses end at zero."""
    training_set = make_training_set(tmp_path, per_query=3)
    _, curve, _ = run(training_set, tiny, 40, batch_size=8, dropout=False, lr=5e-3, names=names)
    losses = list(curve.losses.values())
    assert all(map(math.isfinite, losses))
    assert sum(losses[-3:]) / 3 < 0.15 * losses[0]
