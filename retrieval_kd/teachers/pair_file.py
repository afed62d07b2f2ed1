"""Somebody's judged pairs as a judge: a file says which pairs there are, and what was said of them."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from retrieval_kd.contracts import UserError
from retrieval_kd.data.files import file_digest
from retrieval_kd.data.pairs import Pairs


class PairFile:
    """Pairs of a Parquet file, see ``data.pairs``; nothing is drawn and no model is asked."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"teacher.judge.path={path}: there is no such file")
        self.pairs = Pairs.read(self.path)

    @property
    def fingerprint(self) -> str:
        """The file's content."""
        return f"pair_file:{file_digest(self.path)}"

    def of(self, query_ids: Container[str]) -> Pairs:
        """The pairs of some queries; a file may hold those of other splits too."""
        kept = [row for row, query_id in enumerate(self.pairs.query_ids) if query_id in query_ids]
        if not kept:
            raise UserError(f"{self.path}: none of its {len(self.pairs)} pairs is of a query with candidates here")
        return self.pairs.take(kept)
