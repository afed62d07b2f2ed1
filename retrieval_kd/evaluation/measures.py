"""Measures per query, computed by ranx's kernels on lists ordered as trec_eval orders them, so that both agree."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import numpy as np

from retrieval_kd.contracts import UserError
from retrieval_kd.data.runs import Run

Judgements = Mapping[str, Mapping[str, int]]

# The module of ranx, its function for one query, and arguments beyond (judged, ranked, cutoff, least relevance).
# ranx's public functions run the same code in parallel over queries; they take three times as long to compile,
# and its threads do not survive a fork.
KERNELS: dict[str, tuple[str, str, tuple[bool, ...]]] = {
    "ndcg": ("ndcg", "_ndcg", (True,)),  # the gain is the relevance itself, as in trec_eval
    "mrr": ("reciprocal_rank", "_reciprocal_rank", ()),
    "map": ("average_precision", "_average_precision", ()),
    "recall": ("recall", "_recall", ()),
    "precision": ("precision", "_precision", ()),
    "success": ("hit_rate", "_hit_rate", ()),
    "hit_rate": ("hit_rate", "_hit_rate", ()),
    "answers": ("hit_rate", "_hit_rate", ()),  # success on judgements by answers, see ``answers``
}
FEW = 8  # judged passages in a list, up to which each is looked for by itself
ANSWERS = "answers"
EXAMPLES = (
    "ndcg@10",
    "mrr@10",
    "map",
    "map@1000",
    "recall@100",
    "recall@1000",
    "precision@10",
    "success@5",
    "answers@20",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One collection's measures by query, in the order of the judgements."""

    query_ids: tuple[str, ...]
    values: dict[str, np.ndarray]  # by measure, float64 [Q]
    missing: int  # judged queries that the run does not have; they count 0

    def means(self) -> dict[str, float]:
        """Mean over the judged queries, by measure."""
        return {name: float(values.mean()) for name, values in self.values.items()}

    def by_query(self, name: str) -> dict[str, float]:
        """One measure by query id."""
        return dict(zip(self.query_ids, self.values[name].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class _Measure:
    """A parsed name: ``ndcg@10``, ``map``, ``mrr@10-l2`` (relevant from grade 2 on)."""

    kind: str
    cutoff: int  # 0: the whole list
    level: int


def prepare(cache: Path) -> None:
    """Keep what ranx compiles (seconds) in ``cache``, unless NUMBA_CACHE_DIR says where; call before the first measure.

    Without this it lies beside the installed ranx, which is lost with every new environment or container.
    """
    config: Any = import_module("numba").config
    if not config.CACHE_DIR:
        config.CACHE_DIR = str(cache)


def check_measures(names: Sequence[str]) -> None:
    """Refuse an unknown measure; nothing is imported or compiled for this."""
    for name in names:
        _parse(name)


def asks_answers(name: str) -> bool:
    """Whether a measure is of passages that hold an answer, which judgements do not tell."""
    return _parse(name).kind == ANSWERS


def cutoff(name: str) -> int:
    """How deep a measure looks; 0 for the whole list."""
    return _parse(name).cutoff


def measure(run: Run, judgements: Judgements, names: Sequence[str], keep_identical_ids: bool = False) -> Measured:
    """Measure ``run`` on every judged query.

    Args:
        run: Ranked lists; queries without judgements are left out.
        judgements: Relevance by query and passage; 0 and less is not relevant.
        names: ``kind@cutoff`` or ``kind``; ``-l2`` at the end takes grade 2 as the least that is relevant.
        keep_identical_ids: Keep a passage whose id is its query's; BEIR's numbers are without.
    """
    measures = {name: _parse(name) for name in names}
    if not judgements:
        raise UserError("there are no judged queries to measure on")
    computed = {name: _computed(one) for name, one in measures.items()}
    cutoffs = [one.cutoff for one in measures.values()]
    needed = max(cutoffs, default=1) + 1 if all(cutoffs) else None  # one more, lest the query's own id takes a place
    values = {name: np.zeros(len(judgements)) for name in measures}
    for row, (query_id, relevances) in enumerate(judgements.items()):
        if query_id in run:
            passage_ids = run[query_id][0][:needed].tolist()
            judged, ranked = _arrays(relevances, passage_ids, None if keep_identical_ids else query_id)
            if len(ranked):
                for name, compute in computed.items():
                    values[name][row] = compute(judged, ranked)
    missing = sum(query_id not in run for query_id in judgements)
    return Measured(tuple(judgements), values, missing)


def _arrays(
    relevances: Mapping[str, int], passage_ids: list[str], left_out: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Judged [m, 2] (number, relevance), best first, and ranked [n, 2] (number or -1, unused), as ranx wants them."""
    ordered = sorted(relevances, key=relevances.__getitem__, reverse=True)
    numbers = {passage_id: number for number, passage_id in enumerate(ordered)}
    judged = np.array([(number, relevances[passage_id]) for passage_id, number in numbers.items()], dtype=np.int64)
    # Of thousands of passages few are judged; which ones is found without a step of Python for each of the others.
    found = {left_out, *numbers}.intersection(passage_ids)
    if len(found) > FEW:
        places = [(rank, passage_id) for rank, passage_id in enumerate(passage_ids) if passage_id in found]
    else:
        places = [(passage_ids.index(passage_id), passage_id) for passage_id in found if passage_id is not None]
    ranked = np.full((len(passage_ids), 2), -1, dtype=np.int64)
    for rank, passage_id in places:
        ranked[rank, 0] = numbers.get(passage_id, -1)
    if left_out in found:
        ranked = np.delete(ranked, [rank for rank, passage_id in places if passage_id == left_out], axis=0)
    return judged.reshape(-1, 2), ranked


def _computed(one: _Measure) -> Callable[[np.ndarray, np.ndarray], float]:
    """The function of (judged, ranked) behind a measure."""
    module, name, further = KERNELS[one.kind]
    with _bare("ranx", "ranx.metrics"):
        kernel = getattr(import_module(f"ranx.metrics.{module}"), name)
    return lambda judged, ranked: kernel(judged, ranked, one.cutoff, one.level, *further)


@contextmanager
def _bare(*packages: str) -> Iterator[None]:
    """Packages as mere places of their modules; who imports them afterwards gets them whole.

    ranx imports pandas, seaborn and ir_datasets beside its measures, which takes longer than measuring.
    """
    made = [name for name in packages if name not in sys.modules]
    for name in made:
        spec = find_spec(name)
        if spec is None:
            raise UserError(f"measures need {name}, which is not installed: pip install 'ranx>=0.3.21,<0.4'")
        sys.modules[name] = module_from_spec(spec)
    try:
        yield
    finally:
        for name in made:
            sys.modules.pop(name, None)


def _parse(name: str) -> _Measure:
    parts = re.fullmatch(r"([a-z_]+)(?:@([1-9]\d*))?(?:-l([1-9]\d*))?", name)
    if parts is None or parts[1] not in KERNELS or (parts[1] == "ndcg" and parts[3]):
        kind, _, rest = name.lower().partition("@")
        nearest = get_close_matches(kind, KERNELS, 1, 0.5)
        guesses = [f"{nearest[0]}@{rest}" if rest.isdigit() else nearest[0]] if nearest else list(EXAMPLES)
        raise UserError(f"measure {name!r} is not known; did you mean {' or '.join(guesses)}?")
    return _Measure(parts[1], int(parts[2] or 0), int(parts[3] or 1))
