"""Time how long answers take from a query's text, tokenizing included, one thread for each client."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_kd.contracts import Side, UserError

if TYPE_CHECKING:
    from retrieval_kd.contracts import Engine, TextEncoder
    from retrieval_kd.data.collections import Collection
    from retrieval_kd.evaluation.latency import Answer

    StudentAndEngine = tuple[Callable[[], TextEncoder], Callable[[Mapping[str, np.ndarray]], Engine]]

log = logging.getLogger(__name__)

LATENCY = "latency.json"
PLENTY = 100  # queries, below which the 99th percentile is that of a few


@dataclass(frozen=True)
class Timing:
    """How answers are timed: ``evaluation.latency``."""

    clients: tuple[int, ...] = (1, 2)  # numbers of clients that ask at once
    passes: int = 5  # timed passes over all queries
    queries: int = 1000  # of the split, drawn
    depth: int = 10  # passages that are asked for

    def __post_init__(self) -> None:
        clients = (self.clients,) if isinstance(self.clients, int) else tuple(self.clients)
        object.__setattr__(self, "clients", clients)
        if not self.clients or min(*self.clients, self.passes, self.queries, self.depth) < 1:
            raise UserError("evaluation.latency: clients (a list), passes, queries and depth are at least 1")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Timing:
        """From the config, in which a key that is not known is a mistake."""
        known = [field.name for field in fields(cls)]
        for name in settings.keys() - set(known):
            raise UserError(f"evaluation.latency.{name} is not known; there are {', '.join(known)}")
        return cls(**settings)


def time_answers(
    folder: Path, collection: Collection, timing: Timing, holder: Path, student: StudentAndEngine | None
) -> dict[str, Any]:
    """Percentiles and throughput on some queries of a split.

    Args:
        folder: Where the figures go.
        collection: The split.
        timing: How it is asked.
        holder: The passages as the student made them, or BM25's index.
        student: And the engine that holds its passages; None for BM25.
    """
    from retrieval_kd.evaluation.latency import Settings, measure

    texts = list(collection.queries.values())
    rows = np.random.default_rng(0).permutation(len(texts))[: timing.queries]
    if len(rows) < PLENTY:
        log.warning("latency is measured on %d queries: P99 is that of the slowest of them", len(rows))
    answer = (
        _ask_bm25(holder, timing.depth)
        if student is None
        else _ask_student(holder, student[0](), student[1], timing.depth)
    )
    settings = Settings(timing.clients, passes=timing.passes)
    with _one_thread():
        found = measure({"system": answer}, [texts[row] for row in rows], settings)[0]
    (folder / LATENCY).write_text(json.dumps(found.as_json(), indent=1))
    return {"latency": found.columns()}


def _ask_student(
    encoded: Path, encoder: TextEncoder, engine: Callable[[Mapping[str, np.ndarray]], Engine], depth: int
) -> Answer:
    from retrieval_kd.data.representations import StoredRepresentations

    built = engine(StoredRepresentations.open(encoded / "passages").arrays)

    def answer(text: str) -> object:
        query = encoder.encode_texts([text], Side.QUERY)
        return built.search({name: value.numpy() for name, value in query.items()}, depth)

    return answer


def _ask_bm25(index: Path, depth: int) -> Answer:
    from retrieval_kd.engines.bm25 import BM25

    engine = BM25(index / "index")
    return lambda text: engine.search([text], depth)


@contextmanager
def _one_thread() -> Iterator[None]:
    """What several clients fight for are cores."""
    torch, faiss = sys.modules.get("torch"), sys.modules.get("faiss")
    before = None if torch is None else torch.get_num_threads()
    before_faiss = None if faiss is None else faiss.omp_get_max_threads()
    if torch is not None:
        torch.set_num_threads(1)
    if faiss is not None:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)
        if faiss is not None:
            faiss.omp_set_num_threads(before_faiss)
