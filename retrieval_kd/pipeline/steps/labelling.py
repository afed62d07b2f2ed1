"""Label scored candidates: who is a positive and who a negative, by what the teacher said."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from retrieval_kd.contracts import UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.labels import Thresholds
from retrieval_kd.pipeline.steps.mining import CANDIDATES
from retrieval_kd.pipeline.steps.scoring import SCORES

log = logging.getLogger(__name__)


def label(folder: Path, about: str, listed: Path, scored: Path, labels: Thresholds) -> dict[str, Any]:
    """Labelled candidates, the members' raw scores of them, and where the others went."""
    candidates, members = Candidates.read(listed / CANDIDATES), np.load(scored / SCORES)
    labelled, rows, statistics = labels.label(candidates, members)
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
