import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from training_case import fit, make_student, make_texts, make_training

from retrieval_kd.callbacks.validation import RankingTask, Validation

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
KEY = "validation/ndcg@10"


def make_task():
    texts = make_texts(12, 21)
    lists = {"a": np.array([0, 3, 5, 7, 9, 11]), "b": np.array([1, 0, 2]), "c": np.array([4, 8])}
    queries = dict(zip(lists, make_texts(3, 22, 2, 6), strict=True))
    judgements = {"a": {"d5": 2, "d7": 1, "d0": 0}, "b": {"d2": 1}, "c": {"d4": 1}}
    return RankingTask(queries, [f"d{i}" for i in range(12)], texts, lists, judgements)


class Scripted(RankingTask):
    """Gives the values of a list, and remembers the weights at each."""

    def __init__(self, values):
        super().__init__({}, [], [], {}, {})
        object.__setattr__(self, "values", iter(values))
        object.__setattr__(self, "weights", [])

    def score(self, student):
        self.weights.append({name: value.clone() for name, value in student.state_dict().items()})
        return next(self.values)


def run(training_set, tiny, validation, epochs=3, callbacks=(), **changes):
    """3 batches an epoch."""
    pl.seed_everything(3, verbose=False)
    student = make_student(tiny)
    student.prepare(make_training())
    return student, fit(student, training_set, [validation, *callbacks], max_epochs=epochs, **changes)


def test_score_is_ndcg_of_each_list(tiny):
    """By hand, from vectors of single texts."""
    task, student = make_task(), make_student(tiny)
    values = []
    for query_id, places in task.lists.items():
        query = student.encode_texts([task.queries[query_id]], "query")["vectors"][0]
        scores = {p: (student.encode_texts([task.passage_texts[p]], "passage")["vectors"][0] @ query) for p in places}
        ranked = sorted(scores, key=scores.get, reverse=True)
        grades = [task.judgements[query_id].get(f"d{place}", 0) for place in ranked]
        ideal = sorted(task.judgements[query_id].values(), reverse=True)
        gain, most = (sum(g / math.log2(i + 2) for i, g in enumerate(each[:10])) for each in (grades, ideal))
        values.append(gain / most)
    assert task.score(student) == pytest.approx(sum(values) / 3, abs=1e-5)
    assert 0 < sum(values) / 3 < 1


@pytest.mark.slow
@pytest.mark.parametrize(("every", "steps"), [(2, [2, 4, 6, 8, 9]), (3, [3, 6, 9]), (20, [9])])
def test_validates_after_every_so_many_steps_and_the_last(training_set, tiny, every, steps):
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if KEY in trainer.callback_metrics:
                seen.append((trainer.global_step, round(trainer.callback_metrics[KEY].item(), 5)))

    values = [0.1 * (i + 1) for i in range(len(steps))]
    task = Scripted(values)
    _, trainer = run(training_set, tiny, Validation(task, every, None), callbacks=[Watch()])
    assert trainer.global_step == 9
    assert len(task.weights) == len(steps)
    for step, value in zip(steps, values, strict=True):
        assert (step, round(value, 5)) in seen


def test_validates_once_per_step_when_batches_are_accumulated(training_set, tiny):
    task = Scripted([0.1] * 9)
    _, trainer = run(training_set, tiny, Validation(task, 1, None), accumulate_grad_batches=2)
    assert trainer.global_step == len(task.weights) == 6


def test_training_stops_after_patience_without_a_gain(training_set, tiny):
    task = Scripted([0.2, 0.3, 0.3, 0.1, 0.9])
    _, trainer = run(training_set, tiny, Validation(task, 1, patience=2))
    assert trainer.global_step == 4


def test_a_gain_renews_patience(training_set, tiny):
    task = Scripted([0.2, 0.1, 0.3, 0.1, 0.4, 0.3, 0.2])
    _, trainer = run(training_set, tiny, Validation(task, 1, patience=2))
    assert trainer.global_step == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "values", "best"),
    [
        (3, [0.1, 0.5, 0.2], 1),
        (4, [0.3, 0.1, 0.9], 2),
        *(
            pytest.param(3, values, best, marks=pytest.mark.slow)
            for values, best in [([0.5, 0.2, 0.1], 0), ([0.1, 0.2, 0.3], 2)]
        ),
    ],
)
def test_the_best_checkpoint_is_that_of_the_best_validation(training_set, tiny, tmp_path, every, values, best):
    """Also when the best is the last, which comes where no regular validation would."""
    task = Scripted(values)
    checkpoint = tmp_path / "best.ckpt"
    validation = Validation(task, every, None, checkpoint)
    run(training_set, tiny, validation)
    assert len(task.weights) == 3
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    student = make_student(tiny)
    student.prepare(make_training())
    student.load_state_dict(state)
    for name, value in student.state_dict().items():
        assert torch.equal(value, task.weights[best][name]), name
    assert validation.best == values[best]


def test_validating_does_not_change_the_training(training_set, tiny):
    plain, _ = run(training_set, tiny, Validation(Scripted([]), 100, None), epochs=1, max_steps=2)
    watched, _ = run(training_set, tiny, Validation(make_task(), 1, None), epochs=1, max_steps=2)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert all(module.training for module in watched.encoder.modules())


def test_patience_is_remembered_by_a_resumed_training(training_set, tiny, tmp_path):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    run(training_set, tiny, Validation(Scripted([0.5, 0.1, 0.1]), 1, None), 1, [keep])
    task = Scripted([0.4, 0.9])
    resumed = Validation(task, 1, patience=2)
    _, trainer = run(training_set, tiny, resumed, resume=tmp_path / "step=2.ckpt")
    assert trainer.global_step == 3
    assert len(task.weights) == 1
    assert resumed.best == 0.5
