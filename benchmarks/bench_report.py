"""Write the report of a table with 12 rows of 3 seeds each.

    python benchmarks/bench_report.py [--quick]

The bars: at most 5 seconds from the command to the file, at most 5 MB. The results are made up, in the form and of the
size that real ones have: 600 queries x 100 passages a run, five measures, logs of 500 steps with 24 columns, 50,000
scored candidates of two members. Each round is a process of its own. The result goes to
``benchmarks/results/report.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from common import ROOT, beside_bar, keep, machine
from omegaconf import OmegaConf

from retrieval_kd.contracts import Role
from retrieval_kd.data.candidates import Candidate, Candidates
from retrieval_kd.data.runs import Run
from retrieval_kd.evaluation import tables
from retrieval_kd.evaluation.measures import Measured
from retrieval_kd.evaluation.per_query import write_per_query
from retrieval_kd.evaluation.table_spec import TableSpec, read_spec
from retrieval_kd.pipeline.compose import compose, plain
from retrieval_kd.pipeline.table import compare_rows, seed_folder

PASSAGES, WORDS, DEPTH, STEPS = 4000, 60, 100, 500
MEASURES = ("ndcg@10", "mrr@10", "recall@100", "map@100", "success@5")
COLUMNS = [f"train/{name}" for name in ("loss", "contrastive", "listwise_kl", "pairwise", "lr")]
COLUMNS += [f"diagnostics/teacher_score_{role}" for role in ("positive", "hard", "random")]
COLUMNS += [f"diagnostics/{name}_{number}" for name in ("gradient_share", "kendall_tau") for number in range(4)]
COLUMNS += [f"validation/{name}" for name in MEASURES] + [f"train/pacing_{number}" for number in range(3)]


def collection(folder: Path, queries: int) -> None:
    """A folder in BEIR layout."""
    generator = np.random.default_rng(1)
    words = np.array([f"word{number}" for number in range(5000)])
    texts = [" ".join(generator.choice(words, WORDS)) for _ in range(PASSAGES)]
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"passage-{row}", "title": "", "text": text}) for row, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"_id": f"query-{row}", "text": " ".join(texts[row].split()[:9])}) for row in range(queries)]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    judged = "".join(f"query-{row}\tpassage-{row}\t1\n" for row in range(queries))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)


def scores(store: Path) -> list[dict[str, object]]:
    """Scored candidates as their steps leave them, and what a manifest says of these."""
    generator = np.random.default_rng(2)
    roles = [Role.POSITIVE, *[Role.HARD] * 30, *[Role.RANDOM] * 2]
    lists = (
        (f"query-{query}", [Candidate(f"passage-{n}", role, n, "bm25", 0, 0) for n, role in enumerate(roles)])
        for query in range(1500)
    )
    candidates = Candidates.from_lists(lists)
    (store / "mine" / "m").mkdir(parents=True)
    candidates.write(store / "mine" / "m" / "candidates.parquet")
    (store / "score" / "s").mkdir(parents=True)
    np.save(store / "score" / "s" / "scores.npy", generator.normal(0, 1, (2, len(candidates))).astype(np.float32))
    (store / "score" / "s" / "step.json").write_text(json.dumps({"members": {"bm25": "similarity", "ce": "logit"}}))
    return [{"step": "mine", "digest": "m"}, {"step": "score", "digest": "s"}]


def seed(place: Path, number: int, queries: int, resolved: str, steps: list[dict[str, object]]) -> dict[str, float]:
    """One run's folder; returns its measures."""
    generator = np.random.default_rng(number)
    place.mkdir(parents=True)
    names = [f"query-{row}" for row in range(queries)]
    passages = np.array([f"passage-{row}" for row in range(PASSAGES)], dtype=object)
    rows = np.concatenate([generator.choice(PASSAGES, DEPTH, replace=False) for _ in names])
    found = -np.sort(-generator.normal(0, 1, (queries, DEPTH)), 1).ravel()
    Run(names, np.arange(0, len(rows) + 1, DEPTH), passages[rows], found).write(
        place / "runs" / "made.test.trec", "made"
    )
    values = {measure: generator.beta(1 + number % 5 / 9, 2, queries) for measure in MEASURES}
    measured = Measured(tuple(names), values, 0)
    write_per_query(place / "per_query.parquet", {("made", "test"): measured})
    means = measured.means()
    cost = {
        "train_seconds": 100.0,
        "flops": 1 + generator.random(),
        "latency_p99_ms": generator.random(),
        "index_bytes": 9,
    }
    collections = {"made/test": {"queries": queries, "measures": means}}
    (place / "metrics.json").write_text(json.dumps({"collections": collections, "cost": cost}))
    hardware = {"machine": "x86_64", "cores": 2, "accelerator": "cpu"}
    manifest = {"key": "k", "commit": "c" * 40, "hardware": hardware, "versions": {"python": "3"}, "steps": steps}
    (place / "manifest.json").write_text(json.dumps(manifest))
    (place / "resolved.yaml").write_text(resolved)
    walks = np.cumsum(generator.normal(0, 1, (STEPS, len(COLUMNS))), 0)
    lines = [",".join(["step", *COLUMNS])]
    lines += [",".join([str(step), *(f"{value:.5f}" for value in row)]) for step, row in enumerate(walks.tolist())]
    (place / "log.csv").write_text("\n".join(lines) + "\n")
    return means


