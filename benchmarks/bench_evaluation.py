"""Measure a run of 6,980 queries x 1,000 passages by five measures, beside pytrec-eval-terrier.

    python benchmarks/bench_evaluation.py [--quick]

Both start from what they take: ours from a ``Run``, pytrec-eval from dictionaries, and both end with a mean of each
measure. Rounds alternate who comes first; what is stated is the median. A fresh process, whose compiled measures an
earlier one left on disk, says what the first call costs more than a later one. The result goes to
``benchmarks/results/evaluation.json``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import apart, beside_bar, keep, machine

from retrieval_kd.data.runs import Run
from retrieval_kd.evaluation.measures import measure, prepare

MEASURES = {
    "ndcg@10": "ndcg_cut_10",
    "mrr": "recip_rank",
    "map": "map",
    "recall@100": "recall_100",
    "recall@1000": "recall_1000",
}
ASKED = {"ndcg_cut.10", "recip_rank", "map", "recall.100", "recall.1000"}
PASSAGES = 1_000_000
DEPTH = 1000
Judgements = dict[str, dict[str, int]]


def data(queries: int) -> tuple[Run, Judgements]:
    """Lists of passages drawn among a million; one or two judged passages a query, most of them in its list."""
    generator = np.random.default_rng(1)
    names = np.empty(PASSAGES, dtype=object)
    names[:] = [str(number) for number in generator.permutation(8_841_823)[:PASSAGES]]
    rows = np.concatenate([generator.choice(PASSAGES, DEPTH, replace=False) for _ in range(queries)])
    scores = -np.sort(-generator.gamma(4.0, 3.0, (queries, DEPTH)), 1).astype(np.float32).ravel()
    ids = [str(1_000_000 + number) for number in range(queries)]
    run = Run(ids, np.arange(0, len(rows) + 1, DEPTH), names[rows], scores)
    judgements: Judgements = {}
    for query_id in ids:
        listed = run[query_id][0]
        places = np.minimum(generator.geometric(0.02, 1 + int(generator.random() < 0.07)) - 1, DEPTH - 1)
        found = generator.random() < 0.85
        judgements[query_id] = {str(listed[place]) if found else f"absent{place}": 1 for place in places.tolist()}
    return run, judgements


def ours(run: Run, judgements: Judgements) -> dict[str, float]:
    """Means, from a run in memory."""
    return measure(run, judgements, list(MEASURES)).means()


def theirs(run: dict[str, dict[str, float]], judgements: Judgements) -> dict[str, float]:
    """Means, from dictionaries in memory."""
    import pytrec_eval

    found = pytrec_eval.RelevanceEvaluator(judgements, ASKED).evaluate(run)
    return {name: statistics.fmean(one[key] for one in found.values()) for name, key in MEASURES.items()}


def seconds(call: Callable[..., Any], *arguments: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def fresh(cache: Path, queries: int) -> dict[str, float]:
    """In a process that measured nothing yet: the first call, which imports and loads what is compiled, and a later."""
    run, judgements = data(queries)
    prepare(cache)
    first = seconds(ours, run, judgements)
    return {"first": first, "later": min(seconds(ours, run, judgements) for _ in range(2))}


def rounds(cache: Path, queries: int, count: int) -> dict[str, Any]:
    """Times of both in alternating order, and the largest difference of any query's measure."""
    import pytrec_eval

    prepare(cache)
    run, judgements = data(queries)
    lists = run.as_dict()
    times: dict[str, list[float]] = {"ours": [], "pytrec_eval": []}
    parts = [("ours", ours, run), ("pytrec_eval", theirs, lists)]
    for _, call, given in parts:
        call(given, judgements)
    for number in range(count):
        for name, call, given in parts if number % 2 else parts[::-1]:
            times[name].append(seconds(call, given, judgements))
    found = pytrec_eval.RelevanceEvaluator(judgements, ASKED).evaluate(lists)
    measured = measure(run, judgements, list(MEASURES))
    apart_most = max(
        abs(value - found[query_id][key])
        for name, key in MEASURES.items()
        for query_id, value in measured.by_query(name).items()
    )
    return {"seconds": times, "largest_difference": apart_most}


def main() -> int:
    """Measure, print beside the bars, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the queries, two rounds; no result file")
    arguments = parser.parse_args()
    queries, count = (698, 2) if arguments.quick else (6980, 7)
    about = machine("ranx", "numba", "numpy", "pytrec-eval-terrier")
    with tempfile.TemporaryDirectory() as folder:
        cold = apart(fresh, Path(folder), queries)
        warm = [apart(fresh, Path(folder), queries) for _ in range(1 if arguments.quick else 3)]
        measured = apart(rounds, Path(folder), queries, count)
    times = {name: statistics.median(found) for name, found in measured["seconds"].items()}
    more = statistics.median(one["first"] - one["later"] for one in warm)
    figures = {
        "ours_seconds": beside_bar("ours, seconds", times["ours"]),
        "pytrec_eval_seconds": beside_bar("pytrec-eval-terrier, seconds", times["pytrec_eval"]),
        "times_as_fast": beside_bar("times as fast", times["pytrec_eval"] / times["ours"], 1.0),
        "largest_difference": beside_bar("largest difference", measured["largest_difference"], 1e-6, more=False),
        "first_call_more_seconds": beside_bar("first call of a process, seconds more", more, 3.0, more=False),
        "never_compiled_more_seconds": beside_bar("before anything was compiled", cold["first"] - cold["later"]),
    }
    held = all(row.get("held", True) for row in figures.values())
    if not arguments.quick:
        setting = {"queries": queries, "depth": DEPTH, "measures": list(MEASURES), "rounds": count}
        keep(
            "evaluation",
            {"setting": setting, "figures": figures, "runs": measured, "fresh": warm, "passed": held, "machine": about},
        )
    print("passed" if held else "FAILED")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
