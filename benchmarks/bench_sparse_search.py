"""Sparse search beside bm25s (numba backend): the same passages and queries, from raw text, one query at a time.

    python benchmarks/bench_sparse_search.py [--model DIR] [--quick] [--passages N] [--rounds N]

Passages are those of python_docs and, up to the number asked, sentences of two that stand near each other, in random
order; queries are training queries of python_docs. ``--model`` is the folder of a trained sparse student. Without it
the representations are a surrogate: a passage has most of its own tokens (the rarer, the likelier) and tokens of
passages that share a rare one with it, queries weigh their tokens by IDF. FLOPS (postings that a query meets, for each
passage) and terms for each passage are part of the result, since speed is theirs.

A measurement is a pass over all queries by one system, tokenising included, on one thread; passes of all systems come
in random order, several rounds of them. What is stated is the median over the rounds: of percentiles, and of their
ratio to bm25s's in the same round. bm25s is as its documentation has it: its own tokenizer, English stop words, no
stemmer. Exact results are compared with a product by scipy, Seismic's with the exact ones.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import logging
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import MINILM, ROOT, beside_bar, keep, machine, python_docs
from scipy import sparse

from retrieval_kd.contracts import Hits, Side
from retrieval_kd.data.weights import resolve_encoder
from retrieval_kd.engines.inverted import InvertedIndex
from retrieval_kd.pipeline.build import METADATA

BARS = {"inverted": 1.5, "seismic": 1.1, "recall": 0.98}
GOAL = 1.1
SPECIAL = 999  # ids up to here are special or unused in BERT's vocabulary
EXPANSION = (170, 240)  # tokens drawn for a passage; about half of them are different ones
OFTEN = 3.0  # a passage keeps its tokens of this IDF and above; others with a chance of IDF / OFTEN
STORE = ROOT / "outputs" / "store" / "bench_sparse"

Arrays = dict[str, np.ndarray]
Search = Callable[[str, int], Any]
ToQuery = Callable[[str], Arrays]


# ---- texts and representations


def recombined(texts: Sequence[str], size: int, draw: np.random.Generator) -> list[str]:
    """``size`` passages: the given ones, then half of the sentences of two that stand near each other, all shuffled."""
    result = list(texts[:size])
    sentences = [re.split(r"(?<=[.!?])\s+", text) for text in texts]
    while len(result) < size:
        one = int(draw.integers(len(texts)))
        pool = sentences[one] + sentences[(one + int(draw.integers(1, 20))) % len(texts)]
        kept = sorted(draw.permutation(len(pool))[: (len(pool) + 1) // 2].tolist())
        result.append(" ".join(pool[i] for i in kept))
    return [result[i] for i in draw.permutation(size)]


def tokenizer() -> Any:
    """MiniLM's, as it is called for queries that need no model."""
    from tokenizers import Tokenizer

    result = Tokenizer.from_file(str(resolve_encoder(MINILM) / "tokenizer.json"))
    result.no_padding()
    result.enable_truncation(256)
    return result


