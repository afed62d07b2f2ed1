"""Exact late-interaction search beside sentence-transformers': 10,000 passages, the ten best of each query.

    python benchmarks/bench_maxsim.py [--quick] [--passages N] [--rounds N] [--threads 1]

Passages and queries are those of python_docs, their vectors those of the option's start (all-MiniLM-L6-v2 and a new
projection to 128 dimensions): speed does not depend on training. They are encoded once and kept. Queries have 32
vectors each, and are asked one at a time, and 32 together.

Theirs is what its evaluator does: queries padded to one tensor, passages a list of tensors, ``maxsim`` and the ten best
by ``torch.topk``. How many elements it takes at once is its own default or a smaller number, the fastest of them in a
first short pass, for each way of asking. Ours is ``engine=exact`` over the arrays as they are stored.

A measurement is a pass over all queries by one system; passes of both alternate, several rounds of them. What is stated
is the median over the rounds, and of the ratios within them. Scores must be the same up to rounding, and so the hits.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from common import MINILM, ROOT, beside_bar, keep, machine, python_docs

SPEED, GAP, K = 1.5, 1e-4, 10
WAYS = {"one": 1, "32": 32}  # queries asked together
CHUNKS = (None, 30_000_000, 10_000_000, 3_000_000, 1_000_000)
STORE = ROOT / "outputs" / "store" / "bench_maxsim"

Search = Callable[[slice], Any]


def representations(passages: int, queries: int) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Stored passages, and padded queries."""
    import yaml

    from retrieval_kd.contracts import Side
    from retrieval_kd.data.representations import StoredRepresentations, write_representations
    from retrieval_kd.pipeline.build import METADATA
    from retrieval_kd.students.late_interaction import build_late_interaction

    option = yaml.safe_load((ROOT / "conf" / "student" / "late_interaction.yaml").read_text())
    given = {key: value for key, value in option.items() if key not in METADATA | {"_target_"}}
    student = build_late_interaction(**given | {"encoder": {"name": MINILM, "layers": None}})
    texts, asked = python_docs()
    draw = np.random.default_rng(0)
    texts = [texts[row] for row in draw.permutation(len(texts))[:passages]]
    folder = STORE / f"{student.fingerprint.split(':')[1][:16]}-{len(texts)}"
    if not folder.exists():
        starts = range(0, len(texts), 1024)
        chunks = (student.encode_texts(texts[start : start + 1024], Side.PASSAGE) for start in starts)
        write_representations(
            folder, [str(row) for row in range(len(texts))], chunks, student.fingerprint, Side.PASSAGE
        )
    some = [asked[row] for row in draw.permutation(len(asked))[:queries]]
    encoded = student.encode_texts(some, Side.QUERY)
    return StoredRepresentations.open(folder).arrays, {name: value.numpy() for name, value in encoded.items()}


def ours(passages: Mapping[str, np.ndarray], queries: Mapping[str, np.ndarray]) -> Search:
    """The engine."""
    from retrieval_kd.engines.maxsim import MaxSimIndex

    index = MaxSimIndex(passages)

    def search(part: slice) -> tuple[np.ndarray, np.ndarray]:
        hits = index.search({name: value[part] for name, value in queries.items()}, K)
        return hits.rows, hits.scores

    return search


def theirs(passages: Mapping[str, np.ndarray], queries: Mapping[str, np.ndarray], chunk: int | None = None) -> Search:
    """Its all-pairs function and the best of each row."""
    import torch
    from sentence_transformers.util.similarity import maxsim

    offsets = passages["offsets"]
    tokens = torch.from_numpy(np.array(passages["tokens"]))
    documents = list(tokens.split(np.diff(offsets).tolist()))
    asked = torch.from_numpy(queries["tokens"])

    def search(part: slice) -> tuple[np.ndarray, np.ndarray]:
        found = torch.topk(maxsim(asked[part], documents, chunk_elements=chunk), K)
        return found.indices.numpy(), found.values.numpy()

    return search


def a_pass(search: Search, queries: int, together: int) -> float:
    """Seconds for a query."""
    gc.collect()
    start = time.perf_counter()
    for first in range(0, queries, together):
        search(slice(first, first + together))
    return (time.perf_counter() - start) / queries


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare, choose their chunks, alternate, print each figure beside its bar."""
    passages, queries = representations(arguments.passages, arguments.queries)
    asked = {"one": arguments.queries // 8, "32": arguments.queries}
    lengths = np.diff(passages["offsets"])
    mine = ours(passages, queries)
    (rows, scores), (their_rows, their_scores) = (
        search(slice(0, arguments.queries)) for search in (mine, theirs(passages, queries))
    )
    gap = float(np.abs(scores - their_scores).max())
    figures = {
        "tokens_per_passage": beside_bar("vectors for each passage", float(lengths.mean())),
        "score_gap": beside_bar("largest gap of the scores", gap, GAP, False),
        "same_hits": beside_bar("share of the same hits in the same place", float((rows == their_rows).mean())),
    }
    chosen = {}
    for way, together in WAYS.items():
        few = max(8, together)
        tried = {chunk: a_pass(theirs(passages, queries, chunk), few, together) for chunk in CHUNKS}
        chosen[way] = min(tried, key=lambda chunk: tried[chunk])
        for chunk, seconds in tried.items():
            print(
                f"  theirs, {way} at a time, {chunk or 'default'} elements: {seconds * 1e3:.1f} ms a query", flush=True
            )
        systems = {"ours": mine, "theirs": theirs(passages, queries, chosen[way])}
        runs: dict[str, list[float]] = {name: [] for name in systems}
        for number in range(arguments.rounds):
            for name in list(systems)[:: 1 if number % 2 else -1]:
                runs[name].append(a_pass(systems[name], asked[way], together))
        for name, seconds in runs.items():
            key = f"{name}_{way}_ms"
            figures[key] = beside_bar(f"{name}, {way} at a time, ms a query", 1e3 * statistics.median(seconds))
        ratio = statistics.median(b / a for a, b in zip(runs["ours"], runs["theirs"], strict=True))
        figures[f"speed_{way}"] = beside_bar(f"speed against theirs, {way} at a time", ratio, SPEED)
    return {"their_chunks": {way: chunk or "default" for way, chunk in chosen.items()}, "figures": figures}


def main() -> int:
    """Measure, print, keep; 1 where a bar was missed."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 passages, 32 queries, 3 rounds; no result file")
    parser.add_argument("--passages", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.passages = arguments.passages or (1000 if arguments.quick else 10_000)
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 7)
    arguments.queries = 32 if arguments.quick else 64
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(arguments.threads)
    about = machine("torch", "sentence-transformers", "numpy")
    setting = {name: getattr(arguments, name) for name in ("passages", "queries", "rounds", "threads")}
    result = {"setting": setting, **measure(arguments), "machine": about}
    if not arguments.quick:
        keep("maxsim", result)
    return int(any(row.get("held") is False for row in result["figures"].values()))


if __name__ == "__main__":
    sys.exit(main())
