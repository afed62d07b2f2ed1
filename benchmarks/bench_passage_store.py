"""The passage store on 2 million generated passages: build, open, memory, look-ups; and reading JSON Lines.

    python benchmarks/bench_passage_store.py [--quick]
    python benchmarks/bench_passage_store.py --form msmarco [--quick]

The second is about a file of MS MARCO's size and form, 8,841,823 lines in a ``.tar.gz`` of which some hold broken
characters: from the archive to the finished store, as ``data=msmarco`` does it the first time, and the same with
``data.limit.passages=100000``. It needs 8 GB of disk.

Every part runs in a fresh process. Lengths are those of web passages (log-normal, about 56 words); a look-up goes from
an id to its row to its text. Cold means that the store's files were dropped from the page cache just before.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import apart, beside_bar, keep, machine

from retrieval_kd.contracts import Passage
from retrieval_kd.data.folder import Folder
from retrieval_kd.data.passages import PassageStore

BATCH = 1000
BARS = {  # figure: (bar, whether more is better)
    "build_passages_per_second": (50_000, True),
    "open_seconds": (1.0, False),
    "private_mb_after_opening": (50.0, False),
    "private_mb_after_lookups": (50.0, False),
    "lookups_per_second_warm": (100_000, True),
    "jsonl_passages_per_second": (50_000, True),
    "msmarco_passages_per_second": (50_000, True),
    "msmarco_peak_mb": (1000.0, False),
}
MSMARCO = 8_841_823
LIMIT = 100_000


def generate(count: int) -> Iterator[Passage]:
    """Passages with shuffled numeric ids, cut from a pool of words with Zipf frequencies."""
    draw = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(draw.choice(letters, draw.integers(2, 11))) for _ in range(5000)]
    pool = " ".join(words[word] for word in draw.zipf(1.3, 500_000) % 5000)
    ids = draw.permutation(count)
    for first in range(0, count, 100_000):
        part = ids[first : first + 100_000].tolist()
        lengths = np.clip(draw.lognormal(5.7, 0.5, len(part)), 40, 3000).astype(int).tolist()
        starts = draw.integers(0, len(pool) - 4000, len(part)).tolist()
        for number, start, length in zip(part, starts, lengths, strict=True):
            yield Passage(str(number), pool[start : start + 30], pool[start + 40 : start + 40 + length])


def private_mb() -> float:
    """Memory that only this process has, file pages that it alone maps included."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def build(path: Path, count: int) -> dict[str, float]:
    """Generating the passages is part of the time."""
    next(generate(1))  # what numpy and the pool of words take is not the store's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    PassageStore.build(path, generate(count))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"build_passages_per_second": count / seconds, "build_peak_mb": peak / 1024}


def look_up(path: Path, count: int) -> dict[str, float]:
    """Open, one cold pass, five warm passes over ids that are drawn anew."""
    draw = np.random.default_rng(1)
    passes = [draw.integers(0, count, (100, BATCH)) for _ in range(6)]
    asked = [[list(map(str, batch)) for batch in batches.tolist()] for batches in passes]
    for file in path.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = private_mb()
    start = time.perf_counter()
    store = PassageStore(path)
    figures = {"open_seconds": time.perf_counter() - start, "private_mb_after_opening": private_mb() - before}
    figures["lookups_per_second_cold"] = _rate(store, asked[0])
    store.verify()  # reads every byte, so every page is cached
    figures["lookups_per_second_warm"] = statistics.median(_rate(store, batches) for batches in asked[1:])
    figures["private_mb_after_lookups"] = private_mb() - before
    figures["store_mb"] = sum(file.stat().st_size for file in path.iterdir()) / 2**20
    return figures


def _rate(store: PassageStore, batches: list[list[str]]) -> float:
    start = time.perf_counter()
    for batch in batches:
        store.texts(store.rows(batch))
    return len(batches) * BATCH / (time.perf_counter() - start)


