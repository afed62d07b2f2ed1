import math

import pytest
import torch
from evidence_case import ROLE, make_negative, make_signals

from retrieval_kd.contracts import Attention, Evidence, Role, Signal, UserError
from retrieval_kd.objectives.word_level import WordLevel

LENGTHS = {"queries": [2, 3, 1], "passages": [4, 1, 3, 2, 2, 5]}
SETTINGS = {"pairs_per_query": 1, "heads": "averaged", "symmetric": False, "similarity": "dot", "temperature": 1.0}
# Of each query: the positive and the hard one that SIMILARITIES place highest.
PAIRS = [(0, 0), (0, 2), (1, 1), (1, 3), (2, 0), (2, 5)]
SIMILARITIES = torch.tensor(
    [[0.0, 0.1, 0.2, 0.9, 0.9, 0.9], [0.9, 0.0, 0.1, 0.3, 0.9, 0.9], [0.5, 0.9, 0.9, 0.4, 0.9, 0.0]]
)


class Teacher:
    """Attention that depends on the token ids alone, and is a softmax over more than the passage."""

    def __init__(self, heads=1):
        self.heads = heads
        self.asked = []

    def __call__(self):
        return self

    def attention(self, pairs, averaged):
        assert not torch.is_grad_enabled()
        self.asked.append((pairs, averaged))
        numbers = torch.arange(1, self.heads + 1)[:, None, None]
        across = torch.sin(numbers * (1.0 + pairs.queries[:, None, :, None] * pairs.passages[:, None, None, :]))
        whole = 2 * across.exp()
        return Attention(
            whole / (5 + whole.sum(-1, keepdim=True)),
            whole.transpose(-1, -2) / (5 + whole.sum(-2).unsqueeze(-1)),
            pairs.passage_lengths,
        )


def words(lengths, seed):
    """Six dimensions; what stands behind the lengths would change everything if it were read."""
    generator = torch.Generator().manual_seed(seed)
    count, widest = len(lengths), max(lengths) + 1
    return {
        "words": (7 * torch.randn(count, widest, 6, generator=generator)).requires_grad_(),
        "word_ids": torch.randint(1, 50, (count, widest), generator=generator),
        "word_lengths": torch.tensor(lengths),
    }


def make_evidence(similarities=SIMILARITIES):
    queries, passages = words(LENGTHS["queries"], 1), words(LENGTHS["passages"], 2)
    return Evidence(queries, passages, lambda *_: similarities)


def value(objective, evidence=None, signals=None, weight=None):
    signals = make_signals() if signals is None else signals
    weight = torch.ones(3) if weight is None else weight
    negative = torch.zeros_like(make_negative(signals))  # whatever the filter says
    return objective(make_evidence() if evidence is None else evidence, signals, negative, weight)


def softmax(values):
    powers = [math.exp(one) for one in values]
    return [one / sum(powers) for one in powers]


def kl(teacher, student):
    return sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True))


def by_hand(evidence, teacher, pairs, temperature=1.0, symmetric=False):
    """A pair's loss, in plain loops."""
    values = {}
    for query, passage in pairs:
        sizes = LENGTHS["queries"][query], LENGTHS["passages"][passage]
        left = evidence.queries["words"][query, : sizes[0]].double()
        right = evidence.passages["words"][passage, : sizes[1]].double()
        ids = evidence.queries["word_ids"][query], evidence.passages["word_ids"][passage]
        mass = [
            [2 * math.exp(math.sin(1.0 + int(ids[0][i]) * int(ids[1][j]))) for j in range(sizes[1])]
            for i in range(sizes[0])
        ]
        similar = (left @ right.T / temperature).tolist()
        rows = [kl([m / sum(row) for m in row], softmax(own)) for row, own in zip(mass, similar, strict=True)]
        loss = sum(rows) / len(rows)
        if symmetric:
            turned = list(zip(*mass, strict=True)), list(zip(*similar, strict=True))
            back = [kl([m / sum(row) for m in row], softmax(own)) for row, own in zip(*turned, strict=True)]
            loss = (loss + sum(back) / len(back)) / 2
        values[query, passage] = loss
    return values


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_matches_the_loop(symmetric, temperature):
    evidence, teacher = make_evidence(), Teacher()
    found = value(WordLevel(teacher, **SETTINGS | {"symmetric": symmetric, "temperature": temperature}), evidence)
    expected = by_hand(evidence, teacher, PAIRS, temperature, symmetric)
    assert found.item() == pytest.approx(sum(expected.values()) / 6, rel=1e-4)


def test_the_teacher_reads_the_pairs_that_are_shown_and_no_others():
    teacher, evidence = Teacher(), make_evidence()
    value(WordLevel(teacher, **SETTINGS), evidence)
    ((pairs, averaged),) = teacher.asked
    assert averaged
    assert len(pairs.queries) == len(PAIRS)
    assert pairs.queries.shape[1] == 3  # no wider than the longest query that is read
    assert pairs.passages.shape[1] == 5
    for number, (query, passage) in enumerate(PAIRS):
        sizes = LENGTHS["queries"][query], LENGTHS["passages"][passage]
        assert (pairs.query_lengths[number], pairs.passage_lengths[number]) == sizes
        assert torch.equal(pairs.queries[number, : sizes[0]], evidence.queries["word_ids"][query, : sizes[0]])
        assert torch.equal(pairs.passages[number, : sizes[1]], evidence.passages["word_ids"][passage, : sizes[1]])


