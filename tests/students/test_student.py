import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from training_case import make_batch, make_student, make_texts, make_training

from retrieval_kd.contracts import Side
from retrieval_kd.students.bi_encoder import BiEncoder

QUERIES = range(0, 14, 2)


@pytest.fixture
def alone(monkeypatch):
    """A student that needs no trainer for one step."""
    monkeypatch.setattr(BiEncoder, "progress", 0.5)
    monkeypatch.setattr(BiEncoder, "log_dict", lambda *_, **__: None)


def gradients(student, batch):
    student.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    student.training_step(batch, 0).backward()
    return {name: value.grad for name, value in student.named_parameters()}


# ---- encoding


@pytest.mark.parametrize("budget", [1, 40, 100_000])
def test_vectors_depend_on_neither_batch_nor_order(tiny, budget):
    texts = [*make_texts(30, 4, 1, 30), ""]
    one_by_one = make_student(tiny)
    expected = torch.cat([one_by_one.encode_texts([text], Side.PASSAGE)["vectors"] for text in texts])
    student = make_student(tiny, inference={"precision": "fp32", "tokens_per_batch": budget, "texts_per_sort": 7})
    order = np.random.default_rng(0).permutation(len(texts))
    found = student.encode_texts([texts[i] for i in order], Side.PASSAGE)["vectors"]
    torch.testing.assert_close(found, expected[torch.from_numpy(order)], atol=1e-5, rtol=0)
    assert (torch.cdist(expected, expected) + torch.eye(len(texts)) > 1e-3).all()  # texts are told apart


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("texts", [[], ["red bird"]])
def test_encoding_leaves_mode_and_random_numbers_alone(tiny, mode, texts):
    student = make_student(tiny).train(mode)
    state = torch.get_rng_state()
    vectors = student.encode_texts(texts, Side.QUERY)["vectors"]
    assert vectors.shape == (len(texts), 32)
    assert torch.equal(torch.get_rng_state(), state)
    assert {module.training for module in student.modules()} == {mode}
    assert not vectors.requires_grad


