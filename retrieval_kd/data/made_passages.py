"""Passages that were made, beside those that were found: a store of their own, and one way to look texts of both up.

Made passages have ids ``dark:<digest>`` of their text, hidden parts included (``data.masks``). They are candidates and
nothing else: no index, run or encoding of a collection knows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval_kd.contracts import PassageTexts
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.passages import PassageStore

PREFIX = "dark:"
MADE = "made"  # the folder of a step in which a store of made passages lies


def made_id(text: str) -> str:
    """The id of a made passage: equal for equal texts."""
    return PREFIX + text_digest(text)


class FoundAndMade:
    """Found and made passages as one (``contracts.PassageTexts``): rows of made ones follow those of found ones."""

    def __init__(self, found: PassageTexts, made: PassageTexts) -> None:
        self.found = found
        self.made = made
        self.path = made.path

    def __len__(self) -> int:
        return len(self.found) + len(self.made)

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """int64 [N] rows; -1 for an unknown id."""
        rows = self.found.rows(ids)
        absent = np.flatnonzero(rows < 0)
        if len(absent):
            made = self.made.rows([ids[place] for place in absent.tolist()])
            rows[absent] = np.where(made < 0, -1, made + len(self.found))
        return rows

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Ids of rows."""
        return self._strings("ids", rows)

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Texts of rows."""
        return self._strings("texts", rows)

    def keys(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64 [N] hashes of the ids."""
        rows = np.asarray(rows, np.int64)
        keys = np.empty(len(rows), np.int64)
        is_made = rows >= len(self.found)
        keys[~is_made] = self.found.keys(rows[~is_made])
        keys[is_made] = self.made.keys(rows[is_made] - len(self.found))
        return keys

    def _strings(self, name: str, rows: Sequence[int] | np.ndarray) -> list[str]:
        rows = np.asarray(rows, np.int64)
        is_made = rows >= len(self.found)
        found = iter(getattr(self.found, name)(rows[~is_made]))
        made = iter(getattr(self.made, name)(rows[is_made] - len(self.found)))
        return [next(made) if one else next(found) for one in is_made.tolist()]


def texts_beside(found: PassageTexts, folder: Path) -> PassageTexts:
    """All passages that the candidates in a step's folder name: those of the collection, and the folder's made ones."""
    made = folder / MADE
    return FoundAndMade(found, PassageStore(made)) if made.exists() else found
