"""What a sweep adds to its jobs: 200 jobs of an empty experiment beside the same command run alone.

    python benchmarks/bench_sweep.py [--quick]

The empty experiment is ``train experiment=bm25`` on thirty passages: all of a run, with nothing to train and as good
as nothing to compute. Each of the 200 jobs has another ``bm25.k1``, so each has steps and a folder of its own.
``alone`` is the same command for one k1, in a fresh process and an empty store. The bar: at most one second a job
above it.

The sweep runs its jobs in one process, which alone would make the bar easy: a process alone imports everything. So a
part of the sweep also runs with ``sweep.fresh=true``, a process for each job, against the same bar; then the sweep is
called again with everything done, and once more after half of its jobs were forgotten. About ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, beside_bar, keep, machine

JOBS, FRESH, ALONE = 200, 10, 5
BAR = 1.0  # seconds a job
PASSAGES, QUERIES = 30, 8
COMMAND = ("train", "experiment=bm25", "data=folder", "data.path=docs")


def write_collection(folder: Path) -> None:
    """Passages of words that stand in few of them."""
    (folder / "qrels").mkdir(parents=True)
    texts = [" ".join(f"word{(row * step) % 37}" for step in range(1, 12)) for row in range(PASSAGES)]
    corpus = [json.dumps({"_id": f"p{row}", "title": "", "text": text}) for row, text in enumerate(texts)]
    queries = [json.dumps({"_id": f"q{row}", "text": " ".join(texts[row].split()[:3])}) for row in range(QUERIES)]
    (folder / "corpus.jsonl").write_text("\n".join(corpus) + "\n")
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n")
    for split in ("train", "test"):
        judged = [f"q{row}\tp{row}\t1" for row in range(QUERIES)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")


def call(place: Path, *arguments: str) -> float:
    """Seconds of a command in a process of its own, which must succeed."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "retrieval_kd", *arguments],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr}")
    return seconds


def swept(jobs: int) -> tuple[str, ...]:
    """The command of a sweep over so many jobs."""
    return (*COMMAND, "-m", "bm25.k1=" + ",".join(f"{0.5 + number / 100:.2f}" for number in range(jobs)))


def job_seconds(place: Path) -> list[float]:
    """What each job of the only sweep took by its own clock, in the order of their numbers."""
    return [json.loads(path.read_text())["seconds"] for path in sorted(place.glob("outputs/multirun/*/jobs/*.json"))]


def begin(place: Path) -> None:
    """Take away all that commands left."""
    shutil.rmtree(place / "outputs", ignore_errors=True)


def main() -> int:
    """Measure, print each figure beside its bar, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="eight jobs; no result file")
    quick = parser.parse_args().quick
    jobs, fresh, alone_runs = (8, 2, 1) if quick else (JOBS, FRESH, ALONE)
    about = machine("hydra-core", "omegaconf")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_collection(place / "docs")
        call(place, *COMMAND)  # files and compiled measures are in the system's memory from here on
        alone = []
        for _ in range(alone_runs):
            begin(place)
            alone.append(call(place, *COMMAND, "bm25.k1=0.5"))
        one = statistics.median(alone)
        begin(place)
        whole = call(place, *swept(jobs))
        own = job_seconds(place)
        again = call(place, *swept(jobs))
        for path in sorted(place.glob("outputs/multirun/*/jobs/*.json"))[::2]:
            path.unlink()
        resumed = call(place, *swept(jobs))
        begin(place)
        apart = call(place, *swept(fresh), "sweep.fresh=true")
    tenth = max(1, jobs // 10)
    figures = {
        "alone_seconds": beside_bar("the command alone, s", one),
        "sweep_seconds": beside_bar(f"sweep of {jobs} jobs, s", whole),
        "seconds_per_job": beside_bar("  a job, s", whole / jobs),
        "above_alone": beside_bar("  above the command alone, s", whole / jobs - one, BAR, more=False),
        "job_itself": beside_bar("  a job by its own clock, median, s", statistics.median(own)),
        "beside_the_jobs": beside_bar("  beside the jobs, s a job", (whole - one - sum(own)) / jobs, BAR, more=False),
        "last_to_first": beside_bar(
            "  the last tenth's jobs to the first's", statistics.median(own[-tenth:]) / statistics.median(own[:tenth])
        ),
        "done_per_job": beside_bar("everything done already, s a job", again / jobs, BAR, more=False),
        "resumed_per_job": beside_bar("half of the jobs forgotten, s a job", resumed / jobs, BAR, more=False),
        "fresh_above_alone": beside_bar(
            f"a process for each of {fresh} jobs: above alone, s", apart / fresh - one, BAR, more=False
        ),
    }
    if not quick:
        keep("sweep", {"setting": {"jobs": jobs, "fresh": fresh}, "figures": figures, "alone": alone, "machine": about})
    return 0 if all(figure.get("held", True) for figure in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