class Surrogate:
    """Representations that are like those of a trained student in number, skew and co-occurrence of their terms."""

    def __init__(self, texts: Sequence[str], draw: np.random.Generator) -> None:
        self.draw = draw
        self.tokenizer = tokenizer()
        self.vocabulary = self.tokenizer.get_vocab_size()
        self.rows, self.terms = self._own(texts)
        size = len(texts)
        found_in = np.bincount(self.terms, minlength=self.vocabulary)
        self.idf = np.log1p((size - found_in + 0.5) / (found_in + 0.5)).astype(np.float32)
        self.idf[: SPECIAL + 1] = 0
        self.offsets = np.searchsorted(self.rows, np.arange(size + 1))
        self.chances = np.concatenate([[0.0], np.cumsum(self.idf[self.terms].astype(np.float64) ** 1.5)])
        self.passages = self._passages(size)

    def query(self, text: str) -> Arrays:
        """The tokens of a text, each weighed by its IDF."""
        terms = np.array(sorted(set(self.tokenizer.encode(text, add_special_tokens=False).ids)), np.int32)
        weights = self.idf[terms]
        known = weights > 0
        return {"terms": terms[known][None], "weights": weights[known][None], "lengths": np.array([known.sum()])}

    def _own(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        keys = []
        for start in range(0, len(texts), 4096):
            batch = self.tokenizer.encode_batch(texts[start : start + 4096], add_special_tokens=False)
            lengths = [len(one.ids) for one in batch]
            terms = np.concatenate([np.array(one.ids, np.int64) for one in batch])
            keys.append(np.unique(np.repeat(np.arange(start, start + len(batch)), lengths) * self.vocabulary + terms))
        all_keys = np.concatenate(keys)
        rows, terms = all_keys // self.vocabulary, all_keys % self.vocabulary
        return rows[terms > SPECIAL], terms[terms > SPECIAL]

    def _drawn(self, rows: np.ndarray) -> np.ndarray:
        """A token of each of these passages, the rarer the likelier."""
        first, last = self.offsets[rows], self.offsets[rows + 1]
        at = self.chances[first] + self.draw.random(len(rows)) * (self.chances[last] - self.chances[first])
        return self.terms[np.clip(np.searchsorted(self.chances, at, "right") - 1, first, np.maximum(last - 1, first))]

    def _related(self, size: int) -> np.ndarray:
        """Four passages for each passage that share a drawn token with it."""
        order = np.argsort(self.terms, kind="stable")
        starts = np.searchsorted(self.terms[order], np.arange(self.vocabulary + 1))
        alive = np.flatnonzero(np.diff(self.offsets))
        result = np.zeros((size, 4), np.int64)
        for column in range(4):
            terms = self._drawn(alive)
            chosen = starts[terms] + (self.draw.random(len(alive)) * np.diff(starts)[terms]).astype(np.int64)
            result[alive, column] = self.rows[order][chosen]
        return result

    def _passages(self, size: int) -> Arrays:
        numbers = self.draw.integers(EXPANSION[0], EXPANSION[1] + 1, size) * (np.diff(self.offsets) > 0)
        rows = np.repeat(np.arange(size), numbers)
        added = np.unique(
            rows * self.vocabulary + self._drawn(self._related(size)[rows, self.draw.integers(0, 4, len(rows))])
        )
        kept = self.draw.random(len(self.terms)) < self.idf[self.terms] / OFTEN
        own = self.rows[kept] * self.vocabulary + self.terms[kept]
        rare = np.minimum(1, 0.3 + self.idf[self.terms[kept]] / 6)
        weights = np.log1p(
            np.concatenate([self.draw.gamma(3, 0.9, len(own)) * rare, self.draw.gamma(1.2, 0.45, len(added))])
        )
        keys = np.concatenate([own, added])
        order = np.lexsort((-weights, keys))
        keys, weights = keys[order], weights[order]
        first = np.concatenate([[True], keys[1:] != keys[:-1]])  # the larger, where a token is both
        keys = keys[first]
        return {
            "terms": (keys % self.vocabulary).astype(np.int32),
            "weights": np.maximum(weights[first], 1e-3).astype(np.float32),
            "offsets": np.searchsorted(keys // self.vocabulary, np.arange(size + 1)).astype(np.int64),
        }


def of_student(folder: str, texts: Sequence[str]) -> tuple[Arrays, ToQuery]:
    """What a trained student makes of the passages, and how it makes queries; passages are kept for the next time."""
    from retrieval_kd.interop.model_folder import read_model
    from retrieval_kd.pipeline.compose import compose

    student: Any = read_model(folder, compose(["student=sparse"]).student)
    file = STORE / f"{student.fingerprint}-{len(texts)}.npz"
    if not file.exists():
        parts = []
        for start in range(0, len(texts), 1024):
            encoded = student.encode_texts(texts[start : start + 1024], Side.PASSAGE)
            parts.append(flat({name: tensor.numpy() for name, tensor in encoded.items()}))
            print(f"\r  encoded {start + len(parts[-1]['lengths'])} of {len(texts)}", end="", flush=True)
        print()
        lengths = np.concatenate([part["lengths"] for part in parts])
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in ("terms", "weights")}
        np.savez(file, offsets=np.concatenate([[0], np.cumsum(lengths)]), **arrays)
    return dict(np.load(file)), lambda text: {name: part.numpy() for name, part in student.query_terms([text]).items()}


def flat(padded: Mapping[str, np.ndarray]) -> Arrays:
    """Padded representations without their padding."""
    real = np.arange(padded["terms"].shape[1]) < padded["lengths"][:, None]
    return {"terms": padded["terms"][real], "weights": padded["weights"][real], "lengths": padded["lengths"]}


# ---- systems


def of_bm25s(texts: Sequence[str]) -> Search:
    """Its numba backend and its own tokenizer."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    splitter = bm25s.tokenization.Tokenizer(stopwords="english")
    index = bm25s.BM25(backend="numba")
    index.index(splitter.tokenize(list(texts), return_as="tuple", show_progress=False), show_progress=False)

    def search(text: str, k: int) -> Any:
        terms = splitter.tokenize([text], update_vocab=False, return_as="ids", show_progress=False)
        return index.retrieve(terms, k=k, show_progress=False, n_threads=1, backend_selection="numba")

    return search


def of_engine(engine: Any, to_query: ToQuery) -> Search:
    """One of our engines, from text."""
    return lambda text, k: engine.search(to_query(text), k)


def option(name: str) -> dict[str, Any]:
    """The arguments of an engine's option."""
    node: dict[str, Any] = yaml.safe_load((ROOT / "conf" / "engine" / f"{name}.yaml").read_text())
    return {key: value for key, value in node.items() if key not in METADATA | {"_target_"}}


def wrong_results(engine: InvertedIndex, passages: Arrays, queries: Sequence[Arrays], k: int) -> int:
    """Queries whose hits or scores differ, in any bit, from those of scipy's product."""
    size, vocabulary = len(passages["offsets"]) - 1, int(passages["terms"].max()) + 1
    by_passage = sparse.csr_array((passages["weights"], passages["terms"], passages["offsets"]), (size, vocabulary))
    by_term = by_passage.T.tocsr()
    wrong = 0
    for query in queries:
        known = query["terms"][0] < vocabulary
        terms, weights = query["terms"][0][known], query["weights"][0][known]
        row = sparse.csr_array((weights, terms, np.array([0, len(terms)])), (1, vocabulary))
        scores = (row @ by_term).toarray()[0]
        best = np.lexsort((np.arange(size), -scores))[:k]
        best = best[scores[best] > 0]
        hits = engine.search(query, k)
        same = np.array_equal(hits.rows[0, : len(best)], best) and (hits.rows[0, len(best) :] == -1).all()
        wrong += not (same and np.array_equal(hits.scores[0, : len(best)], scores[best]))
    return wrong


def recall(found: Sequence[Hits], exact: Sequence[Hits]) -> float:
    """Share of the exact hits that were found."""
    there = [hits.rows[hits.rows >= 0] for hits in exact]
    both = sum(len(np.intersect1d(rows, hits.rows)) for rows, hits in zip(there, found, strict=True))
    return both / max(1, sum(map(len, there)))


# ---- measuring


def passes(systems: Mapping[str, Search], queries: Sequence[str], k: int, rounds: int) -> dict[str, list[np.ndarray]]:
    """Microseconds of every query, by system and round."""
    draw = np.random.default_rng(k)
    taken: dict[str, list[np.ndarray]] = {name: [] for name in systems}
    for search in systems.values():
        for text in queries[:50]:
            search(text, k)
    for _ in range(rounds):
        for name in draw.permutation(list(systems)).tolist():
            search, times = systems[name], np.empty(len(queries))
            gc.collect()
            for number, text in enumerate(queries):
                start = time.perf_counter()
                search(text, k)
                times[number] = time.perf_counter() - start
            taken[name].append(times * 1e6)
    return taken


def latencies(taken: Mapping[str, list[np.ndarray]], k: int, held: Mapping[str, bool]) -> dict[str, Any]:
    """Percentiles of each system, and ratios to bm25s; those that ``held`` denies have no bar."""
    figures = {}
    for name, rounds in taken.items():
        for percent in (50, 99):
            each = [float(np.percentile(times, percent)) for times in rounds]
            key = f"{name}_k{k}_p{percent}"
            figures[f"{key}_us"] = beside_bar(f"{name}, k={k}, P{percent}, us", statistics.median(each))
            if name != "bm25s":
                theirs = [float(np.percentile(times, percent)) for times in taken["bm25s"]]
                ratios = [one / other for one, other in zip(each, theirs, strict=True)]
                bar = BARS[name] if percent == 99 and held.get(name, True) else None
                figures[f"{key}_against_bm25s"] = beside_bar(
                    f"  against bm25s (goal {GOAL})" if bar else "  against bm25s",
                    statistics.median(ratios),
                    bar,
                    False,
                )
    return figures


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make representations, build, compare, time; print each figure beside its bar."""
    draw = np.random.default_rng(0)
    base, asked = python_docs()
    texts = recombined(base, arguments.passages, draw)
    queries = [asked[row] for row in draw.permutation(len(asked))[: arguments.queries]]
    if arguments.model:
        passages, to_query = of_student(arguments.model, texts)
    else:
        surrogate = Surrogate(texts, draw)
        passages, to_query = surrogate.passages, surrogate.query
    ready = [to_query(text) for text in queries]
    figures = cost(passages, ready)
    started = time.perf_counter()
    engines: dict[str, Any] = {"inverted": InvertedIndex(passages, **option("inverted"))}
    figures["inverted_build_seconds"] = beside_bar("inverted, build, s", time.perf_counter() - started)
    figures["inverted_megabytes"] = beside_bar("inverted, MB", engines["inverted"].size_in_bytes / 1e6)
    wrong = sum(wrong_results(engines["inverted"], passages, ready[:100], k) for k in (10, 100))
    figures["inverted_differs_from_product"] = beside_bar("inverted, queries unlike a product", wrong, 0, False)
    figures |= with_seismic(engines, passages, ready)
    systems = {"bm25s": of_bm25s(texts)} | {name: of_engine(engine, to_query) for name, engine in engines.items()}
    for k in (10, 100):
        taken = passes(systems, queries, k, arguments.rounds)
        figures |= latencies(taken, k, {"seismic": k == 10})
        if "seismic" in engines:
            exact, fast = (
                statistics.median(float(times.mean()) for times in taken[name]) for name in ("inverted", "seismic")
            )
            figures[f"seismic_k{k}_speed_up"] = beside_bar(f"seismic, k={k}, times faster than exact", exact / fast)
    return {"figures": figures}


def cost(passages: Arrays, queries: Sequence[Arrays]) -> dict[str, Any]:
    """FLOPS and lengths, which speed depends on."""
    size = len(passages["offsets"]) - 1
    share = np.bincount(passages["terms"], minlength=1 << 16) / size
    met = np.array([share[query["terms"][0]].sum() for query in queries])
    return {
        "terms_per_passage": beside_bar("terms for each passage", len(passages["terms"]) / size),
        "terms_per_query": beside_bar("terms for each query", statistics.mean(int(q["lengths"][0]) for q in queries)),
        "flops": beside_bar("FLOPS", float(met.mean())),
        "flops_p99": beside_bar("FLOPS of the 99th percentile", float(np.percentile(met, 99))),
    }


def with_seismic(engines: dict[str, Any], passages: Arrays, queries: Sequence[Arrays]) -> dict[str, Any]:
    """Add the engine where it is installed, and what it finds."""
    if importlib.util.find_spec("seismic") is None:
        print("seismic: not installed, left out")
        return {}
    from retrieval_kd.engines.seismic import SeismicIndex

    started = time.perf_counter()
    engine = SeismicIndex(passages, **option("seismic"))
    figures = {"seismic_build_seconds": beside_bar("seismic, build, s", time.perf_counter() - started)}
    for k in (10, 100):
        share = recall(*([each.search(query, k) for query in queries] for each in (engine, engines["inverted"])))
        figures[f"seismic_recall_{k}"] = beside_bar(f"seismic, recall@{k}", share, BARS["recall"] if k == 10 else None)
    engines["seismic"] = engine
    return figures


def main() -> int:
    """Measure, print, keep; 1 where a bar that applies was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="folder of a trained sparse student; without it a surrogate")
    parser.add_argument("--quick", action="store_true", help="fewer passages, queries and rounds; no result file")
    parser.add_argument("--passages", type=int)
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    arguments.passages = arguments.passages or (10_000 if arguments.quick else 100_000)
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 9)
    arguments.queries = 200 if arguments.quick else 1000
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    about = machine("numba", "numpy", "bm25s", "tokenizers", "scipy")
    setting = {
        "passages": arguments.passages,
        "queries": arguments.queries,
        "rounds": arguments.rounds,
        "threads": 1,
        "representations": Path(arguments.model).name if arguments.model else "surrogate",
        "options": {name: option(name) for name in ("inverted", "seismic")},
    }
    result = {"setting": setting, **measure(arguments), "machine": about}
    if not arguments.quick:
        keep("sparse_search", result)
    return int(any(row.get("held") is False for row in result["figures"].values()))


if __name__ == "__main__":
    sys.exit(main())
