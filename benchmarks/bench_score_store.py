"""Look up one million keys among ten million scores that four processes wrote into at least a hundred shards.

    python benchmarks/bench_score_store.py [--quick]

The bar: less than five seconds, memory bounded and stated. It needs 400 MB of disk in the temporary folder and about
two minutes. The result goes to ``benchmarks/results/score_store.json``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from common import keep, machine

from retrieval_kd.contracts import ScoreKind
from retrieval_kd.data.score_store import ScoreKeys, ScoreStore

SHARDS, WRITERS, RUNS = 104, 4, 5
BAR_SECONDS = 5.0
BAR_BYTES = 128 << 20  # private memory of a look-up, beside its answer, however many keys
PER_QUERY = 100
TEACHER = "benchmark"
PASSAGE = "a passage of the usual length, about as long as what people put into one: " * 5


def pairs(rows: np.ndarray) -> tuple[list[str], list[str]]:
    """Texts of pairs: a hundred passages for each query."""
    return [f"what is {row // PER_QUERY}" for row in rows], [f"{row} {PASSAGE}" for row in rows]


def score_of(rows: np.ndarray) -> np.ndarray:
    """Invent a score that tells whose it is."""
    return (rows % 9973).astype(np.float32)


def write(folder: Path, writer: int, scores: int) -> None:
    """One writer's shards."""
    store = ScoreStore(folder)
    for shard in range(writer, SHARDS, WRITERS):
        rows = np.arange(shard * scores // SHARDS, (shard + 1) * scores // SHARDS)
        store.append(store.keys(TEACHER, *pairs(rows)), score_of(rows), ScoreKind.LOGIT)


def forget(folder: Path) -> None:
    """Ask the system to drop its copies of the files, so that the next look-up reads from the disk."""
    for path in folder.glob("*/*.shard"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def resident_files() -> int:
    """Bytes of mapped files that are in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


def timed_lookup(folder: Path, values: np.ndarray, expected: np.ndarray) -> float:
    """Seconds for a store opened anew, its answers checked."""
    start = time.perf_counter()
    scores = ScoreStore(folder).lookup(ScoreKeys(TEACHER, values))
    seconds = time.perf_counter() - start
    np.testing.assert_array_equal(scores, expected)
    return seconds


def measure(folder: Path, scores: int, looked_up: int) -> dict[str, float]:
    """Times and memory of the look-up; nine keys of ten are there."""
    rows = np.random.default_rng(0).integers(0, scores * 10 // 9, looked_up)
    expected = np.where(rows < scores, score_of(rows), np.nan).astype(np.float32)
    texts = pairs(rows)
    start = time.perf_counter()
    keys = ScoreStore(folder).keys(TEACHER, *texts)
    hashing = time.perf_counter() - start
    del texts
    cold = []
    for _ in range(RUNS):
        forget(folder)
        cold.append(timed_lookup(folder, keys.values, expected))
    warm = [timed_lookup(folder, keys.values, expected) for _ in range(RUNS)]
    tracemalloc.start()
    timed_lookup(folder, keys.values, expected)
    private = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    many = np.tile(keys.values, (8, 1))
    before = tracemalloc.get_traced_memory()[0]
    ScoreStore(folder).lookup(ScoreKeys(TEACHER, many))
    private_many = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    before_maps = resident_files()
    held = ScoreStore(folder)
    held.lookup(keys)
    return {
        "hash_1m_pairs_seconds": hashing,
        "lookup_1m_cold_seconds": statistics.median(cold),
        "lookup_1m_warm_seconds": statistics.median(warm),
        "lookup_1m_warm_worst_seconds": max(warm),
        "private_memory_peak_1m_bytes": private,
        "private_memory_peak_8m_bytes": private_many,
        "mapped_files_resident_bytes": resident_files() - before_maps,
    }


def main() -> int:
    """Write, look up, print each figure beside its bar, keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of it; no result file")
    arguments = parser.parse_args()
    scores, looked_up = (1_000_000, 100_000) if arguments.quick else (10_000_000, 1_000_000)
    about = machine("numpy", "xxhash")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        workers = [multiprocessing.Process(target=write, args=(folder, number, scores)) for number in range(WRITERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        written = time.perf_counter() - start
        shards = list(folder.glob("*/*.shard"))
        stored, size = ScoreStore(folder).count(TEACHER), sum(path.stat().st_size for path in shards)
        figures = {"write_seconds": written, **measure(folder, scores, looked_up)}
    quick = max(figures["lookup_1m_cold_seconds"], figures["lookup_1m_warm_seconds"]) < BAR_SECONDS
    bounded = figures["private_memory_peak_8m_bytes"] - 4 * 8 * looked_up < BAR_BYTES
    passed = quick and bounded and stored == scores and len(shards) >= 100
    result = {
        "setting": {"scores": stored, "shards": len(shards), "writers": WRITERS, "looked_up": looked_up, "bytes": size},
        "figures": figures,
        "bar": {"lookup_1m_seconds": BAR_SECONDS, "private_memory_beside_the_answer_bytes": BAR_BYTES},
        "passed": passed,
        "machine": about,
    }
    if not arguments.quick:
        keep("score_store", result)
    mega = 1 / 2**20
    print(f"{stored:,} scores in {len(shards)} shards by {WRITERS} writers: {written:.1f} s, {size * mega:.0f} MB")
    for kind in ("cold", "warm"):
        print(
            f"{looked_up:,} keys, files {kind}: {figures[f'lookup_1m_{kind}_seconds']:.2f} s   (bar: < {BAR_SECONDS} s)"
        )
    print(f"hashing {looked_up:,} pairs of texts before: {figures['hash_1m_pairs_seconds']:.2f} s")
    print(
        f"private memory at its peak: {figures['private_memory_peak_1m_bytes'] * mega:.0f} MB for the keys, "
        f"{figures['private_memory_peak_8m_bytes'] * mega:.0f} MB for eight times as many "
        f"(4 bytes a key are the answer; bar: < {BAR_BYTES * mega:.0f} MB beside it)"
    )
    print(f"mapped files in memory, which the system may drop: {figures['mapped_files_resident_bytes'] * mega:.0f} MB")
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