@pytest.mark.parametrize(("count", "pairs"), [(0, 3), (1, 6), (2, 9), (9, 9)])
def test_pairs_per_query(count, pairs):
    """Queries 0 and 2 have two hard ones; query 1 has two as well, its dark one not among them."""
    teacher = Teacher()
    value(WordLevel(teacher, **SETTINGS | {"pairs_per_query": count}))
    assert len(teacher.asked[0][0].queries) == pairs


def test_gradients_are_the_students_alone_and_of_words_that_are_read():
    evidence = make_evidence(SIMILARITIES.clone().requires_grad_())
    value(WordLevel(Teacher(), **SETTINGS), evidence).backward()
    for side, shown in (("queries", {0, 1, 2}), ("passages", {0, 1, 2, 3, 5})):
        gradient = getattr(evidence, side)["words"].grad
        for row, length in enumerate(LENGTHS[side]):
            assert gradient[row, length:].abs().max() == 0
            told = row in shown and (side, length) != ("passages", 1)  # one word is all that can be looked at
            assert (gradient[row].abs().max() > 0) == told
    assert evidence.query_passage.grad is None


def test_a_query_counts_once_and_by_its_weight():
    evidence, teacher = make_evidence(), Teacher()
    found = value(WordLevel(teacher, **SETTINGS), evidence, weight=torch.tensor([2.0, 0.0, 1.0]))
    losses = by_hand(evidence, teacher, PAIRS)
    expected = 2 * (losses[0, 0] + losses[0, 2]) / 2 + (losses[2, 0] + losses[2, 5]) / 2
    assert found.item() == pytest.approx(expected / 3, rel=1e-4)


def test_a_batch_without_a_pair_is_zero_and_asks_nobody():
    teacher = Teacher()
    evidence = make_evidence(SIMILARITIES.clone().requires_grad_())
    found = value(WordLevel(teacher, **SETTINGS), evidence, make_signals(torch.full_like(ROLE, int(Role.NONE))))
    found.backward()
    assert found.item() == 0
    assert teacher.asked == []


def test_what_does_not_fit_into_the_teacher_is_left_out():
    """A teacher that read one word less of every passage: as if the passages were so short."""

    class Cut(Teacher):
        def attention(self, pairs, averaged):
            found = super().attention(pairs, averaged)
            return found._replace(read=(found.read - 1).clamp_min(1))

    evidence = make_evidence()
    found = value(WordLevel(Cut(), **SETTINGS), evidence)
    shorter = {**evidence.passages, "word_lengths": (evidence.passages["word_lengths"] - 1).clamp_min(1)}
    expected = value(WordLevel(Teacher(), **SETTINGS), Evidence(evidence.queries, shorter, lambda *_: SIMILARITIES))
    torch.testing.assert_close(found, expected)


def test_matched_heads_have_their_own_dimensions():
    """With equal states in both halves and one head's attention twice, each head says what it says alone."""
    evidence = make_evidence()
    with torch.no_grad():
        for side in (evidence.queries, evidence.passages):
            side["words"][..., 3:] = side["words"][..., :3]

    class Doubled(Teacher):
        def attention(self, pairs, averaged):
            found = super().attention(pairs, averaged)
            assert not averaged
            return Attention(found.to_passage.repeat(1, 2, 1, 1), found.to_query.repeat(1, 2, 1, 1), found.read)

    matched = value(WordLevel(Doubled(), **SETTINGS | {"heads": "matched"}), evidence)
    halves = [{**side, "words": side["words"][..., :3]} for side in (evidence.queries, evidence.passages)]
    alone = value(WordLevel(Teacher(), **SETTINGS), Evidence(*halves, lambda *_: SIMILARITIES))
    torch.testing.assert_close(matched, alone)


def test_heads_that_do_not_divide_the_dimensions():
    with pytest.raises(UserError, match="6 dimensions, which 4 heads of the teacher do not divide"):
        value(WordLevel(Teacher(heads=4), **SETTINGS | {"heads": "matched"}))


def test_the_teacher_is_no_part_of_what_is_trained():
    teacher = torch.nn.Linear(2, 2)
    assert list(WordLevel(lambda: teacher, **SETTINGS).parameters()) == []
    assert WordLevel.needs == {Signal.ATTENTION}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": "all"}, "heads is averaged or matched, got all"),
        ({"similarity": "l2"}, "similarity is cosine or dot, got l2"),
        ({"pairs_per_query": -1}, "pairs_per_query is at least 0"),
        ({"temperature": 0}, "temperature must be > 0"),
    ],
)
def test_settings_that_it_refuses(changes, words):
    with pytest.raises(ValueError, match=rf"objective\.word_level\.{words}"):
        WordLevel(Teacher(), **SETTINGS | changes)
