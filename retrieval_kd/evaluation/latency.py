"""How long systems take to answer a query from its text: percentiles and throughput, for one client and for several.

Clients are threads of one process, each asking its next query when it has its answer: a service holds one index for
all that ask it, and what they wait for each other, Python's lock included, is part of what they see. Processes would
measure as many services, each with an index of its own, and forking breaks the threads of torch and numba.

Systems take turns by whole passes over the queries, in random order: query by query, whoever comes second finds the
texts in the processor's caches, and one after the other, a machine that slows down is counted against the last.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from threading import Barrier, BrokenBarrierError
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

# From raw text to hits; it has finished when it returns, work on an accelerator included. How many threads its
# libraries use is set before: with several clients, one each is what does not fight for cores.
Answer = Callable[[str], object]


@dataclass(frozen=True)
class Settings:
    """How answers are timed."""

    clients: tuple[int, ...] = (1, 2)  # numbers of clients that ask at once
    passes: int = 5  # timed passes over all queries, for each number of clients
    warm_up: int = 32  # untimed queries of each client before each pass: other systems had the caches meanwhile
    seed: int = 0  # of the orders of queries and systems

    def __post_init__(self) -> None:
        if not self.clients or min(self.clients) < 1 or self.passes < 1 or self.warm_up < 0:
            raise ValueError(f"at least one client and one pass are needed, got {self}")


@dataclass(frozen=True)
class Load:
    """What clients saw who asked at once; milliseconds, over the answers of all passes."""

    clients: int
    p50_ms: float
    p99_ms: float
    mean_ms: float
    slowest_ms: float
    queries_per_second: float  # of all clients together
    p50_ms_by_pass: tuple[float, ...]  # how steady the machine was
    p99_ms_by_pass: tuple[float, ...]


@dataclass(frozen=True)
class Latency:
    """One system's times."""

    name: str
    queries: int
    passes: int
    seed: int
    loads: tuple[Load, ...]  # by number of clients, in the order that was asked for

    def as_json(self) -> dict[str, Any]:
        """Everything, for result files."""
        return asdict(self)

    def columns(self) -> dict[str, float]:
        """What a table shows beside quality; one client's names are plain, others end with their number."""
        found = {}
        for load in self.loads:
            end = "" if load.clients == 1 else f"_{load.clients}_clients"
            found[f"latency_p50_ms{end}"] = round(load.p50_ms, 4)
            found[f"latency_p99_ms{end}"] = round(load.p99_ms, 4)
            found[f"queries_per_second{end}"] = round(load.queries_per_second, 2)
        return found


class Ratio(NamedTuple):
    """How many times another system's, round by round: neighbours in time, so the machine's drift is in neither."""

    median: float
    lowest: float
    highest: float


class _Pass(NamedTuple):
    seconds: np.ndarray  # by answer
    wall: float


def measure(systems: Mapping[str, Answer], texts: Sequence[str], settings: Settings | None = None) -> list[Latency]:
    """Time each system on the same queries, in the order of ``systems``; answers are thrown away."""
    settings = settings or Settings()
    if not systems or not texts:
        raise ValueError(f"{len(systems)} systems and {len(texts)} queries to time")
    generator = np.random.default_rng(settings.seed)
    turns = [(name, clients) for name in systems for clients in settings.clients]
    passes: dict[tuple[str, int], list[_Pass]] = {turn: [] for turn in turns}
    for answer in systems.values():  # what is compiled, read or allocated once
        for text in texts:
            answer(text)
    with _no_collection():
        for _ in range(settings.passes):
            order = [texts[place] for place in generator.permutation(len(texts))]
            for place in generator.permutation(len(turns)):
                name, clients = turns[place]
                gc.collect()  # nobody's pass holds another's garbage
                passes[name, clients].append(_Clients(systems[name], order, clients, settings.warm_up).run())
    return [
        Latency(
            name=name,
            queries=len(texts),
            passes=settings.passes,
            seed=settings.seed,
            loads=tuple(_load(clients, passes[name, clients]) for clients in settings.clients),
        )
        for name in systems
    ]


def ratios(system: Latency, baseline: Latency, clients: int = 1) -> dict[str, Ratio]:
    """P50 and P99 as multiples of a baseline's from the same ``measure``."""
    ours, theirs = (next(load for load in one.loads if load.clients == clients) for one in (system, baseline))
    found = {}
    for name in ("p50", "p99"):
        above, below = (np.array(getattr(load, f"{name}_ms_by_pass")) for load in (ours, theirs))
        each = above / below
        found[name] = Ratio(float(np.median(each)), float(each.min()), float(each.max()))
    return found


class _Clients:
    """Several clients that ask a pass of queries, each as soon as it is free."""

    def __init__(self, answer: Answer, order: Sequence[str], clients: int, warm_up: int) -> None:
        self.answer = answer
        self.waiting = deque(order)
        self.first = order[max(0, len(order) - warm_up) :] if warm_up else ()  # not those that are asked next
        self.ready = Barrier(clients)

    def run(self) -> _Pass:
        """Ask everything; what an answer raises stops all clients."""
        with ThreadPoolExecutor(self.ready.parties, "client") as pool:
            asking = [pool.submit(self._client) for _ in range(self.ready.parties)]
            try:
                failures = [failure for one in asking if (failure := one.exception()) is not None]
            except BaseException:  # an interruption does not wait for the whole pass
                self._stop()
                raise
        # What stopped the others comes first, then that they were stopped.
        for failure in sorted(failures, key=lambda error: isinstance(error, BrokenBarrierError)):
            raise failure
        starts, ends, seconds = zip(*(one.result() for one in asking), strict=True)
        return _Pass(np.concatenate(seconds), max(ends) - min(starts))

    def _client(self) -> tuple[float, float, np.ndarray]:
        """When it began and ended, and what each of its answers took."""
        try:
            for text in self.first:
                self.answer(text)  # in this thread, which may have buffers of its own
            self.ready.wait()
            started = perf_counter()
            seconds = list(self._timed())
            return started, perf_counter(), np.array(seconds)
        except BaseException:
            self._stop()
            raise

    def _timed(self) -> Iterator[float]:
        while True:
            try:
                text = self.waiting.popleft()
            except IndexError:
                return
            asked = perf_counter()
            self.answer(text)
            yield perf_counter() - asked

    def _stop(self) -> None:
        self.waiting.clear()
        self.ready.abort()


def _load(clients: int, passes: Sequence[_Pass]) -> Load:
    milliseconds = 1e3 * np.concatenate([one.seconds for one in passes])
    return Load(
        clients=clients,
        p50_ms=_percentile(milliseconds, 0.5),
        p99_ms=_percentile(milliseconds, 0.99),
        mean_ms=float(milliseconds.mean()),
        slowest_ms=float(milliseconds.max()),
        queries_per_second=len(milliseconds) / sum(one.wall for one in passes),
        p50_ms_by_pass=tuple(_percentile(1e3 * one.seconds, 0.5) for one in passes),
        p99_ms_by_pass=tuple(_percentile(1e3 * one.seconds, 0.99) for one in passes),
    )


def _percentile(values: np.ndarray, share: float) -> float:
    """The smallest value that at least this share of the answers did not exceed: one that a client really saw."""
    return float(np.quantile(values, share, method="inverted_cdf"))


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection but by hand, which then looks only at what was made since."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