def make(folder: Path, rows: int, seeds: int, queries: int) -> Path:
    """A table's folder as ``retrieval-kd table`` leaves it."""
    collection(folder / "made", queries)
    overrides = ["data=folder", f"data.path={folder / 'made'}", "data.split=test", f"store={folder / 'store'}"]
    resolved = OmegaConf.to_yaml(OmegaConf.create(plain(compose(overrides))))
    steps = scores(folder / "store")
    names = [f"row {number}" for number in range(rows)]
    content = {
        "title": "A table",
        "columns": [f"made/test {measure}" for measure in MEASURES],
        "seeds": {"quick": list(range(seeds))},
        "rows": {
            name: {"experiment": "plain_kl", **({"control": names[number - 1]} if number else {})}
            for number, name in enumerate(names)
        },
    }
    spec: TableSpec = read_spec(content, "table.yaml")
    target = folder / "outputs" / "tables" / "made"
    measured, places = [], {}
    for number, row in enumerate(spec.rows):
        places[row.name] = [seed_folder(target, "quick", row.name, one) for one in range(seeds)]
        found = [
            seed(place, 100 * number + one, queries, resolved, steps) for one, place in enumerate(places[row.name])
        ]
        values = {cell: [one[cell.split()[1]] for one in found] for cell in spec.columns}
        cost = json.loads((places[row.name][0] / "metrics.json").read_text())["cost"]
        commands = tuple(f"retrieval-kd train {' '.join(overrides)} seed={one}" for one in range(seeds))
        measured.append(tables.Row(row, tuple(range(seeds)), values, cost, False, commands=commands))
    compare_rows(spec, measured, places)
    table = tables.as_json(spec, "quick", measured, {"seeds": list(range(seeds)), "queries": {"made/test": queries}})
    table["shown"] = asdict(tables.shown(spec, "quick", measured, ["Made up."]))
    (target / "table.json").write_text(json.dumps(table))
    return target


def main() -> int:
    """Make a table, write its report several times, print beside the bars, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rows of 2 seeds, once; no result file")
    arguments = parser.parse_args()
    rows, seeds, queries, rounds = (3, 2, 100, 1) if arguments.quick else (12, 3, 600, 5)
    about = machine("numpy", "pyarrow")
    with tempfile.TemporaryDirectory() as temporary:
        target = make(Path(temporary), rows, seeds, queries)
        times = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            command = [sys.executable, "-m", "retrieval_kd", "report", str(target)]
            environment = os.environ | {
                "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            }
            subprocess.run(command, check=True, cwd=temporary, env=environment, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
        size = (target / "report.html").stat().st_size
    figures = {
        "first_seconds": beside_bar("the first time, which stores the passages", times[0]),
        "seconds": beside_bar("seconds", statistics.median(times[1:]), 5.0, more=False),
        "megabytes": beside_bar("megabytes", size / 1e6, 5.0, more=False),
    }
    held = all(row.get("held", True) for row in figures.values())
    if not arguments.quick:
        setting = {
            "rows": rows,
            "seeds": seeds,
            "queries": queries,
            "depth": DEPTH,
            "steps": STEPS,
            "columns": len(COLUMNS),
        }
        keep("report", {"setting": setting, "figures": figures, "seconds": times, "passed": held, "machine": about})
    print("passed" if held else "FAILED")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
