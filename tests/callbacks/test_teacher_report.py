import math

import numpy as np
import pytest

from retrieval_kd.callbacks.teacher_report import reranking_ndcg, suggest_temperature, teacher_report
from retrieval_kd.contracts import Role

P, H, D = Role.POSITIVE, Role.HARD, Role.DARK_MASKED
NAN = math.nan


def flat(*lists):
    """Lists of (score, role) or (score, role, relevance) as the report's arrays."""
    rows = [(*item, int(item[1] == P))[:3] for one in lists for item in one]
    scores, roles, relevance = (np.array(column) for column in zip(*rows, strict=True))
    return scores.astype(np.float32), roles, np.cumsum([0, *map(len, lists)]), relevance


def report(*lists, temperature=1.0):
    scores, roles, offsets, relevance = flat(*lists)
    return teacher_report(scores, roles, offsets, temperature, relevance)


def random_lists(count=40, seed=0):
    generator = np.random.default_rng(seed)
    lists = []
    for _ in range(count):
        size = int(generator.integers(2, 25))
        scores = generator.normal(0, 4, size).round(1)
        scores[generator.random(size) < 0.1] = NAN
        relevance = generator.integers(0, 4, size) * (generator.random(size) < 0.2)
        roles = np.where(relevance > 0, P, np.where(generator.random(size) < 0.1, D, H))
        lists.append(list(zip(scores.tolist(), roles.tolist(), relevance.tolist(), strict=True)))
    return lists


def softmax(scores, temperature):
    weights = [math.exp((s - max(scores)) / temperature) for s in scores]
    return [w / sum(weights) for w in weights]


def oracle(lists, temperature):
    """Every figure by plain loops."""
    figures = {name: [] for name in ("deviation", "spread", "entropy", "normalised_entropy", "saturated", "constant")}
    figures |= {name: [] for name in ("positive_on_top", "pairwise_accuracy", "ndcg", "mrr")}
    for one in lists:
        scores = [s for s, _, _ in one if not math.isnan(s)]
        if len(scores) > 1:
            p = softmax(scores, temperature)
            entropy = -sum(x * math.log(x) for x in p if x > 0)
            mean = sum(scores) / len(scores)
            figures["deviation"].append(math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores)))
            figures["spread"].append(max(scores) - min(scores))
            figures["entropy"].append(entropy)
            figures["normalised_entropy"].append(entropy / math.log(len(scores)))
            figures["saturated"].append(max(p) > 0.99)
            figures["constant"].append(max(scores) == min(scores))
        found = [(s, g) for s, r, g in one if r != D]
        positives = [s for s, g in found if g and not math.isnan(s)]
        others = [s for s, g in found if not g and not math.isnan(s)]
        if positives and others:
            points = [(a > b) + (a == b) / 2 for a in positives for b in others]
            figures["positive_on_top"].append(max(positives) > max(others))
            figures["pairwise_accuracy"].append(sum(points) / len(points))
        if any(g for _, g in found):
            ranked = sorted(found, key=lambda x: (-math.inf if math.isnan(x[0]) else x[0], -x[1]), reverse=True)[:10]
            best = sorted((g for _, g in found), reverse=True)[:10]
            gain = sum(g / math.log2(i + 2) for i, (_, g) in enumerate(ranked))
            figures["ndcg"].append(gain / sum(g / math.log2(i + 2) for i, g in enumerate(best)))
            figures["mrr"].append(next((1 / (i + 1) for i, (_, g) in enumerate(ranked) if g), 0))
    return {name: sum(values) / len(values) for name, values in figures.items()}


@pytest.mark.parametrize("temperature", [0.2, 1.0, 30.0])
def test_every_figure_matches_plain_loops(temperature):
    lists = random_lists()
    got = report(*lists, temperature=temperature)
    for name, value in oracle(lists, temperature).items():
        assert getattr(got, name) == pytest.approx(value, rel=1e-5), name
    scores = [s for one in lists for s, _, _ in one]
    assert got.missing == pytest.approx(sum(map(math.isnan, scores)) / len(scores))
    assert (got.lists, got.total_lists) == (40, 40)


def test_uniform_and_one_hot_lists():
    even = report([(1.0, P), (1.0, H), (1.0, H), (1.0, H)])
    assert (even.normalised_entropy, even.entropy) == pytest.approx((1, math.log(4)))
    assert (even.constant, even.saturated) == (1, 0)
    sharp = report([(1000.0, P), (1.0, H), (-5.0, H), (2.0, H)])
    assert sharp.normalised_entropy == pytest.approx(0, abs=1e-6)
    assert (sharp.constant, sharp.saturated, sharp.positive_on_top) == (0, 1, 1)


def test_a_teacher_that_says_nothing_earns_nothing_from_the_order_of_the_list():
    silent = report([(0.0, P), *[(0.0, H)] * 11])
    assert (silent.ndcg, silent.mrr, silent.positive_on_top, silent.pairwise_accuracy) == (0, 0, 0, 0.5)
    assert report([(NAN, P), *[(-3.0, H)] * 3]).mrr == 0.25  # what has no score stands last, its list has three more


