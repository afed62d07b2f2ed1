"""How a run's measures are printed."""

from __future__ import annotations

import json
from pathlib import Path


def print_measures(folder: Path) -> None:
    """A line per collection from the folder's metrics.json; nothing if it has none."""
    path = folder / "metrics.json"
    if not path.is_file():
        return
    collections = json.loads(path.read_text(encoding="utf-8")).get("collections", {})
    for name, result in collections.items():
        measures = "  ".join(f"{measure} {value:.4f}" for measure, value in result["measures"].items())
        print(f"{name}, {result['queries']:,} queries: {measures}")
