"""Label scored candidates: who is a positive and who a negative, by what the teacher said."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval_kd.contracts import DARK_ROLES, ScoreTeacher, UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.labels import Thresholds
from retrieval_kd.data.training_set import combine_scores
from retrieval_kd.pipeline.steps.darkening import made_of
from retrieval_kd.pipeline.steps.lists import CANDIDATES
from retrieval_kd.pipeline.steps.scoring import SCORES

log = logging.getLogger(__name__)


def label(
    folder: Path, about: str, found: Sequence[Path], labels: Thresholds, teacher: Callable[[], ScoreTeacher]
) -> dict[str, Any]:
    """Labelled candidates, the members' raw scores of them, and where the others went; they were listed, and scored."""
    listed, scored = found
    candidates, members = Candidates.read(listed / CANDIDATES), np.load(scored / SCORES)

    def combine(some: Candidates, raw: np.ndarray) -> np.ndarray:
        return combine_scores(some, raw, teacher(), np.isin(some.role, DARK_ROLES))

    labelled, rows, statistics = labels.label(candidates, members, made_of(listed), combine)
    for line in statistics.lines():
        log.info("label: %s: %s", about, line)
    if not len(labelled):
        raise UserError(
            f"labels: none of {statistics.queries} queries of {about} has a passage above labels.positive="
            f"{labels.positive:g} ({labels.kind}); a lower one, or another teacher, would fit"
        )
    labelled.write(folder / CANDIDATES)
    np.save(folder / SCORES, members[:, rows])
    (folder / "statistics.json").write_text(json.dumps(statistics.as_dict(), indent=1))
    return {"candidates": len(labelled), "queries": len(labelled.query_ids)}