def test_mode_is_restored_when_encoding_fails(tiny, monkeypatch):
    student = make_student(tiny).train()
    monkeypatch.setattr(student, "encode_group", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        student.encode_texts(["red"], Side.QUERY)
    assert all(module.training for module in student.modules())


def test_half_precision_encoding_is_near_and_makes_no_ties(tiny):
    texts = [f"{a} {b}" for a in make_texts(20, 8, 5, 6) for b in make_texts(20, 9, 5, 6)]
    half = make_student(tiny, inference={"precision": "bf16", "tokens_per_batch": 4096})
    queries, passages = half.encode_texts(texts[:3], Side.QUERY), half.encode_texts(texts, Side.PASSAGE)
    assert passages["vectors"].dtype == torch.float32
    exact = make_student(tiny).encode_texts(texts, Side.PASSAGE)["vectors"]
    assert (passages["vectors"] * exact).sum(-1).min() > 0.999
    rounded = passages["vectors"].bfloat16() @ queries["vectors"].bfloat16().T
    scores = half.compare(queries, passages)
    for row in range(3):
        assert len(scores[row].unique()) == len(texts)
        assert len(rounded[:, row].unique()) < len(texts) / 2


def test_training_under_autocast_pools_and_compares_in_float32(tiny, training_set):
    student = make_student(tiny)
    batch = make_batch(training_set, student, QUERIES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        queries = student.encode(batch.queries, Side.QUERY)
        passages = student.encode(batch.passages, Side.PASSAGE)
        scores = student.compare(queries, passages)
    assert {value.dtype for value in (queries["vectors"], passages["vectors"], scores)} == {torch.float32}
    assert all(len(row.unique()) == len(row) for row in scores)


def test_encode_gives_rows_in_the_order_of_the_batch(tiny, training_set):
    student = make_student(tiny).eval()
    batch = make_batch(training_set, student, QUERIES)
    with torch.no_grad():
        found = student.encode(batch.passages, Side.PASSAGE)["vectors"]
    texts = training_set.passages.texts(training_set.passages.rows(batch.passage_ids))
    torch.testing.assert_close(found, student.encode_texts(texts, Side.PASSAGE)["vectors"], atol=1e-5, rtol=0)


# ---- gradient caching


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("shared", [True, False])
def test_cached_gradients_are_the_plain_ones(tiny, training_set, alone, dropout, shared):
    """With dropout too: the second forward pass must draw the same random numbers as the first."""
    found = []
    for cache in (False, True):
        student = make_student(tiny, dropout, shared=shared).train()
        student.prepare(make_training(gradient_cache=cache))
        found.append(gradients(student, make_batch(training_set, student, QUERIES)))
    plain, cached = found
    assert plain.keys() == cached.keys()
    for name, value in plain.items():
        assert value is not None, name
        assert torch.equal(value, cached[name]), name
    assert max(value.abs().max() for value in plain.values()) > 0.01


@pytest.mark.gpu
def test_cached_gradients_repeat_dropout_on_an_accelerator(tiny, training_set, alone):
    """Its random numbers are its own: the checkpoint must know the device to repeat them."""
    found = []
    for cache in (False, True):
        student = make_student(tiny).train().to("cuda")
        student.prepare(make_training(gradient_cache=cache))
        found.append(gradients(student, make_batch(training_set, student, QUERIES).to("cuda")))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_caching_holds_less(tiny, training_set, alone):
    held = {}
    for cache in (False, True):
        student = make_student(tiny).train()
        student.prepare(make_training(gradient_cache=cache))
        batch = make_batch(training_set, student, QUERIES)
        kept = {}

        def remember(value, kept=kept):
            if not isinstance(value, nn.Parameter):
                kept[value.data_ptr()] = value.numel() * value.element_size()
            return value

        with saved_tensors_hooks(remember, lambda value: value):
            loss = student.training_step(batch, 0)
        held[cache] = sum(kept.values())
        loss.backward()
    assert held[True] < held[False] / 10


def test_dropout_differs_between_steps_but_not_between_equal_seeds(tiny, training_set, alone):
    student = make_student(tiny).train()
    student.prepare(make_training())
    batch = make_batch(training_set, student, QUERIES)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(student.training_step(batch, 0).item())
    assert losses[0] == losses[1] != losses[2]


# ---- the training step


def test_loss_is_the_sum_of_terms_and_penalty(tiny, training_set, monkeypatch):
    class Penalty(nn.Module):
        def forward(self, queries, passages, progress, signals):
            return progress * (queries["vectors"].sum() + passages["vectors"].sum())

    logged = {}
    monkeypatch.setattr(BiEncoder, "progress", 0.25)
    monkeypatch.setattr(BiEncoder, "log_dict", lambda _, values, **__: logged.update(values))
    student = make_student(tiny, dropout=False)
    names = ("contrastive", "listwise_kl", "margin_mse")
    student.prepare(make_training(names, regularizer=Penalty()))
    batch = make_batch(training_set, student, QUERIES)
    total = student.training_step(batch, 0)
    assert set(logged) == {f"train/{name}" for name in (*names, "penalty", "loss")}
    parts = sum(logged[f"train/{name}"].item() for name in (*names, "penalty"))
    assert total.item() == pytest.approx(parts, rel=1e-5)
    sums = sum(
        student.encode(t, s)["vectors"].sum() for t, s in ((batch.queries, "query"), (batch.passages, "passage"))
    )
    assert logged["train/penalty"].item() == pytest.approx(0.25 * sums.item(), rel=1e-4)


def test_objective_is_given_negatives_and_weight(tiny, training_set, alone):
    """Negative = no known positive, not dark, kept by the filter; weight from the pacing."""

    class OddColumns(nn.Module):
        def forward(self, evidence, signals):
            return (torch.arange(signals.positive.shape[1]) % 2 == 1).expand_as(signals.positive)

    class Rising(nn.Module):
        def forward(self, signals, progress):
            return progress * torch.arange(len(signals.positive))

    class Spy(nn.Module):
        def forward(self, evidence, signals, negative, weight):
            self.seen = signals, negative, weight
            return {"spy": evidence.query_passage.sum()}

    spy = Spy()
    student = make_student(tiny)
    student.prepare(make_training(objective=spy, filter=OddColumns(), pacing=Rising()))
    batch = make_batch(training_set, student, QUERIES)
    student.training_step(batch, 0)
    signals, negative, weight = spy.seen
    columns = torch.arange(len(batch.passage_ids))
    assert torch.equal(negative, ~signals.positive & (columns % 2 == 1))
    assert signals.positive.any()
    assert weight.tolist() == [0.5 * row for row in range(len(QUERIES))]


class Looking(nn.Module):
    """A filter that asks for the evidence before the objective does."""

    def forward(self, evidence, signals):
        return evidence.query_passage.detach() < torch.inf

    def step(self, evidence, signals, progress):
        pass


def test_a_filter_that_looks_at_the_evidence_takes_no_gradient_away(tiny, training_set, alone):
    student = make_student(tiny, dropout=False)
    batch = make_batch(training_set, student, QUERIES)
    student.prepare(make_training())
    plain = gradients(student, batch)
    student.prepare(make_training(filter=Looking()))
    for name, value in gradients(student, batch).items():
        torch.testing.assert_close(value, plain[name])


def test_parts_with_state_are_in_the_checkpoint(tiny):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

    student = make_student(tiny)
    student.prepare(make_training(filter=Counting(), pacing=Counting()))
    assert {"training_filter.count", "training_pacing.count"} <= set(student.state_dict())


def test_a_student_that_was_given_nothing_to_train_with(tiny, training_set):
    student = make_student(tiny)
    with pytest.raises(RuntimeError, match="prepare"):
        student.training_step(make_batch(training_set, student, QUERIES), 0)
