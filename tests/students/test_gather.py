"""Two processes, each with its share, must give what one process gives with the whole batch."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import two_processes
from training_case import make_batch, make_student, make_training_set
from two_processes import CASES, QUERIES, candidates, everything, odds

from retrieval_kd.contracts import Role


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny):
    """This process is the first of the two; before that, it is the one process to compare with."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("one", "first", "second"):
        (folder / name).mkdir()
    # A fork has imported everything already, which takes a new process longer than all that it does here; autograd
    # with an accelerator, and libraries of other systems, do not bear one.
    forks = sys.platform == "linux" and not torch.accelerator.is_available()
    other = mp.get_context("fork" if forks else "spawn").Process(
        target=two_processes.second, args=(folder / "store", folder / "second", tiny)
    )
    other.start()
    one, one_pool = everything(folder / "one", tiny)
    two_processes.join(0, folder / "store")
    try:
        two, two_pool = everything(folder / "first", tiny)
    finally:
        dist.destroy_process_group()
        other.join(60)
    assert other.exitcode == 0
    others = torch.load(folder / "second" / "losses.pt")
    return SimpleNamespace(one=one, two=two, others=others, one_pool=one_pool, two_pool=two_pool)


def test_the_case_is_a_hard_one(tiny, training_set):
    """Shares of different size, passages in both, and in each a positive of the other's queries."""
    student = make_student(tiny)
    whole = make_batch(training_set, student, QUERIES)
    first, second = (make_batch(training_set, student, QUERIES[rank::2]) for rank in (0, 1))
    assert len(first.passage_ids) != len(second.passage_ids)
    assert len(first.query_ids) != len(second.query_ids)
    assert set(first.passage_ids) & set(second.passage_ids)
    for mine, theirs in ((first, second), (second, first)):
        foreign = [passage for passage in theirs.passage_ids if passage not in mine.passage_ids]
        rows = [whole.query_ids.index(query) for query in mine.query_ids]
        columns = [whole.passage_ids.index(passage) for passage in foreign]
        known = whole.signals.positive[rows][:, columns]
        if mine is first:
            assert known.any()  # q4's second positive, p5
        assert (whole.signals.role[rows][:, columns] == Role.NONE).all()


def test_the_case_with_made_passages_has_one_of_both(tiny, tmp_path):
    """One that is in the lists of two queries, each in a process of its own, is no negative in either."""
    made, student = make_training_set(tmp_path, dark=True), make_student(tiny)
    first, second = (make_batch(made, student, QUERIES[rank::2]) for rank in (0, 1))
    shared = {name for name in first.passage_ids if name.startswith("dark:")} & set(second.passage_ids)
    assert shared == {"dark:4"}
    assert first.signals.dark.sum() > 4


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_one_big_batch(results, case):
    (loss, gradients, state), (expected_loss, expected, expected_state) = results.two[case], results.one[case]
    other_loss, other_state = results.others[case]
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert other_loss == pytest.approx(expected_loss, rel=1e-6)
    if expected_state is not None:  # each threshold after its step, and the share that was dropped
        torch.testing.assert_close(state, expected_state, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(other_state, expected_state, rtol=1e-6, atol=1e-7)
        assert 0 < expected_state[-1] < 1
    assert expected_loss > 0.01
    assert gradients.keys() == expected.keys()
    whole, whole_expected = (torch.cat([value.flatten() for value in each.values()]) for each in (gradients, expected))
    assert whole_expected.norm() > 0.05
    assert (whole - whole_expected).abs().max() < 2e-6 * max(1.0, whole_expected.norm().item())  # rounding of 32 bits


def test_signals_are_those_of_one_big_batch(results):
    """Compared by ids: rows and columns stand in another order."""
    (one, batch), (two, _) = results.one_pool, results.two_pool
    rows = [QUERIES.index(query) for query in QUERIES[0::2] + QUERIES[1::2]]
    columns = torch.argsort(batch.passage_keys)
    for name in ("positive", "role", "scores"):
        expected = getattr(one.signals, name)[rows][:, columns]
        torch.testing.assert_close(getattr(two.signals, name), expected, rtol=0, atol=0, equal_nan=True)
        assert getattr(two.signals, name).dtype == expected.dtype
    expected = one.signals.members[:, rows][:, :, columns]
    torch.testing.assert_close(two.signals.members, expected, rtol=0, atol=0, equal_nan=True)
    vectors = two.passages["vectors"]
    torch.testing.assert_close(vectors, one.passages["vectors"][columns], atol=1e-6, rtol=0)
    torch.testing.assert_close(two.queries["vectors"], one.queries["vectors"][rows], atol=1e-6, rtol=0)


def test_pairs_point_at_the_same_query_and_passages(results):
    (_, batch), (two, _) = results.one_pool, results.two_pool
    queries = [f"q{query}" for query in QUERIES[0::2] + QUERIES[1::2]]
    passages = [batch.passage_ids[column] for column in torch.argsort(batch.passage_keys)]
    assert len(two.signals.pairs) == len(QUERIES)
    of = {
        batch.query_ids[row]: {batch.passage_ids[c] for c in columns} for row, columns in enumerate(candidates(batch))
    }
    for (query, left, right), log_odds in zip(two.signals.pairs.tolist(), two.signals.log_odds.tolist(), strict=True):
        assert log_odds == odds(queries[query])
        assert {passages[left], passages[right]} <= of[queries[query]]
        assert left != right


def test_narrower_representations_are_widened_with_zeros(results):
    """The second process's texts are a token shorter, as if it had other texts."""
    two, _ = results.two_pool
    one, batch = results.one_pool
    tokens, vectors = two.passages["tokens"], two.passages["vectors"]
    assert torch.equal(two.passages["lengths"], one.passages["lengths"][torch.argsort(batch.passage_keys)])
    last = tokens[:, -1].abs().sum(-1) > 0
    assert 0 < last.sum() < len(tokens)
    assert torch.equal(tokens[:, 0], vectors)
    assert (tokens[~last, -1] == 0).all()


def test_a_single_process_keeps_its_batch(results):
    pool, batch = results.one_pool
    assert pool.processes == 1
    assert pool.signals is batch.signals
