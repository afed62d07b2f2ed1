"""Make dark passages of mined lists."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_kd.contracts import DARK_ROLES, Passage, PassageTexts, ScoreTeacher, UserError
from retrieval_kd.data.candidates import Candidate, CandidateList, Candidates
from retrieval_kd.data.files import atomic_file
from retrieval_kd.data.made_passages import MADE, texts_beside
from retrieval_kd.data.passages import PassageStore
from retrieval_kd.data.training_set import combine_scores
from retrieval_kd.negatives.dark import DarkPassages, DarkStatistics, Made, outside_band, with_made
from retrieval_kd.pipeline.steps.lists import CANDIDATES, read_lists
from retrieval_kd.pipeline.steps.scoring import member_scores

if TYPE_CHECKING:
    from retrieval_kd.pipeline.entries import Entry

log = logging.getLogger(__name__)

ORIGINS = "made.parquet"

Score = Callable[[Candidates, PassageTexts], np.ndarray]


def darken(folder: Path, entry: Entry, mined: Path, dark: DarkPassages, score: Score | None) -> dict[str, Any]:
    """Mined candidates and what was made of them, the texts of these, and of what each was made."""
    found, passages = read_lists(mined, entry.collection)
    titles = entry.titles(dark.bases(found.lists()))
    statistics, started = DarkStatistics(), time.perf_counter()
    making = _Making(dark.make(found, passages, statistics, titles), statistics)
    PassageStore.build(folder / MADE, making.texts(), titles=False)
    candidates = Candidates.from_lists(making.lists)
    seconds = time.perf_counter() - started
    if score is not None:
        scores = score(candidates, texts_beside(passages, folder))
        candidates = candidates.keep(~outside_band(candidates, scores, statistics))
    candidates.write(folder / CANDIDATES)
    _write_origins(folder / ORIGINS, making.made)
    (folder / "statistics.json").write_text(json.dumps(statistics.as_dict(), indent=1))
    for line in statistics.lines():
        log.info("darken: %s", line)
    made = int(np.isin(candidates.role, DARK_ROLES).sum())
    return {
        "candidates": len(candidates),
        "queries": len(candidates.query_ids),
        "made": made,
        "seconds_per_100k_lists": round(seconds / max(1, statistics.queries) * 100_000, 1),
    }


class _Making:
    """Lists and texts in one pass: the texts are stored as they come."""

    def __init__(self, made_of: Iterable[tuple[CandidateList, Sequence[Made]]], statistics: DarkStatistics) -> None:
        self._made_of = made_of
        self.statistics = statistics
        self.lists: list[tuple[str, list[Candidate]]] = []
        self.made: dict[str, Made] = {}

    def texts(self) -> Iterator[Passage]:
        """Each distinct passage once."""
        for one, made in self._made_of:
            self.lists.append((one.query_id, with_made(one, made)))
            for each in made:
                if each.passage_id not in self.made:
                    self.made[each.passage_id] = each
                    yield Passage(each.passage_id, "", each.text)
        if not self.made:
            raise UserError(
                f"negatives=dark: nothing could be made for {self.statistics.queries:,} queries"
                f" ({'; '.join(self.statistics.lines()[1:])}); negatives=hard would fit"
            )


def dark_scores(teacher: Callable[[], ScoreTeacher], entry: Entry, store: Path) -> Score:
    """The teacher's scores of found and made candidates, for the band."""

    def score(candidates: Candidates, passages: PassageTexts) -> np.ndarray:
        built = teacher()
        members = member_scores(built, store, entry.collection.queries, candidates, passages)
        return combine_scores(candidates, members, built, np.isin(candidates.role, DARK_ROLES))

    return score


def made_of(folder: Path) -> dict[str, str]:
    """The positive of which each passage in a step's folder was made, by their ids; empty where none was made."""
    if not (folder / ORIGINS).exists():
        return {}
    origins = pq.read_table(folder / ORIGINS, columns=["passage_id", "positive"])
    return dict(zip(origins["passage_id"].to_pylist(), origins["positive"].to_pylist(), strict=True))


def _write_origins(path: Path, made: Mapping[str, Made]) -> None:
    """Of what every passage was made, for who wants to know."""
    rows = list(made.values())
    table = pa.table(
        {
            "passage_id": [one.passage_id for one in rows],
            "role": pa.array([one.role.name.lower() for one in rows]).dictionary_encode(),
            "base": [one.base for one in rows],
            "positive": [one.positive for one in rows],
            "share": np.array([one.share for one in rows], np.float32),
        }
    )
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