def read(path: Path, count: int) -> dict[str, float]:
    """Read a BEIR-layout corpus from the page cache."""
    with (path / "corpus.jsonl").open("w") as stream:
        for name, title, text in generate(count):
            stream.write(json.dumps({"_id": name, "title": title, "text": text}) + "\n")
    (path / "queries.jsonl").write_text('{"_id": "q", "text": "what?"}\n')
    folder = Folder(path)
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        assert sum(1 for _ in folder.passages()) == count
        rates.append(count / (time.perf_counter() - start))
    return {"jsonl_passages_per_second": statistics.median(rates)}


def write_archive(home: Path, count: int) -> None:
    """``collectionandqueries.tar.gz`` as it is published, where ir_datasets keeps it."""
    lines = home / "collection.tsv"
    with lines.open("w", encoding="utf-8") as stream:
        for number, (_, title, text) in enumerate(generate(count)):
            extra = (" cafÃ© â\u0080\u0094 naïve 東京", " café", "", "", "")[number % 5]
            stream.write(f"{number}\t{title}{text}{extra}\n")
    folder = home / "msmarco-passage"
    folder.mkdir()
    path = folder / "collectionandqueries.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        archive.add(lines, "collection.tsv")
    lines.unlink()


def store_msmarco(home: Path, limit: int | None) -> dict[str, float]:
    """From the archive to an opened store; memory counts everything that this process ever held, mapped files too."""
    os.environ["IR_DATASETS_HOME"] = str(home)
    from retrieval_kd.data.collections import Limit, _passages
    from retrieval_kd.data.msmarco import MsMarco

    source = MsMarco(["train"], cache=home / "files")
    source.digest = lambda: "generated"  # type: ignore[method-assign]  # queries and judgements are not measured
    source.judgements = lambda split: {}  # type: ignore[method-assign]
    source.queries = lambda split: {}  # type: ignore[method-assign]
    source._files._here = True
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    passages, _ = _passages(source, home / "store", False, Limit(passages=limit))
    seconds = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert passages.texts([0])[0].endswith(" café — naïve 東京") or limit, "the characters are not repaired"
    return {"seconds": seconds, "peak_mb": peak, "passages": float(len(passages))}


def as_msmarco(folder: Path, passages: int) -> dict[str, float]:
    """Both ways, each in a process of its own; the limited store first, for it uses a whole one that is there."""
    write_archive(folder, passages)
    limited = apart(store_msmarco, folder, min(LIMIT, passages // 10))
    whole = apart(store_msmarco, folder, None)
    return {
        "msmarco_passages_per_second": whole["passages"] / whole["seconds"],
        "msmarco_peak_mb": whole["peak_mb"],
        "msmarco_limited_seconds": limited["seconds"],
        "msmarco_limited_peak_mb": limited["peak_mb"],
    }


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=None, help="2 million, or MS MARCO's number")
    parser.add_argument("--form", choices=["store", "msmarco"], default="store")
    parser.add_argument("--quick", action="store_true", help="a tenth of it; no result file")
    arguments = parser.parse_args()
    passages = arguments.passages or (MSMARCO if arguments.form == "msmarco" else 2_000_000)
    passages = passages // 10 if arguments.quick else passages
    about = machine("numpy", "xxhash")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.form == "msmarco":
            figures = as_msmarco(Path(folder), passages)
        else:
            store = Path(folder) / "store"
            figures = apart(build, store, passages)
            figures |= apart(look_up, store, passages)
            figures |= apart(read, Path(folder), min(passages, 200_000))
    rows = {name: beside_bar(name, value, *BARS.get(name, ())) for name, value in figures.items()}
    if not arguments.quick:
        name = "passage_store" if arguments.form == "store" else "msmarco_store"
        keep(name, {"passages": passages, "figures": rows, "machine": about})
    return int(any(row.get("held") is False for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
