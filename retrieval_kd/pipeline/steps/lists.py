"""Candidates as a step left them, with the texts of all passages that they name, found and made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_kd.contracts import PassageTexts
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.made_passages import texts_beside

if TYPE_CHECKING:
    from retrieval_kd.data.collections import Collection

CANDIDATES = "candidates.parquet"


def read_lists(folder: Path, collection: Collection) -> tuple[Candidates, PassageTexts]:
    """The lists in a step's folder, and where the texts of their ids are looked up."""
    return Candidates.read(folder / CANDIDATES), texts_beside(collection.passages, folder)
