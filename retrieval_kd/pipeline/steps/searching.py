"""Index a collection's texts, encode its passages, and write what engines find as runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_kd.contracts import Side
from retrieval_kd.data.runs import Run

if TYPE_CHECKING:
    from retrieval_kd.contracts import Engine, PassageTexts, Representations, TextEncoder
    from retrieval_kd.data.collections import Collection

log = logging.getLogger(__name__)

FIRST_CHUNK, CHUNK = 2048, 65_536  # passages that are encoded before they are written
CHUNK_BYTES = 1 << 28  # of their representations, where these are large
RUN = "run.trec"


def build_index(folder: Path, collection: Collection, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A BM25 index of the passages."""
    from retrieval_kd.engines.bm25 import BM25

    BM25.build(folder / "index", collection.passages, **settings)
    return {"passages": len(collection.passages), "bytes": folder_size(folder)}


@dataclass(frozen=True)
class Depth:
    """How many passages a run lists; a passage of the query's own id is left out where evaluation ignores it."""

    passages: int
    ignore_identical_ids: bool

    def cut(self, run: Run) -> Run:
        """What is left of a run that was searched one passage deeper."""
        return (run.without_identical_ids() if self.ignore_identical_ids else run).depth(self.passages)


def search_texts(folder: Path, collection: Collection, index: Path, depth: Depth) -> dict[str, Any]:
    """BM25's run over the collection's queries."""
    from retrieval_kd.engines.bm25 import BM25

    started = time.perf_counter()
    hits = BM25(index / "index").search(list(collection.queries.values()), depth.passages + 1)
    seconds = time.perf_counter() - started
    depth.cut(Run.from_hits(list(collection.queries), hits, collection.passages)).write(folder / RUN, "bm25")
    return {"queries": len(collection.queries), "search_seconds": round(seconds, 3)}


def encode_passages(folder: Path, collection: Collection, encoder: TextEncoder) -> dict[str, Any]:
    """Representations of all passages, in chunks, so that memory does not grow with the collection."""
    from retrieval_kd.data.representations import write_representations

    passages = collection.passages
    started = time.perf_counter()
    ids = passages.ids(np.arange(len(passages)))
    chunks = _encoded(passages, encoder)
    write_representations(folder / "passages", ids, chunks, encoder.fingerprint, Side.PASSAGE)
    seconds = time.perf_counter() - started
    return {
        "passages": len(passages),
        "passages_per_second": round(len(passages) / seconds, 1),
        "bytes": folder_size(folder),
    }


def _encoded(passages: PassageTexts, encoder: TextEncoder) -> Iterator[Representations]:
    """Chunks of representations; how large they may be, a first small one tells."""
    start, size = 0, FIRST_CHUNK
    while start < len(passages) or not start:
        rows = np.arange(start, min(start + size, len(passages)))
        found = encoder.encode_texts(passages.texts(rows), Side.PASSAGE)
        yield found
        start += size
        held = sum(value.nbytes for value in found.values()) / max(1, len(rows))
        size = max(1, min(CHUNK, int(CHUNK_BYTES // max(1, held))))


def search_representations(
    folder: Path,
    collection: Collection,
    encoded: Path,
    encoder: TextEncoder,
    engine: Callable[[Mapping[str, np.ndarray]], Engine],
    depth: Depth,
) -> dict[str, Any]:
    """The student's run: encode the queries and ask the engine."""
    from retrieval_kd.data.representations import StoredRepresentations

    started = time.perf_counter()
    queries = encoder.encode_texts(list(collection.queries.values()), Side.QUERY)
    encoded_in = time.perf_counter() - started
    stored = StoredRepresentations.open(encoded / "passages")
    asked = {name: value.numpy() for name, value in queries.items()}
    built = engine(stored.arrays)
    hits = built.search(asked, depth.passages + 1)
    seconds = time.perf_counter() - started
    depth.cut(Run.from_hits(list(collection.queries), hits, collection.passages)).write(folder / RUN, "student")
    return {
        "queries": len(collection.queries),
        "query_encode_seconds": round(encoded_in, 3),
        "search_seconds": round(seconds - encoded_in, 3),
        **({"index_bytes": built.size_in_bytes} if hasattr(built, "size_in_bytes") else {}),
        **(_sparsity(stored.arrays, asked) if "terms" in asked else {}),
        **({} if getattr(built, "exact", True) else {"recall_of_exact": _recall(built, stored.arrays, asked)}),
    }


def _recall(engine: Engine, passages: Mapping[str, np.ndarray], queries: Mapping[str, np.ndarray]) -> float:
    from retrieval_kd.engines.exact import recall_of_exact

    share = recall_of_exact(engine, passages, queries)
    log.info("search: %.4f of the ten best passages of exact search are found", share)
    return round(share, 4)


def _sparsity(passages: Mapping[str, np.ndarray], queries: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What sparse representations cost to search."""
    from retrieval_kd.evaluation.sparsity import measure

    sizes = [int(terms.max()) + 1 for terms in (passages["terms"], queries["terms"]) if terms.size]
    return measure(passages, queries, max(sizes, default=1)).columns()


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