def test_made_passages_count_for_the_softmax_alone():
    lists = [[(3.0, P), (1.0, H)], [(2.0, P), (2.5, H)]]
    with_made = [[*one, (9.0, D)] for one in lists]
    plain, made = report(*lists), report(*with_made)
    for name in ("positive_on_top", "pairwise_accuracy", "ndcg", "mrr"):
        assert getattr(made, name) == getattr(plain, name)
    assert made.spread > plain.spread


def test_relevance_defaults_to_the_positives_and_orders_graded_ones():
    scores, roles, offsets, _ = flat([(3.0, P), (2.0, P), (1.0, H)])
    assert teacher_report(scores, roles, offsets, 1.0).ndcg == 1
    graded = teacher_report(scores, roles, offsets, 1.0, np.array([1, 3, 0])).ndcg
    assert graded == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))


def test_the_order_and_scale_of_a_list_do_not_matter_to_its_order_figures():
    lists = random_lists(seed=3)
    turned = [[(s * 7 - 100, r, g) for s, r, g in one[::-1]] for one in lists]
    for name in ("positive_on_top", "pairwise_accuracy", "ndcg", "mrr", "missing"):
        assert getattr(report(*turned), name) == pytest.approx(getattr(report(*lists), name))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_suggested_temperature_gives_half_the_entropy(scale):
    scores = np.random.default_rng(0).normal(0, scale, (30, 8))
    scores[:5, 5:] = NAN
    temperature = suggest_temperature(scores)
    entropies = []
    for row in scores.tolist():
        known = [s for s in row if not math.isnan(s)]
        entropies.append(-sum(p * math.log(p) for p in softmax(known, temperature) if p > 0) / math.log(len(known)))
    assert sum(entropies) / 30 == pytest.approx(0.5, abs=0.001)


def test_no_temperature_where_ties_forbid_it():
    assert suggest_temperature(np.array([[1.0, 1, 1, 1, 1, 1, 1, 0]])) is None
    assert suggest_temperature(np.zeros((0, 4))) is None


def test_saturation_is_called_out_with_a_temperature_that_cures_it():
    generator = np.random.default_rng(0)
    lists = [[(float(s), P if i == 0 else H) for i, s in enumerate(generator.normal(0, 200, 8))] for _ in range(50)]
    found = report(*lists)
    (warning,) = found.warnings()
    assert warning.startswith("the teacher saturates")
    assert f"{found.suggested_temperature:.2g} would give 50%" in warning
    assert report(*lists, temperature=found.suggested_temperature).warnings() == []


def test_a_flat_teacher_and_a_constant_one_are_called_out():
    flat_teacher = report(*[[(0.01, P), (0.0, H), (0.005, H)]] * 3)
    assert "hardly tells passages apart" in flat_teacher.warnings()[0]
    assert "would give 50%" in flat_teacher.warnings()[0]
    constant = report(*[[(1.0, P), (1.0, H)]] * 3).warnings()
    assert any("100% of the teacher's lists are constant" in line for line in constant)


def test_a_teacher_no_better_than_its_student_is_called_out():
    lists = [[(2.0, P), (1.0, H), (0.0, H)], [(1.0, P), (2.0, H), (0.0, H)]]
    found = report(*lists)
    assert not any("no better" in line for line in found.warnings())
    assert not any("no better" in line for line in found.warnings(found.ndcg - 0.01))
    (warning,) = [line for line in found.warnings(found.ndcg) if "no better" in line]
    assert "0.815 against 0.815" in warning


def test_the_student_is_measured_as_the_teacher_is():
    lists = random_lists(seed=5)
    scores, roles, offsets, relevance = flat(*lists)
    assert reranking_ndcg(scores, roles, offsets, relevance) == report(*lists).ndcg
    assert reranking_ndcg(-scores, roles, offsets, relevance) != report(*lists).ndcg


def test_lines_hold_the_figures():
    text = "\n".join(report([(2.0, P), (1.0, H), (NAN, H)], [(0.0, P), (1.0, H), (0.0, H)]).lines())
    for part in (
        "2 lists",
        "16.7% of passages unscored",
        "0.0% of lists constant",
        "positive on top 50.0%",
        "MRR@10 0.667",
    ):
        assert part in text


def test_no_lists_and_unjudged_lists_are_reported_without_figures():
    empty = teacher_report(np.zeros(0), np.zeros(0), np.zeros(1, dtype=int), 1.0)
    assert empty.lists == 0
    assert math.isnan(empty.ndcg)
    unjudged = report([(2.0, H), (1.0, H)])
    assert unjudged.judged_lists == 0
    assert math.isnan(unjudged.positive_on_top)
    assert "no list is judged" in unjudged.lines()[-1]
    assert unjudged.warnings(student_ndcg=0.4) == []
