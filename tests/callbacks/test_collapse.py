import pytest
import pytorch_lightning as pl
import torch
from training_case import fit, make_student, make_training

from retrieval_kd.callbacks.collapse import CollapseGuard
from retrieval_kd.contracts import UserError
from retrieval_kd.regularizers.flops import Flops
from retrieval_kd.students.student import Inference, Student

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Scripted(Student):
    """Passages of which some have no active term: a share for each optimizer step."""

    def __init__(self, tokenizer, empty):
        super().__init__(tokenizer, Inference("fp32", 512))
        self.empty = empty
        self.scale = torch.nn.Parameter(torch.ones(8))

    def encode_group(self, group, side):
        values = torch.nn.functional.one_hot(group.input_ids.sum(1) % 8, 8) * self.scale
        if side == "passage" and self.empty(self.trainer.global_step):
            values = values * 0
        return {"activations": values}

    def compare(self, queries, passages):
        return queries["activations"] @ passages["activations"].T

    @property
    def fingerprint(self):
        return "scripted"


class Shrinking(Scripted):
    """What a penalty that is too strong does: terms fall below zero, where no gradient is."""

    def encode_group(self, group, side):
        return {"activations": super().encode_group(group, "query")["activations"].relu()}


@pytest.fixture
def tokenizer(tiny):
    return make_student(tiny).tokenizer


def train(student, training_set, guard, callbacks=(), epochs=3, weight=1.0, lr=0.0, **changes):
    """3 batches an epoch."""
    pl.seed_everything(3, verbose=False)
    student.prepare(make_training(regularizer=Flops(weight, 0.0, 0.25, "pooled"), lr=lr))
    return fit(student, training_set, [guard, *callbacks], max_epochs=epochs, **changes)


def test_a_collapsed_training_stops_with_one_line_and_writes_nothing_more(training_set, tokenizer, tmp_path):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    student = Shrinking(tokenizer, None)
    with pytest.raises(UserError) as refusal:
        train(student, training_set, CollapseGuard(patience=3), [keep], epochs=20, weight=1e4, lr=0.5)
    step = student.trainer.global_step
    assert 3 < step < 30
    assert str(refusal.value) == (
        f"step {step}: 100% of the passages have no active term, for 3 steps now; training stopped: lower"
        " regularizer.passage_weight (10000 now) or lengthen regularizer.ramp (0.25 of the training now)"
    )
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == sorted(f"step={s}.ckpt" for s in range(1, step))
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".ckpt"]


def test_a_healthy_training_goes_to_its_end(training_set, tokenizer):
    assert train(Shrinking(tokenizer, None), training_set, CollapseGuard(patience=1), lr=1e-3).global_step == 9


@pytest.mark.parametrize(("empty", "stops"), [({2, 3, 4}, 5), ({1, 2, 4, 5, 7, 8}, None), ({0, 1, 3, 4, 5}, 6)])
def test_steps_count_in_a_row(training_set, tokenizer, empty, stops):
    student, guard = Scripted(tokenizer, empty.__contains__), CollapseGuard(patience=3)
    if stops is None:
        assert train(student, training_set, guard).global_step == 9
        return
    with pytest.raises(UserError, match=f"^step {stops}: 100% .* for 3 steps now"):
        train(student, training_set, guard)


def test_steps_are_optimizer_steps(training_set, tokenizer):
    student = Scripted(tokenizer, {1, 2}.__contains__)
    assert train(student, training_set, CollapseGuard(patience=3), accumulate_grad_batches=2).global_step == 6


def test_the_limit_is_a_share_of_the_passages():
    guards = [CollapseGuard(limit=limit) for limit in (0.2, 0.3)]
    values = torch.tensor([[0.0, 0], [0, 1], [1, 0], [2, 3]])
    for guard in guards:
        guard._look(None, ({}, {"activations": values}, 0.5), None)
    assert [float(guard._share) > guard.limit for guard in guards] == [True, False]


def test_a_student_without_activations_is_not_watched(training_set, tiny):
    pl.seed_everything(3, verbose=False)
    student = make_student(tiny)
    student.prepare(make_training())
    assert fit(student, training_set, [CollapseGuard(patience=1)], max_epochs=1).global_step == 3


def test_a_resumed_training_goes_on_counting(training_set, tokenizer, tmp_path):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    empty = {1, 2, 3, 4}.__contains__
    train(Scripted(tokenizer, empty), training_set, CollapseGuard(patience=4), [keep], epochs=1)
    with pytest.raises(UserError, match=r"^step 5: .* for 4 steps"):
        train(Scripted(tokenizer, empty), training_set, CollapseGuard(patience=4), resume=tmp_path / "step=3.ckpt")
